"""Shares partitions out to a queue's workers, topic by topic. Called by the leader's client within a rebalance.

kafka-python's assignor evens out the sum over all topics: a worker that joins may be given nothing but partitions of
the `low` priority, and has no work although others have more than enough.
"""

from __future__ import annotations

from typing import Any

from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment


class TopicByTopicAssignor(CooperativeStickyAssignor):  # type: ignore[misc]
    """The same cooperative, sticky sharing, for each topic by itself. It keeps the name: it is the leader's choice."""

    def __init__(self) -> None:
        super().__init__()
        self._topic = ""  # the one that is shared out now

    def assign(self, cluster: Any, members: Any) -> dict[str, ConsumerProtocolAssignment]:
        """Give each member its partitions of every topic."""
        shares: dict[str, list[tuple[str, list[int]]]] = {member.member_id: [] for member in members}
        for self._topic in sorted({topic for member in members for topic in member.metadata.topics}):
            for member_id, share in super().assign(cluster, members).items():
                shares[member_id] += share.assigned_partitions
        return {
            member_id: ConsumerProtocolAssignment(self.version, assigned, b"") for member_id, assigned in shares.items()
        }

    def parse_member_metadata(self, metadata: Any) -> Any:
        """Give what a member has and wants of the topic."""
        parsed = super().parse_member_metadata(metadata)
        return parsed._replace(
            partitions=[partition for partition in parsed.partitions if partition.topic == self._topic],
            subscription=[topic for topic in parsed.subscription if topic == self._topic],
        )
