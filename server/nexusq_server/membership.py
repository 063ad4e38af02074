"""Takes a worker that has died out of its consumer groups, so that its partitions go to others at once.

Kafka itself would wait for the end of its session, ten seconds. Called by the lease's keeper, which knows of the death.
"""

from __future__ import annotations

from collections.abc import Mapping

from kafka import KafkaAdminClient
from kafka.admin import MemberToRemove
from kafka.errors import KafkaError

from nexusq_server.settings import Settings

#: Who can't reach Kafka in this time leaves it to the session.
BOOTSTRAP_MS = 3000
REQUEST_MS = 3000


def leave_for(settings: Settings, members: Mapping[str, str]) -> str | None:
    """Take a member out of each group (group → member id); give what went wrong, None if nothing did."""
    try:
        admin = KafkaAdminClient(
            **settings.kafka_client, bootstrap_timeout_ms=BOOTSTRAP_MS, request_timeout_ms=REQUEST_MS
        )
        try:
            for group, member in members.items():
                admin.remove_group_members(group, [MemberToRemove(member_id=member, reason="the worker has died")])
        finally:
            admin.close()
    except KafkaError as error:
        return f"{type(error).__name__}: {error}"
    return None
