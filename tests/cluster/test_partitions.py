"""How tasks are dealt out to a topic's partitions: all workers have their part of what is submitted."""

from __future__ import annotations

import collections

import httpx
import pytest
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType

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


def test_a_topic_that_takes_only_small_batches_gets_small_ones(
    client: nexusq_sdk.Client, cluster: Addresses, queue: str
) -> None:
    # given a topic that takes no batch of 20 kB
    admin = KafkaAdminClient(bootstrap_servers=[cluster.kafka])
    resource = ConfigResource(ConfigResourceType.TOPIC, topic(queue), configs={"max.message.bytes": "20000"})
    admin.alter_configs([resource])
    admin.close()

    # when a batch is submitted of which each partition gets 50 kB
    client.submit_batch("ECHO", ["x" * 1000] * 400, queue=queue)

    # then it has all of it, sooner or later
    assert sum(ends(cluster, topic(queue)).values()) >= 400
