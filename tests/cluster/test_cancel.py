"""Cancelling tasks and batches, wherever they stand."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

import nexusq_sdk
from nexusq_sdk.protocol import ids
from tests.asking import StartWorker, ended, has_status, submit, view
from tests.conftest import eventually


def cancel(http: httpx.Client, task_id: str) -> str:
    answer = http.post(f"/tasks/{task_id}/cancel")
    assert 200 == answer.status_code, answer.text
    return str(answer.json()["status"])


def has_noted(path: Path, line: str) -> None:
    assert path.exists()
    assert line in path.read_text().splitlines()


def test_a_scheduled_task_is_cancelled_at_once_and_never_runs(http: httpx.Client, tmp_path: Path) -> None:
    # given a task that would run in a second
    ledger = tmp_path / "ledger"
    ledger.touch()
    task_id = submit(http, "LEDGER", {"path": str(ledger), "line": "ran"}, delaySeconds=1)

    # when it is cancelled, and one that is due later has run
    assert "CANCELLED" == cancel(http, task_id)
    later = submit(http, "ECHO", 1, delaySeconds=1.5)
    assert "COMPLETED" == ended(http, later)["status"]

    # then it has not
    task = view(http, task_id)
    assert ("CANCELLED", "") == (task["status"], ledger.read_text())
    assert "finishedAt" in task
    assert "startedAt" not in task


def test_a_task_that_backs_off_is_cancelled_at_once(http: httpx.Client) -> None:
    task_id = submit(http, "ASKING", {"until": 5, "delay": 3600})
    eventually(has_status(http, task_id, "SCHEDULED"))

    assert "CANCELLED" == cancel(http, task_id)
    assert 1 == len(view(http, task_id)["history"])


def test_a_queued_task_is_cancelled_at_once_and_passed_over(
    http: httpx.Client, queue: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    # given a task in a queue that nobody serves yet
    ledger = tmp_path / "ledger"
    ledger.touch()
    task_id = submit(http, "LEDGER", {"path": str(ledger), "line": "ran"}, queue=queue)

    # when it is cancelled, and a worker comes
    assert "CANCELLED" == cancel(http, task_id)
    start_worker(queue)
    assert "COMPLETED" == ended(http, submit(http, "ECHO", 1, queue=queue))["status"]

    # then it has not run
    assert ("CANCELLED", "") == (view(http, task_id)["status"], ledger.read_text())


@pytest.mark.parametrize(("task_type", "left"), [("LINGER", "left cancelled"), ("SPIN", None), ("DOZE", "left")])
def test_a_running_task_is_stopped_in_a_thread_a_process_and_on_the_event_loop(
    http: httpx.Client, tmp_path: Path, task_type: str, left: str | None
) -> None:
    # given a handler that runs on and on, of a task with attempts to spare
    notes = tmp_path / "notes"
    task_id = submit(http, task_type, {"path": str(notes)}, maxAttempts=5)
    eventually(lambda: has_noted(notes, "started"))

    # when its task is cancelled
    assert "IN_PROGRESS" == cancel(http, task_id)

    # then it ends soon, is not tried again, and what stood in finally has run where anything can
    task = ended(http, task_id)
    assert ("CANCELLED", 1) == (task["status"], task["attempt"])
    if left is not None:
        eventually(lambda: has_noted(notes, left))
    assert 1 == notes.read_text().count("started")


def test_whoever_waits_for_a_cancelled_task_is_told(client: nexusq_sdk.Client) -> None:
    task = client.submit("ECHO", 1, delay=3600)

    assert task.cancel()

    with pytest.raises(nexusq_sdk.TaskCancelled):
        task.result(timeout=5)


def test_what_has_ended_is_left_as_it_is(http: httpx.Client, client: nexusq_sdk.Client) -> None:
    done, failed = submit(http, "ECHO", 1), submit(http, "FAIL", {"message": "no"})
    for task_id in (done, failed):
        ended(http, task_id)

    assert ("COMPLETED", "FAILED") == (cancel(http, done), cancel(http, failed))
    assert 1 == view(http, done)["result"]
    assert not client.task(done).cancel()


def test_what_never_was_can_not_be_cancelled(http: httpx.Client) -> None:
    assert 404 == http.post(f"/tasks/{ids.new_id()}/cancel").status_code
    assert 404 == http.post("/tasks/x/cancel").status_code
    assert 404 == http.post(f"/batches/{ids.new_id()}/cancel").status_code
    assert 422 == http.post(f"/tasks/{ids.new_id()}/cancel", params={"hard": "true"}).status_code


def test_a_batchs_running_tasks_are_stopped_as_well(
    client: nexusq_sdk.Client, queue: str, start_worker: StartWorker
) -> None:
    # given a batch of which four run and four wait
    start_worker(queue, NEXUSQ_CONCURRENCY="4")
    batch = client.submit_batch("SLEEP", [{"seconds": 600}] * 8, queue=queue)

    def four_run() -> None:
        assert 4 == batch.counts()["IN_PROGRESS"]

    eventually(four_run)

    # when it is cancelled
    batch.cancel()

    # then all of it ends
    batch.wait(timeout=20)
    assert 8 == batch.counts()["CANCELLED"]


def test_rows_that_come_into_a_cancelled_batch_are_cancelled_too(http: httpx.Client) -> None:
    # given a batch that is cancelled while its rows still come
    batch = ids.new_id()

    def chunk(first: int, last: bool) -> None:
        body = {"taskType": "ECHO", "payloads": [1, 2], "batchId": batch, "firstIndex": first, "last": last}
        body["options"] = {"delaySeconds": 0.5}
        assert 202 == http.post("/batches", json=body).status_code

    chunk(0, False)
    assert 200 == http.post(f"/batches/{batch}/cancel").status_code

    # when the rest of it comes
    chunk(2, True)

    # then that is cancelled as well, and the batch ends
    def all_cancelled() -> None:
        seen = http.get(f"/batches/{batch}").json()
        assert (4, True) == (seen["counts"]["CANCELLED"], seen["closed"]), seen
        assert seen["finishedAt"]

    eventually(all_cancelled)


def test_a_cancelled_batch_can_be_cancelled_again_and_its_handle_says_how_it_stands(client: nexusq_sdk.Client) -> None:
    batch = client.submit_batch("ECHO", range(10), delay=3600)

    for _ in range(2):
        assert 10 == batch.cancel().counts()["CANCELLED"]

    assert batch.done()
    assert {"CANCELLED"} == set(batch.frame()["status"])
    with pytest.raises(nexusq_sdk.TaskCancelled):
        next(batch.results(timeout=5))
