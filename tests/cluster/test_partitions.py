"""How tasks are dealt out to a topic's partitions: all workers have their part of what is submitted."""

from __future__ import annotations

import collections

import httpx
import pytest
from kafka import KafkaConsumer, TopicPartition

import nexusq_sdk
from nexusq_server.topics import topic
from tests import asking
from tests.conftest import Addresses, eventually

PARTITIONS = 8


def ends(cluster: Addresses, name: str) -> dict[int, int]:
    """Give how many records each partition has."""
    consumer = KafkaConsumer(bootstrap_servers=[cluster.kafka], metrics_enabled=False)
    try:
        parts = [TopicPartition(name, number) for number in consumer.partitions_for_topic(name)]
        return {part.partition: end for part, end in consumer.end_offsets(parts).items()}
    finally:
        consumer.close()


@pytest.mark.parametrize("count", [PARTITIONS, 1000])
def test_a_batch_is_dealt_out_to_all_partitions_evenly(
    client: nexusq_sdk.Client, cluster: Addresses, queue: str, count: int
) -> None:
    client.submit_batch("ECHO", range(count), queue=queue)

    assert dict.fromkeys(range(PARTITIONS), count // PARTITIONS) == ends(cluster, topic(queue))


def test_tasks_one_by_one_are_dealt_out_to_all_partitions_evenly(
    http: httpx.Client, cluster: Addresses, queue: str
) -> None:
    for number in range(2 * PARTITIONS):
        asking.submit(http, "ECHO", number, queue=queue)

    def are_there() -> None:
        assert {2: PARTITIONS} == collections.Counter(ends(cluster, topic(queue)).values())

    eventually(are_there)
