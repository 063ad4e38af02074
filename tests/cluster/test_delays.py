"""Tasks with a time before which they must not start."""

from __future__ import annotations

import signal
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import httpx
import pytest
import redis

import nexusq_sdk
from nexusq_sdk.protocol import ids
from tests.asking import StartWorker, ended, has_status, send, submit, view
from tests.conftest import eventually


def started(task: dict[str, str]) -> datetime:
    return datetime.fromisoformat(task["startedAt"])


def test_a_delayed_task_is_scheduled_says_when_it_is_due_and_starts_after_that(http: httpx.Client) -> None:
    # given a task that is to wait for a second
    before = datetime.now(UTC)
    answer = http.post("/tasks", json={"taskType": "ECHO", "payload": 5, "options": {"delaySeconds": 1.0}})
    assert "SCHEDULED" == answer.json()["status"]
    task_id = answer.json()["taskId"]

    # when it is looked at meanwhile
    waiting = view(http, task_id)

    # then it says when it is due, and it starts then and not before
    due = datetime.fromisoformat(waiting["dueAt"])
    assert "SCHEDULED" == waiting["status"]
    assert timedelta(seconds=1) <= due - before < timedelta(seconds=5)
    task = ended(http, task_id)
    assert ("COMPLETED", 5, 1) == (task["status"], task["result"], task["attempt"])
    assert started(task) >= due
    assert "dueAt" not in task


def test_an_eta_is_kept_whatever_time_zone_it_is_said_in(http: httpx.Client) -> None:
    # given a time that is a second ahead, as Tokyo has it
    tokyo = datetime.now(UTC).astimezone(ZoneInfo("Asia/Tokyo")) + timedelta(seconds=1)

    task_id = submit(http, "ECHO", 1, eta=tokyo.isoformat())

    assert abs(datetime.fromisoformat(view(http, task_id)["dueAt"]) - tokyo) < timedelta(milliseconds=1)
    assert started(ended(http, task_id)) >= tokyo


def test_an_eta_that_is_past_is_now(http: httpx.Client) -> None:
    answer = http.post("/tasks", json={"taskType": "ECHO", "payload": 1, "options": {"eta": "2001-01-01T00:00:00Z"}})

    assert "QUEUED" == answer.json()["status"]
    assert "COMPLETED" == ended(http, answer.json()["taskId"])["status"]


def test_a_delay_on_another_clients_record_counts_from_when_kafka_got_it(
    http: httpx.Client, producer: object, redis_client: redis.Redis
) -> None:
    # given two records that another client wrote, one of them with a long delay
    long = send(producer, "task-queue", taskType="ECHO", payload=1, options={"delaySeconds": 3600})
    short = send(producer, "task-queue", taskType="ECHO", payload=2, options={"delaySeconds": 0.3})

    # then one waits for an hour in the due set, and the other one runs soon
    eventually(lambda: _scheduled(http, long))
    due = datetime.fromisoformat(view(http, long)["dueAt"])
    assert timedelta(minutes=59) < due - datetime.now(UTC) <= timedelta(hours=1)
    assert redis_client.zscore("nexusq:due", long) == pytest.approx(due.timestamp() * 1e6, abs=2000)
    assert 2 == ended(http, short)["result"]


def _scheduled(http: httpx.Client, task_id: str) -> None:
    assert "SCHEDULED" == http.get(f"/tasks/{task_id}").json().get("status")


def test_a_delayed_task_outlives_its_worker(http: httpx.Client, queue: str, start_worker: StartWorker) -> None:
    # given a delayed task whose record a worker has taken out of Kafka
    worker = start_worker(queue)
    task_id = submit(http, "ECHO", "later", queue=queue, delaySeconds=4)
    due = datetime.fromisoformat(view(http, task_id)["dueAt"])
    ended(http, submit(http, "ECHO", "now", queue=queue))

    # when the worker is stopped, and another one started
    assert 0 == worker.kill(signal.SIGTERM)
    start_worker(queue)

    # then it runs, once, after its time
    task = ended(http, task_id)
    assert ("COMPLETED", "later", 1) == (task["status"], task["result"], task["attempt"])
    assert started(task) >= due


def test_a_batch_can_be_delayed_and_is_counted_as_scheduled_meanwhile(client: nexusq_sdk.Client) -> None:
    # given a batch with a delay
    batch = client.submit_batch("ECHO", range(2000), delay=timedelta(seconds=2))

    # when it is asked at once and after its end
    meanwhile = batch.counts()
    batch.wait(timeout=60)

    # then all tasks waited, and all have run after that
    assert 2000 == meanwhile["SCHEDULED"]
    assert 2000 == batch.counts()["COMPLETED"]
    info = batch.info()
    assert info.started_at is not None
    assert info.started_at - info.submitted_at >= timedelta(seconds=1.9)
    assert list(range(2000)) == list(batch.results())


def test_a_delayed_task_of_high_priority_keeps_queue_and_priority(
    http: httpx.Client, queue: str, start_worker: StartWorker
) -> None:
    start_worker(queue)

    task = ended(http, submit(http, "ECHO", 1, queue=queue, priority="high", delaySeconds=0.2))

    assert ("COMPLETED", queue, "high") == (task["status"], task["queue"], task["priority"])


def test_a_delayed_task_that_is_submitted_twice_runs_once(http: httpx.Client) -> None:
    # given one id that is posted twice, as after a lost answer
    task_id = ids.new_id()
    body = {"taskType": "ECHO", "payload": 1, "taskId": task_id, "options": {"delaySeconds": 0.5}}

    for _ in range(2):
        assert 202 == http.post("/tasks", json=body).status_code

    task = ended(http, task_id)
    assert ("COMPLETED", 1) == (task["status"], task["attempt"])
    eventually(has_status(http, task_id, "COMPLETED"))
