"""Redis cut off, killed, and away for long: tasks wait for it, and none is lost or forgotten."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import redis

import nexusq_sdk
from nexusq_server.local.cluster import free_ports
from tests.conftest import eventually
from tests.faults.parts import (
    SHORT,
    Breakable,
    Crew,
    Ledger,
    all_is_committed,
    assert_answers,
    kill,
)


def all_completed_once(batch: nexusq_sdk.Batch, ledger: Ledger, count: int) -> None:
    """Assert that a batch has ended, that its counters say so, and that each of its tasks ran once."""
    info = batch.info()
    assert {"COMPLETED": count} == {status: number for status, number in batch.counts().items() if number}
    assert info.finished_at is not None
    assert {str(index): 1 for index in range(count)} == ledger.count()


@contextlib.contextmanager
def connections_are_cut(parts: Breakable) -> Iterator[None]:
    """Cut off all of Redis's clients, again and again."""
    over = threading.Event()

    def cut() -> None:
        while not over.wait(0.3):
            with contextlib.suppress(redis.RedisError):
                parts.redis_client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    thread = threading.Thread(target=cut)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_connections_that_are_cut_in_mid_batch_neither_lose_nor_repeat_anything(
    parts: Breakable, hands: Crew, lane: str, ledger: Ledger
) -> None:
    # given a worker in the midst of a batch
    [port] = free_ports(1)
    hands.start(lane, **SHORT, NEXUSQ_HEALTH_PORT=str(port))
    batch = parts.client.submit_batch("TRACE", ledger.rows(800, 0.03), queue=lane)
    eventually(lambda: ledger.has(20))

    # when Redis's connections are cut several times a second
    with connections_are_cut(parts):
        eventually(lambda: ledger.has(500), 60)
    batch.wait(timeout=40)

    # then each task has run once, and the worker is ready
    all_completed_once(batch, ledger, 800)
    eventually(lambda: assert_answers(f"http://127.0.0.1:{port}/readyz", 200))

    # and the API, whose connection was cut off while it was idle, takes another one
    for _ in range(3):
        assert_answers(f"{parts.addresses.url}/batches/{batch.id}", 200)
        parts.redis_client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    eventually(all_is_committed(parts.addresses.kafka, lane))


def test_a_redis_that_is_killed_in_mid_batch_loses_nothing(
    parts: Breakable, hands: Crew, lane: str, ledger: Ledger
) -> None:
    # given two workers in the midst of a batch
    hands.start(lane, count=2, **SHORT)
    batch = parts.client.submit_batch("TRACE", ledger.rows(600, 0.1), queue=lane)
    eventually(lambda: ledger.has(100))

    # when Redis is killed, and started on what its disk has, twice
    for ran in (100, 300):
        eventually(lambda ran=ran: ledger.has(ran), 40)  # type: ignore[misc]
        kill(parts.redis)
        parts.redis.start()

    # then the batch is finished and its counters say so; what was claimed when Redis died was not run again
    batch.wait(timeout=60)
    all_completed_once(batch, ledger, 600)
    eventually(all_is_committed(parts.addresses.kafka, lane))


def test_while_redis_is_away_for_long_nothing_is_ready_and_afterwards_nothing_has_run_twice(
    parts: Breakable, hands: Crew, lane: str, ledger: Ledger
) -> None:
    # given two workers that run tasks, and more that wait
    ports = free_ports(2)
    running = [hands.start(lane, registered=False, **SHORT, NEXUSQ_HEALTH_PORT=str(port))[0] for port in ports]
    healths = [f"http://127.0.0.1:{port}" for port in ports]
    for url in healths:
        eventually(lambda url=url: assert_answers(f"{url}/readyz", 200), 60)  # type: ignore[misc]
    batch = parts.client.submit_batch("TRACE", ledger.rows(32, 4), queue=lane)
    eventually(lambda: ledger.has(8))

    # when Redis is away for longer than their leases
    kill(parts.redis)
    for url in healths:
        eventually(lambda url=url: assert_answers(f"{url}/readyz", 503))  # type: ignore[misc]
        assert_answers(f"{url}/healthz", 200)
    parts.is_ready(503)
    started = ledger.count().total()
    eventually(lambda: ledger.has(started, "end"), 20)

    # then tasks are accepted all the same, and nothing is started that can't be claimed
    late = parts.client.submit("TRACE", {"path": str(ledger.path), "line": "late"}, queue=lane)
    assert started == ledger.count().total()

    # when it is back; then all are ready again, and each task has run once
    parts.redis.start()
    batch.wait(timeout=60)
    late.wait(timeout=30)
    assert {"late": 1} | {str(index): 1 for index in range(32)} == ledger.count()
    assert {1} == set(batch.frame()["attempt"])
    assert 32 == batch.counts()["COMPLETED"]
    for url in healths:
        eventually(lambda url=url: assert_answers(f"{url}/readyz", 200))  # type: ignore[misc]
    eventually(lambda: parts.is_ready(200))
    assert all(hand.process.poll() is None for hand in running)
