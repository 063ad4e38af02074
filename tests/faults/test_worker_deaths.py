"""Workers that are stopped or killed in the middle of a batch: nothing is lost."""

from __future__ import annotations

import collections
import signal
from collections.abc import Callable
from pathlib import Path

import nexusq_sdk
from tests.conftest import WorkerProcess, eventually

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
