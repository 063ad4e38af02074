"""What a queue's workers have before them: the number that autoscalers ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx

import nexusq_sdk
from tests.conftest import WorkerProcess, eventually


def backlog(http: httpx.Client, queue: str, **asked: int) -> dict[str, Any]:
    answer: dict[str, Any] = http.get(f"/queues/{queue}/backlog", params=asked).raise_for_status().json()
    assert answer["backlog"] == answer["ready"] + answer["dueSoon"] + answer["inProgress"]
    return answer


def test_what_is_ready_due_soon_and_in_progress_counts_and_what_is_due_late_does_not(
    http: httpx.Client, client: nexusq_sdk.Client, queue: str, start_worker: Callable[..., WorkerProcess]
) -> None:
    # given a worker with two places, which has seen what is to wait for its time
    start_worker(queue, NEXUSQ_CONCURRENCY="2")
    client.submit_batch("ECHO", [1] * 3, queue=queue, delay=28)
    client.submit_batch("ECHO", [1] * 4, queue=queue, delay=600)

    def seen() -> None:
        assert (0, 7) == tuple(backlog(http, queue, dueWithinSeconds=3600)[name] for name in ("ready", "dueSoon"))

    eventually(seen)

    # and both places taken, and tasks behind them
    client.submit_batch("SLEEP", [{"seconds": 30}] * 2, queue=queue, priority="high")

    def both_run() -> None:
        assert 2 == backlog(http, queue)["inProgress"]

    eventually(both_run)
    client.submit_batch("ECHO", [1] * 5, queue=queue, priority="low")

    # when it is asked; then all count but what is due in ten minutes, unless that is asked for
    def counted() -> None:
        now = backlog(http, queue)
        assert (5, 3, 2, 1) == (now["ready"], now["dueSoon"], now["inProgress"], now["workers"])
        assert 4 + now["backlog"] == backlog(http, queue, dueWithinSeconds=3600)["backlog"]

    eventually(counted)


def test_a_long_task_whose_record_is_committed_still_counts(
    http: httpx.Client, client: nexusq_sdk.Client, queue: str, start_worker: Callable[..., WorkerProcess]
) -> None:
    # given a worker that lets commits pass what takes longer than a second
    start_worker(queue, NEXUSQ_PARK_AFTER="1s")
    task = client.submit("SLEEP", {"seconds": 8}, queue=queue)

    # when its record is committed: Kafka's lag knows nothing of it any more
    def parked() -> None:
        lag = [lane["lag"] for lane in http.get("/queues").json()["queues"] if lane["queue"] == queue]
        assert [0, 0, 0] == lag
        # then it is still somebody's work
        assert (1, 0, 1) == tuple(backlog(http, queue)[name] for name in ("backlog", "ready", "inProgress"))

    eventually(parked)

    # until it has ended
    task.wait(timeout=30)

    def nothing_left() -> None:
        assert 0 == backlog(http, queue)["backlog"]

    eventually(nothing_left)


def test_a_queue_that_nobody_has_used_is_not_there_and_a_name_that_is_none_is_refused(http: httpx.Client) -> None:
    unknown, wrong = http.get("/queues/nobodys/backlog"), http.get("/queues/NOBODYS/backlog")

    assert (404, "urn:nexusq:problem:queue-not-found") == (unknown.status_code, unknown.json()["type"])
    assert "default" in unknown.json()["detail"]
    assert 422 == wrong.status_code
    assert "expected a queue to be a name such as 'reports'" in wrong.text
    late = http.get("/queues/default/backlog", params={"dueWithinSeconds": -1})
    assert 422 == late.status_code
    assert "expected dueWithinSeconds to be from 0 to 86400, got -1" in late.text
