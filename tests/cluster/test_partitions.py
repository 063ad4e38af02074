"""How tasks are dealt out to a topic's partitions: all workers have their part of what is submitted."""

from __future__ import annotations

import collections
from concurrent.futures import ThreadPoolExecutor

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


def post(http: httpx.Client, queue: str, size: int) -> int:
    """Post a task with a payload of so many bytes; give the answer's status."""
    task = {"taskType": "ECHO", "payload": "x" * size, "options": {"queue": queue}}
    return http.post("/tasks", json=task).status_code


def take_no_more_than(size: int, http: httpx.Client, cluster: Addresses, queue: str) -> None:
    """Let a queue's topic refuse larger batches; wait until it does."""
    admin = KafkaAdminClient(bootstrap_servers=[cluster.kafka])
    resource = ConfigResource(ConfigResourceType.TOPIC, topic(queue), configs={"max.message.bytes": str(size)})
    admin.alter_configs([resource])
    admin.close()

    def refuses() -> None:
        assert 413 == post(http, queue, size)

    eventually(refuses)


def test_a_topic_that_takes_only_small_batches_gets_small_ones(
    client: nexusq_sdk.Client, http: httpx.Client, cluster: Addresses, queue: str
) -> None:
    take_no_more_than(20_000, http, cluster, queue)
    before = sum(ends(cluster, topic(queue)).values())

    # when a batch is submitted of which each partition gets 50 kB
    client.submit_batch("ECHO", ["x" * 1000] * 400, queue=queue)

    # then it has all of it, each task once
    assert before + 400 == sum(ends(cluster, topic(queue)).values())


def test_a_task_that_kafka_refuses_disturbs_no_other(http: httpx.Client, cluster: Addresses, queue: str) -> None:
    take_no_more_than(20_000, http, cluster, queue)

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda number: post(http, queue, 10 if number % 10 else 30_000), range(400)))

    assert [202 if number % 10 else 413 for number in range(400)] == answers


def test_a_row_that_kafka_takes_no_more_is_named(
    client: nexusq_sdk.Client, http: httpx.Client, cluster: Addresses, queue: str
) -> None:
    take_no_more_than(20_000, http, cluster, queue)

    with pytest.raises(nexusq_sdk.Refused, match=rf"-7 is a record of 30\d\d\d bytes.*'{topic(queue)}'") as refused:
        client.submit_batch("ECHO", ["x" * (30_000 if row == 7 else 10) for row in range(20)], queue=queue)

    assert "max.message.bytes" in str(refused.value)
