"""What finished work leaves behind goes away by itself, and nobody waits for that."""

from __future__ import annotations

import itertools
import time

import httpx
import redis
from kafka import KafkaProducer

import nexusq_sdk
from nexusq_sdk.protocol import ids
from tests.asking import StartWorker, ended, send, submit
from tests.conftest import eventually

#: What is there as long as anything is used; each holds entries that go away by themselves.
SHARED = {
    "nexusq:recent",
    "nexusq:workers",
    "nexusq:types",
    "nexusq:dead",
    "nexusq:due",
    "nexusq:schedules",
    "nexusq:schedule-due",
    "nexusq:schedule-last",
}


def without_an_end(client: redis.Redis, *names: str) -> list[str]:
    """Give keys that have to do with these ids and live for ever."""
    return [key for key in client.scan_iter("nexusq:*", count=5000) if mentions(key, names) and client.ttl(key) == -1]


def mentions(key: str, names: tuple[str, ...]) -> bool:
    return key not in SHARED and any(name in key for name in names)


def test_every_key_of_work_that_has_ended_has_an_end(
    client: nexusq_sdk.Client,
    http: httpx.Client,
    producer: KafkaProducer,
    redis_client: redis.Redis,
    queue: str,
    start_worker: StartWorker,
) -> None:
    # given tasks that completed, failed, were tried again, cancelled, requeued, and a batch of each
    worker = start_worker(queue)
    quick = {"maxAttempts": 2, "backoff": {"initialSeconds": 0.01}}
    names = [
        submit(http, "ECHO", 1, queue=queue),
        submit(http, "ECHO", 1, queue=queue, delaySeconds=0.2),
        submit(http, "FLAKY", {"until": 2}, queue=queue, **quick),
        submit(http, "FLAKY", {"until": 9}, queue=queue, **quick),
        submit(http, "NO_SUCH", 1, queue=queue, allowUnknown=True),
    ]
    cancelled = submit(http, "ECHO", 1, queue=queue, delaySeconds=3600)
    http.post(f"/tasks/{cancelled}/cancel")
    requeued = submit(http, "FLAKY", {"until": 2}, queue=queue)
    ended(http, requeued)
    http.post("/dead-letters/requeue", json={"taskIds": [requeued]})
    late = send(producer, f"task-queue.{queue}", taskType="ECHO", payload=2)
    batches = [
        client.submit_batch("ECHO", range(100), queue=queue),
        client.submit_batch("FLAKY", [{"until": 2}] * 50, queue=queue),
        client.submit_batch("ECHO", range(100), queue=queue, delay=3600).cancel(),
        client.submit_batch("ECHO", [], queue=queue),
    ]
    for batch in batches:
        batch.wait(timeout=30)
    assert 50 == batches[1].retry_failed()
    batches[1].wait(timeout=30)
    for name in names:
        ended(http, name)
    eventually(lambda: completed(http, late))
    eventually(lambda: completed(http, requeued))

    # when the worker has left as well
    worker.kill()

    # then no key of theirs lives for ever
    everything = (*names, cancelled, requeued, late, *(batch.id for batch in batches), f"-{worker.process.pid}-")

    def nothing_is_left() -> None:
        assert [] == without_an_end(redis_client, *everything)

    eventually(nothing_is_left)
    assert any(mentions(key, everything) for key in redis_client.scan_iter("nexusq:*", count=5000))


def completed(http: httpx.Client, task_id: str) -> None:
    assert "COMPLETED" == http.get(f"/tasks/{task_id}").json().get("status")


def test_a_task_that_waits_or_is_taken_back_does_not_expire(
    client: nexusq_sdk.Client, http: httpx.Client, redis_client: redis.Redis
) -> None:
    # given a failed task of a batch, of which both would expire
    batch = client.submit_batch("FAIL", [{"message": "no"}])
    batch.wait(timeout=30)
    assert redis_client.ttl(f"nexusq:batch:{batch.id}") > 0

    # when it is taken back and cancelled before it can run, or has not been yet
    waiting = submit(http, "ECHO", 1, delaySeconds=3600)
    assert -1 == redis_client.ttl(f"nexusq:task:{waiting}")
    assert 200 == http.post(f"/tasks/{waiting}/cancel").status_code
    assert redis_client.ttl(f"nexusq:task:{waiting}") > 0
    assert 200 == http.post(f"/tasks/{waiting}/retry").status_code

    # then it lives until it has ended again
    eventually(lambda: completed(http, waiting))
    assert redis_client.ttl(f"nexusq:task:{waiting}") > 0
    assert redis_client.ttl(f"nexusq:gone:{waiting}") > redis_client.ttl(f"nexusq:task:{waiting}")


def test_a_state_is_kept_as_long_as_the_submit_says_and_is_then_known_as_expired(
    client: nexusq_sdk.Client, http: httpx.Client
) -> None:
    # given a task and a batch whose states are kept for a second
    task_id = submit(http, "ECHO", 1, resultTtlSeconds=1)
    batch = client.submit_batch("ECHO", range(5), result_ttl=1)
    batch.wait(timeout=30)
    assert 200 == http.get(f"/batches/{batch.id}").status_code

    # then they are gone soon, and nobody is told that they never were
    def gone() -> None:
        for name in (task_id, f"{batch.id}-0"):
            assert 410 == http.get(f"/tasks/{name}").status_code

    eventually(gone)
    assert 404 == http.get(f"/tasks/{ids.new_id()}").status_code
    assert 5 == http.get(f"/batches/{batch.id}").json()["counts"]["COMPLETED"]


def test_a_dead_letter_is_kept_longer_than_a_result(http: httpx.Client, redis_client: redis.Redis) -> None:
    failed = submit(http, "FAIL", {"message": "no"}, resultTtlSeconds=1)
    ended(http, failed)

    assert redis_client.ttl(f"nexusq:task:{failed}") > 86400


def test_a_large_batch_expires_without_holding_anything_up(
    client: nexusq_sdk.Client, http: httpx.Client, redis_client: redis.Redis
) -> None:
    # given a batch of 20,000 whose states are kept for a second
    batch = client.submit_batch("ECHO", range(20_000), result_ttl=1)
    batch.wait(timeout=60)

    # when they go, and Redis and the API are asked meanwhile
    slowest = 0.0
    for number in itertools.count():
        began = time.monotonic()
        redis_client.ping()
        slowest = max(slowest, time.monotonic() - began)
        if number % 50 == 0:
            sample = [f"nexusq:task:{batch.id}-{row}" for row in (*range(0, 20_000, 500), 19_999)]
            if not redis_client.exists(*sample):
                break
        assert number < 1_000_000

    # then no answer took long
    assert slowest < 0.5
    assert 410 == http.get(f"/tasks/{batch.id}-19999").status_code
    assert 20_000 == http.get(f"/batches/{batch.id}").json()["counts"]["COMPLETED"]
