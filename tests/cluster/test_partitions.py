"""How a batch is dealt out in Kafka: to all partitions, so that every worker has its part."""

from __future__ import annotations

import pytest
from kafka import KafkaConsumer, TopicPartition

import nexusq_sdk
from nexusq_server.topics import topic
from tests.conftest import Addresses


@pytest.mark.parametrize("sizes", [[800], [4] * 200], ids=["one batch", "many small batches"])
def test_every_partition_gets_the_same_number_of_tasks(
    client: nexusq_sdk.Client, cluster: Addresses, queue: str, sizes: list[int]
) -> None:
    # given a queue that nobody serves
    for size in sizes:
        client.submit_batch("ECHO", range(size), queue=queue)

    # when Kafka is asked; then its partitions have as many records each
    with_all = KafkaConsumer(bootstrap_servers=cluster.kafka)
    parts = [TopicPartition(topic(queue), number) for number in with_all.partitions_for_topic(topic(queue))]
    ends = with_all.end_offsets(parts)
    with_all.close()
    assert {100} == set(ends.values()), ends
    assert 8 == len(parts)
