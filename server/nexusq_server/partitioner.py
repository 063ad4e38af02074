"""Deals records out to a topic's partitions in turn. Called by the producer, with each record.

kafka-python's own looks for the partitions that have a leader with each record and draws one of them: a seventh of the
time of a submit. A batch is dealt out evenly here, so that all workers have their part of it.
"""

from __future__ import annotations

import random
from typing import Any

from kafka.cluster import ClusterMetadata
from kafka.partitioner import Partitioner

#: Records of a topic until it is looked again which of its partitions have a leader.
LOOK_AFTER = 64


class InTurn(Partitioner):  # type: ignore[misc]
    """The turns of all topics. One thread at a time."""

    def __init__(self) -> None:
        self._turn: dict[str, int] = {}
        self._partitions: dict[str, list[int]] = {}

    def partition(self, topic: str, *record: Any) -> int:
        """Give the partition of the next record; of those that have a leader, if any has.

        `record` is its key and value, each as it is and as bytes, then what is known of the cluster.
        """
        cluster: ClusterMetadata = record[-1]
        turn = self._turn.get(topic)
        if turn is None:
            turn = random.randrange(2**20) * LOOK_AFTER  # noqa: S311 - where many producers begin, none is preferred
        if turn % LOOK_AFTER == 0:
            found = cluster.available_partitions_for_topic(topic) or cluster.partitions_for_topic(topic)
            self._partitions[topic] = sorted(found)
        self._turn[topic] = turn + 1
        partitions = self._partitions[topic]
        return partitions[turn % len(partitions)]

    def on_new_batch(self, topic: str, *_: Any) -> None:
        """Take the turn back: kafka-python asks again for a record for which it opens a batch.

        It means those that stick to a partition for a batch. Here, every other partition would never have its turn.
        """
        self._turn[topic] -= 1
