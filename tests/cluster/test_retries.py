"""Which failed tasks are tried again, how often and when, as anyone sees it who asks for the task."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

import nexusq_sdk
from tests.asking import StartWorker, ended, has_status, send, submit, view
from tests.conftest import eventually

QUICK = {"initialSeconds": 0.01, "capSeconds": 0.01}


def attempts(task: dict[str, Any]) -> list[int]:
    return [entry["attempt"] for entry in task.get("history", [])]


def test_a_task_that_fails_is_tried_again_until_it_succeeds(http: httpx.Client) -> None:
    # given a task that succeeds at its third attempt
    task_id = submit(http, "FLAKY", {"until": 3}, maxAttempts=5, backoff=QUICK)

    # when it has ended
    task = ended(http, task_id)

    # then its handler was told the attempt, and those that failed are its history
    assert ("COMPLETED", 3, 3) == (task["status"], task["result"], task["attempt"])
    assert [1, 2] == attempts(task)
    assert ["not at attempt 1", "not at attempt 2"] == [entry["message"] for entry in task["history"]]
    assert {"ValueError"} == {entry["type"] for entry in task["history"]}
    assert all(entry["worker"] for entry in task["history"])
    assert "error" not in task


def test_a_task_fails_for_good_after_max_attempts_and_says_all_of_them(http: httpx.Client) -> None:
    task = ended(http, submit(http, "FLAKY", {"until": 10}, maxAttempts=3, backoff=QUICK))

    assert ("FAILED", 3) == (task["status"], task["attempt"])
    assert "not at attempt 3" == task["error"]["message"]
    assert [1, 2, 3] == attempts(task)


def test_a_task_that_nobody_gave_more_attempts_fails_at_its_first(http: httpx.Client) -> None:
    task = ended(http, submit(http, "FLAKY", {"until": 2}))

    assert ("FAILED", 1) == (task["status"], task["attempt"])
    assert [1] == attempts(task)


def test_before_another_attempt_the_task_waits_as_scheduled_and_says_until_when(http: httpx.Client) -> None:
    # given a task whose handler asks for another attempt in an hour
    task_id = submit(http, "ASKING", {"until": 2, "delay": 3600})

    # when it has failed once
    eventually(has_status(http, task_id, "SCHEDULED"))

    # then it says when it goes on, and why it waits
    task = view(http, task_id)
    due, failed_at = datetime.fromisoformat(task["dueAt"]), task["history"][0]["finishedUs"] / 1e6
    assert abs(due.timestamp() - failed_at - 3600) < 1
    assert "Retry" == task["error"]["type"].rpartition(".")[2]
    assert 1 == task["attempt"]


def test_another_attempt_does_not_start_before_the_wait_that_its_handler_asked_for_is_over(
    http: httpx.Client,
) -> None:
    task = ended(http, submit(http, "ASKING", {"until": 3, "delay": 0.4}))

    # ten attempts go without saying for a handler that asks
    assert ("COMPLETED", 3) == (task["status"], task["result"])
    first, second = (timedelta(microseconds=entry["finishedUs"]) for entry in task["history"])
    started = datetime.fromisoformat(task["startedAt"]).timestamp()
    assert second - first >= timedelta(seconds=0.4)
    assert started - second.total_seconds() >= 0.4


def test_the_backoff_between_attempts_grows_at_random_up_to_its_cap(http: httpx.Client) -> None:
    # given tasks whose waits are at most 0.4, 0.8 and 0.8 s
    backoff = {"initialSeconds": 0.4, "capSeconds": 0.8}
    names = [submit(http, "FLAKY", {"until": 9}, maxAttempts=4, backoff=backoff) for _ in range(30)]

    # when they have failed for good
    tasks = [ended(http, name) for name in names]

    # then their waits differ, add up to about half of the longest, and no one was as quick as without a wait
    spans = [(task["history"][-1]["finishedUs"] - task["history"][0]["finishedUs"]) / 1e6 for task in tasks]
    assert {("FAILED", 4)} == {(task["status"], task["attempt"]) for task in tasks}
    assert max(spans) - min(spans) > 0.3
    assert 0.5 < sum(spans) / len(spans)
    assert max(spans) < 2.0 + 10


@pytest.mark.parametrize(
    ("error", "tries", "why"),
    [
        ("IndexError", 3, "a LookupError, which the type's retry_on names"),
        ("KeyError", 1, "no_retry_on names it, though it is a LookupError"),
        ("ValueError", 1, "retry_on does not name it"),
    ],
)
def test_a_types_own_rules_say_what_is_tried_again(http: httpx.Client, error: str, tries: int, why: str) -> None:
    task = ended(http, submit(http, "PICKY", {"error": error}))

    assert ("FAILED", tries) == (task["status"], task["attempt"]), why
    assert error == task["error"]["type"]


def test_what_a_submit_says_goes_before_what_the_type_says(http: httpx.Client) -> None:
    # the type says three attempts
    assert 2 == ended(http, submit(http, "PICKY", {"error": "IndexError"}, maxAttempts=2))["attempt"]
    assert 5 == ended(http, submit(http, "PICKY", {"error": "IndexError"}, maxAttempts=5))["attempt"]


def test_a_handler_that_asks_gets_no_more_attempts_than_were_submitted(http: httpx.Client) -> None:
    task = ended(http, submit(http, "ASKING", {"until": 9, "delay": 0.01}, maxAttempts=2))

    assert ("FAILED", 2) == (task["status"], task["attempt"])


def test_a_payload_that_does_not_fit_is_not_tried_again(http: httpx.Client, producer: Any) -> None:
    # given a record that nobody checked, with attempts to spare
    task_id = send(
        producer,
        "task-queue",
        taskType="FLAKY",
        payload={"until": "soon"},
        options={"maxAttempts": 5, "backoff": QUICK},
    )

    eventually(lambda: _there(http, task_id))
    task = ended(http, task_id)

    assert ("FAILED", 1, "InvalidPayload") == (task["status"], task["attempt"], task["error"]["type"])


def _there(http: httpx.Client, task_id: str) -> None:
    assert 200 == http.get(f"/tasks/{task_id}").status_code


def test_a_batch_of_tasks_that_fail_at_first_ends_with_all_of_them_completed(client: nexusq_sdk.Client) -> None:
    # given 500 tasks that each fail once
    batch = client.submit_batch("FLAKY", [{"until": 2}] * 500, max_attempts=2, backoff=0.2)

    # when all have ended
    batch.wait(timeout=60)

    # then the counters say so, and each took two attempts
    assert {"COMPLETED": 500} == {status: count for status, count in batch.counts().items() if count}
    assert [2] * 500 == list(batch.results())


def test_the_servers_settings_say_how_often_where_nobody_else_does(
    http: httpx.Client, queue: str, start_worker: StartWorker
) -> None:
    start_worker(queue, NEXUSQ_MAX_ATTEMPTS="2", NEXUSQ_BACKOFF="10ms")

    task = ended(http, submit(http, "FLAKY", {"until": 9}, queue=queue))

    assert ("FAILED", 2) == (task["status"], task["attempt"])
