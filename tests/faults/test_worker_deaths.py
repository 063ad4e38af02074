"""Workers that are stopped or killed in the middle of a batch: nothing is lost."""

from __future__ import annotations

import collections
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

import nexusq_sdk
from nexusq_sdk.protocol.redis_layout import task_key, worker_key
from tests.conftest import WorkerProcess, eventually
from tests.faults.parts import SHORT, Crew, Hand, Ledger

StartWorker = Callable[..., WorkerProcess]


def submit(client: nexusq_sdk.Client, queue: str, ledger: Path, count: int, seconds: float) -> nexusq_sdk.Batch:
    ledger.touch()
    rows = [{"path": str(ledger), "line": str(index), "seconds": seconds} for index in range(count)]
    return client.submit_batch("LEDGER", rows, queue=queue)


def runs(ledger: Path) -> collections.Counter[str]:
    return collections.Counter(ledger.read_text().split())


def some_have_run(ledger: Path, count: int) -> Callable[[], None]:
    def check() -> None:
        assert len(runs(ledger)) >= count

    return check


def has_run_for(redis_client: redis.Redis, seconds: int) -> Callable[[], None]:
    def check() -> None:
        assert redis_client.info("server")["uptime_in_seconds"] > seconds

    return check


def test_a_worker_stopped_and_started_in_mid_batch_loses_nothing_and_runs_nothing_twice(
    client: nexusq_sdk.Client, queue: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    # given a batch in the middle of which its worker is asked to stop
    ledger = tmp_path / "ledger"
    worker = start_worker(queue)
    batch = submit(client, queue, ledger, 400, 0.05)
    eventually(some_have_run(ledger, 40))
    assert 0 == worker.kill(signal.SIGTERM)
    assert len(runs(ledger)) < 400

    # when another one is started
    start_worker(queue)
    batch.wait(timeout=60)

    # then each task has run exactly once
    assert {str(index): 1 for index in range(400)} == runs(ledger)
    assert 400 == batch.counts()["COMPLETED"]


def test_a_killed_workers_tasks_run_elsewhere_within_fifteen_seconds(
    client: nexusq_sdk.Client, queue: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    # given a worker that is killed while it runs eight tasks of a second each
    ledger = tmp_path / "ledger"
    start_worker(queue)
    victim = start_worker(queue)
    batch = submit(client, queue, ledger, 200, 0.25)
    eventually(some_have_run(ledger, 30))
    victim.kill()

    # when the rest of the batch is waited for: 200 tasks take one worker seven seconds
    batch.wait(timeout=7 + 15)

    # then all have run, and only those that were in flight at the kill may have run again
    counted = runs(ledger)
    assert {str(index) for index in range(200)} == set(counted)
    assert 200 == batch.counts()["COMPLETED"]
    assert sum(counted.values()) - 200 <= 8


def test_only_tasks_that_had_started_are_charged_an_attempt_when_their_worker_is_killed(
    client: nexusq_sdk.Client, redis_client: redis.Redis, queue: str, crew: Crew, ledger: Ledger, tmp_path: Path
) -> None:
    # given a worker that has claimed tasks, the first of which lets none of the others start
    calm = tmp_path / "calm"
    [victim] = crew.start(queue, NEXUSQ_CONCURRENCY="8")
    row = {"path": str(ledger.path), "seconds": 60, "unless": str(calm)}
    batch = client.submit_batch("HOLD_GIL", [row | {"line": str(index)} for index in range(8)], queue=queue)

    def claimed() -> set[str]:
        ids = [f"{batch.id}-{index}" for index in range(8)]
        return {name for name in ids if redis_client.hget(task_key(name), "worker") == victim.id}

    def some_are_claimed() -> None:
        assert claimed()

    eventually(some_are_claimed)
    held = claimed()

    # when it is killed, and another one is there
    calm.touch()
    victim.kill()
    eventually(lambda: has_no_lease(redis_client, victim), 3)  # its keeper has seen it, long before the lease's end
    crew.start(queue)
    batch.wait(timeout=40)

    # then those that its keeper saw running were charged an attempt, and no other
    started = {str(name) for name in redis_client.smembers(f"{worker_key(victim.id)}:running")}
    assert started
    attempts = {name: client.task(name).info().attempt for name in held}
    assert {name: 2 if name in started else 1 for name in held} == attempts
    assert 8 == batch.counts()["COMPLETED"]


def has_no_lease(redis_client: redis.Redis, hand: Hand) -> None:
    assert not redis_client.exists(worker_key(hand.id))


def test_a_worker_killed_together_with_its_keeper_is_taken_over_within_fifteen_seconds(
    client: nexusq_sdk.Client, queue: str, crew: Crew, ledger: Ledger
) -> None:
    # given two workers at the default settings, one of which runs a task
    hands = {hand.pid: hand for hand in crew.start(queue, count=2)}
    task = client.submit("TRACE", ledger.rows(1, 1.5)[0], queue=queue)
    eventually(lambda: ledger.has(1))
    victim = hands[ledger.runs()[0].pid]

    # when it is killed in the middle, and nobody is left to say so
    victim.keeper().kill()
    victim.kill()
    killed = time.monotonic()

    # then the other one starts its task once the lease has ended
    eventually(lambda: ledger.has(2))
    assert time.monotonic() - killed < 15
    task.wait(timeout=10)
    assert "COMPLETED" == task.status


def test_a_killed_workers_tasks_do_not_wait_for_its_lease_or_its_kafka_session_to_end(
    client: nexusq_sdk.Client, queue: str, crew: Crew, ledger: Ledger, redis_client: redis.Redis
) -> None:
    # given two workers whose leases and sessions last 40 s, one of which runs a task; and a Redis that has not just
    # been started, which would be a reason to wait
    hands = {hand.pid: hand for hand in crew.start(queue, count=2, NEXUSQ_LEASE="40s")}
    eventually(has_run_for(redis_client, 40), 60)
    task = client.submit("TRACE", ledger.rows(1, 1.5)[0], queue=queue)
    eventually(lambda: ledger.has(1))
    victim = hands[ledger.runs()[0].pid]

    # when it is killed in the middle
    victim.kill()

    # then its task runs elsewhere long before: whoever kept its lease has said that it is dead
    task.wait(timeout=20)
    assert "COMPLETED" == task.status
    assert 2 == ledger.count()["0"]


def test_a_worker_that_leaves_processes_behind_is_seen_to_be_dead_all_the_same(
    client: nexusq_sdk.Client, queue: str, crew: Crew, ledger: Ledger
) -> None:
    # given a handler that has forked: the new process holds all that its worker had open
    hands = {hand.pid: hand for hand in crew.start(queue, count=2, **SHORT)}
    row = {"path": str(ledger.path), "line": "0", "seconds": 1.5, "child_seconds": 25}
    task = client.submit("FORK", row, queue=queue)
    eventually(lambda: ledger.has(1))

    # when the worker is killed; then its task runs elsewhere, while that process still lives
    hands[ledger.runs()[0].pid].kill()
    task.wait(timeout=15)
    assert "COMPLETED" == task.status
    assert 2 == task.info().attempt


def test_a_task_that_kills_its_workers_is_run_alone_and_then_dead_lettered(
    client: nexusq_sdk.Client, queue: str, crew: Crew, ledger: Ledger
) -> None:
    # given a worker in the midst of other work, and a task that kills whatever runs it
    innocents = client.submit_batch("TRACE", ledger.rows(30, 0.3), queue=queue, allow_unknown=True)
    poison = client.submit("POISON", {"path": str(ledger.path), "line": "poison"}, queue=queue, allow_unknown=True)

    # when as many workers as it may kill have come and gone
    for _ in range(2):
        [victim] = crew.start(queue, registered=False, NEXUSQ_ALONE_AFTER="2")
        assert -signal.SIGKILL == victim.process.wait(60)
    [survivor] = crew.start(queue, NEXUSQ_ALONE_AFTER="2")

    # then the next one runs it in a process of its own, which alone dies: it has failed for good, and says why
    with pytest.raises(nexusq_sdk.TaskFailed, match="WorkerLost"):
        poison.result(timeout=30)
    innocents.wait(timeout=30)
    assert 30 == innocents.counts()["COMPLETED"]
    assert survivor.process.poll() is None
    letters = client.dead_letters(task_type="POISON")
    [reason] = letters[letters["task_id"] == poison.id]["reason"]
    assert "WorkerLost" in reason
    starts = [run for run in ledger.runs() if run.line == "poison"]
    assert [1, 2, 3] == [run.attempt for run in starts]
    assert survivor.pid not in {run.pid for run in starts}
