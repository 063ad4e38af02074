"""Tasks that take longer than commits may wait: they hold back neither the commit nor memory, and are not lost."""

from __future__ import annotations

import secrets

import pytest
import redis
from kafka import TopicPartition

import nexusq_sdk
from nexusq_sdk.protocol.redis_layout import worker_key
from nexusq_server.settings import Settings
from nexusq_server.topics import ensure_topics, topic
from tests.conftest import Addresses, eventually
from tests.faults.parts import SHORT, Crew, Ledger, all_is_committed, uncommitted


@pytest.fixture
def narrow_queue(settings: Settings) -> str:
    """Name a queue whose topics have one partition."""
    name = f"n{secrets.token_hex(5)}"
    ensure_topics(settings.model_copy(update={"partitions": 1}), [name])
    return name


def test_a_long_task_is_parked_and_produced_again_when_its_worker_dies(
    client: nexusq_sdk.Client,
    cluster: Addresses,
    redis_client: redis.Redis,
    queue: str,
    crew: Crew,
    ledger: Ledger,
) -> None:
    # given a task of 20 s in a worker that lets commits wait for two
    [victim] = crew.start(queue, **SHORT, NEXUSQ_PARK_AFTER="2s")
    task = client.submit("TRACE", ledger.rows(1, 20)[0], queue=queue)
    eventually(lambda: ledger.has(1))

    # when it has run for longer than that; then its record is behind the committed offset
    eventually(all_is_committed(cluster.kafka, queue), 15)
    assert "IN_PROGRESS" == task.status
    assert {task.id} == redis_client.smembers(f"{worker_key(victim.id)}:parked")

    # when its worker is killed: Kafka will not give the task to anybody again
    victim.kill()
    [other] = crew.start(queue, **SHORT, NEXUSQ_PARK_AFTER="2s")

    # then it is produced again, and runs elsewhere as another attempt
    eventually(lambda: ledger.has(1, pid=other.pid))
    task.wait(timeout=40)
    assert ("COMPLETED", 2) == (task.status, task.info().attempt)
    assert other.pid == task.result()
    eventually(all_is_committed(cluster.kafka, queue))
    eventually(lambda: no_keys(redis_client, f"{worker_key('*')}:parked", victim.id, other.id))


def no_keys(redis_client: redis.Redis, pattern: str, *names: str) -> None:
    assert not [key for key in redis_client.keys(pattern) if any(name in key for name in names)]


def test_thousands_of_records_behind_one_slow_task_do_not_pile_up(
    client: nexusq_sdk.Client, cluster: Addresses, narrow_queue: str, crew: Crew, ledger: Ledger
) -> None:
    # given one partition with a slow task first, and a worker that is to park after a gap, not after a time
    [hand] = crew.start(narrow_queue, NEXUSQ_PARK_GAP="100", NEXUSQ_PARK_AFTER="10m", NEXUSQ_CONCURRENCY="2")
    slow = client.submit("TRACE", ledger.rows(1, 20)[0], queue=narrow_queue)
    eventually(lambda: ledger.has(1))

    # when thousands of others end behind it
    batch = client.submit_batch("ECHO", [{"n": number} for number in range(3000)], queue=narrow_queue)
    batch.wait(timeout=15)

    # then the commit has gone past all of them while it still runs: nothing of them is kept in the worker's books
    eventually(lambda: few_left(cluster.kafka, narrow_queue), 10)
    assert "IN_PROGRESS" == slow.status

    # and a stop within the grace loses nothing of it
    hand.process.terminate()
    slow.wait(timeout=30)
    assert hand.pid == slow.result()
    assert 0 == hand.process.wait(30)
    assert 1 == ledger.count()["0"]


def few_left(kafka: str, queue: str) -> None:
    assert uncommitted(kafka, queue).get(TopicPartition(topic(queue), 0), 0) <= 1
