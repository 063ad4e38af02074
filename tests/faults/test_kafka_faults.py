"""Kafka killed, away, and an API that dies in mid-submit: what was accepted runs, what was not is said in time."""

from __future__ import annotations

import signal
import threading
import time

import httpx
import psutil

import nexusq_sdk
from nexusq_sdk.protocol.ids import new_id
from tests.conftest import eventually
from tests.faults.parts import SHORT, Breakable, Crew, Ledger, all_is_committed, assert_answers, kill


def test_a_kafka_that_is_killed_in_mid_batch_loses_nothing(
    parts: Breakable, hands: Crew, lane: str, ledger: Ledger
) -> None:
    # given two workers in the midst of a batch
    running = hands.start(lane, count=2, **SHORT)
    batch = parts.client.submit_batch("TRACE", ledger.rows(600, 0.1), queue=lane)
    eventually(lambda: ledger.has(100))

    # when Kafka is killed, and started on what its disk has
    kill(parts.kafka)
    parts.kafka.start()
    eventually(lambda: parts.is_ready(200))
    batch.wait(timeout=60)

    # then each task has run once, the offsets reach the end, and the workers are those that were there
    assert {str(index): 1 for index in range(600)} == ledger.count()
    assert 600 == batch.counts()["COMPLETED"]
    eventually(all_is_committed(parts.addresses.kafka, lane), 40)
    assert all(hand.process.poll() is None for hand in running)


def test_workers_outlive_that_redis_is_restarted_while_kafka_is_away(
    parts: Breakable, hands: Crew, lane: str, ledger: Ledger
) -> None:
    # given a worker that runs tasks, and more that wait
    [hand] = hands.start(lane, **SHORT)
    batch = parts.client.submit_batch("TRACE", ledger.rows(60, 0.5), queue=lane)
    eventually(lambda: ledger.has(16))

    # when Kafka is killed, and Redis is restarted: everything uncommitted is to be read again, which it can't be yet
    kill(parts.kafka)
    kill(parts.redis)
    parts.redis.start()
    eventually(lambda: said(hand.log.read_text(), "Redis was restarted"))

    # when Kafka is back; then the worker has not died of it, and nothing is lost
    parts.kafka.start()
    eventually(lambda: parts.is_ready(200))
    batch.wait(timeout=60)
    assert {str(index): 1 for index in range(60)} == ledger.count()
    eventually(all_is_committed(parts.addresses.kafka, lane), 40)
    assert hand.process.poll() is None


def said(log: str, words: str) -> None:
    assert words in log, log


def test_a_submit_without_kafka_is_refused_in_time_and_succeeds_with_the_same_ids_later(
    parts: Breakable, hands: Crew, lane: str, ledger: Ledger
) -> None:
    # given a worker, and Kafka away
    hands.start(lane, **SHORT)
    kill(parts.kafka)

    # when a task is submitted; then it is refused within the time that was set (2 s), and told when to come again
    body = {"taskType": "TRACE", "payload": ledger.rows(1)[0], "taskId": new_id(), "options": {"queue": lane}}
    began = time.monotonic()
    answer = httpx.post(f"{parts.addresses.url}/tasks", json=body, timeout=20, trust_env=False)
    assert time.monotonic() - began < 5
    assert 503 == answer.status_code
    assert int(answer.headers["Retry-After"]) >= 1
    assert "come again with the same ids" in answer.json()["detail"]

    # when the SDK submits a batch meanwhile, and Kafka comes back
    batches = []
    submitting = threading.Thread(
        target=lambda: batches.append(parts.client.submit_batch("TRACE", ledger.rows(50), queue=lane))
    )
    submitting.start()
    parts.kafka.start()
    submitting.join(60)

    # then the SDK's retries have brought it in, once; so does the first one's retry by hand
    batches[0].wait(timeout=30)
    assert httpx.post(f"{parts.addresses.url}/tasks", json=body, timeout=20, trust_env=False).status_code == 202
    parts.client.task(body["taskId"]).wait(timeout=20)
    assert 50 == batches[0].counts()["COMPLETED"]
    runs = ledger.count()
    assert {str(index): 2 if index == 0 else 1 for index in range(50)} == runs


def test_an_api_that_is_killed_in_mid_submit_loses_and_doubles_nothing(
    parts: Breakable, hands: Crew, lane: str, ledger: Ledger
) -> None:
    # given a client that submits 60,000 tasks in a dozen chunks
    [hand] = hands.start(lane, **SHORT)
    count = 60_000
    batches = []
    rows = [{"n": number} for number in range(count)]
    submitting = threading.Thread(target=lambda: batches.append(parts.client.submit_batch("ECHO", rows, queue=lane)))
    keys = len(parts.redis_client.keys("nexusq:task:*"))
    submitting.start()

    def some_are_there() -> None:
        assert parts.redis_client.dbsize() > keys + 5_000

    eventually(some_are_there)

    # when the API is killed in the midst of it, and started again
    kill(parts.api)
    assert submitting.is_alive()
    parts.api.start()
    submitting.join(60)

    # then all tasks are there, once each
    batches[0].wait(timeout=60)
    assert count == len(batches[0]) == batches[0].counts()["COMPLETED"]
    frame = batches[0].frame()
    assert list(range(count)) == [result["n"] for result in frame["result"]]
    eventually(all_is_committed(parts.addresses.kafka, lane))
    assert hand.process.poll() is None
    assert_answers(f"{parts.addresses.url}/healthz", 200)


def test_an_api_that_is_killed_before_it_ever_answered_a_client_is_waited_for(
    parts: Breakable, hands: Crew, lane: str, ledger: Ledger
) -> None:
    # given a client's very first call, which the API takes and does not answer
    hands.start(lane, **SHORT)
    parts.api.process.send_signal(signal.SIGSTOP)
    port = int(parts.addresses.url.rpartition(":")[2])
    tasks = []

    def submit() -> None:
        with nexusq_sdk.Client(parts.addresses.url) as client:
            tasks.append(client.submit("TRACE", ledger.rows(1)[0], queue=lane))

    with_api = [entry for entry in psutil.Process().net_connections("tcp") if entry.raddr and entry.raddr.port == port]
    submitting = threading.Thread(target=submit)
    submitting.start()

    def it_is_connected() -> None:
        now = [entry for entry in psutil.Process().net_connections("tcp") if entry.raddr and entry.raddr.port == port]
        assert len(now) > len(with_api)

    eventually(it_is_connected)

    # when the API is killed, and started again
    kill(parts.api)
    parts.api.start()
    submitting.join(60)

    # then the call has come through
    parts.client.task(tasks[0].id).wait(timeout=30)
    assert {"0": 1} == ledger.count()
