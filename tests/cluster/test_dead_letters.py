"""What failed for good: on its topic and in the list, with all that is needed to judge it and to try it again."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import pytest
import redis
from kafka import KafkaProducer

import nexusq_sdk
from nexusq_sdk.protocol import ids
from nexusq_server.settings import Settings
from tests.asking import StartWorker, ended, has_status, new_dead_letters, send, submit, view
from tests.conftest import eventually

QUICK = {"initialSeconds": 0.01, "capSeconds": 0.01}


def listed(http: httpx.Client, **asked: Any) -> list[dict[str, Any]]:
    answer = http.get("/dead-letters", params=asked)
    assert 200 == answer.status_code, answer.text
    return list(answer.json()["deadLetters"])


def requeue(http: httpx.Client, **wanted: Any) -> int:
    answer = http.post("/dead-letters/requeue", json=wanted)
    assert 200 == answer.status_code, answer.text
    return int(answer.json()["requeued"])


def test_a_final_failure_is_on_the_topic_and_in_the_list_with_payload_error_and_history(
    http: httpx.Client, settings: Settings
) -> None:
    with new_dead_letters(settings) as wait_for:
        # given a task that fails at both of its attempts
        task_id = submit(http, "FLAKY", {"until": 9}, maxAttempts=2, backoff=QUICK)
        ended(http, task_id)

        # when its letter is read from the topic and from the list
        on_topic = wait_for(lambda letter: letter.get("taskId") == task_id)
        in_list = next(letter for letter in listed(http) if letter.get("taskId") == task_id)

    # then both say what it was, why it failed and what came before
    for letter in (on_topic, in_list):
        assert ("FLAKY", {"until": 9}, "default", 2) == tuple(
            letter[name] for name in ("taskType", "payload", "queue", "attempt")
        )
        assert ("ValueError", "not at attempt 2") == (letter["error"]["type"], letter["error"]["message"])
        assert "in flaky" in letter["error"]["traceback"]
        assert [1, 2] == [entry["attempt"] for entry in letter["history"]]
        assert "not at attempt 2" in letter["reason"]


def test_a_task_that_is_to_be_tried_again_is_no_dead_letter(http: httpx.Client) -> None:
    task_id = submit(http, "ASKING", {"until": 2, "delay": 3600})
    eventually(has_status(http, task_id, "SCHEDULED"))

    assert task_id not in [letter.get("taskId") for letter in listed(http, type="ASKING")]


def test_the_list_is_newest_first_in_pages_and_by_type_and_batch(client: nexusq_sdk.Client, http: httpx.Client) -> None:
    # given a batch of 25 that all fail, and a task of another type
    batch = client.submit_batch("FAIL", [{"message": str(row)} for row in range(25)])
    batch.wait(timeout=30)
    other = submit(http, "DIVIDE", {"a": 1, "b": 0})
    ended(http, other)

    # when the batch's letters are read page after page
    found, cursor = [], None
    while True:
        asked = {"batch": batch.id, "limit": 10} | ({"cursor": cursor} if cursor else {})
        page = http.get("/dead-letters", params=asked).json()
        found.append([letter["taskId"] for letter in page["deadLetters"]])
        cursor = page["nextCursor"]
        if cursor is None:
            break

    # then they are all there once, and the other one is not
    assert [10, 10, 5] == [len(page) for page in found]
    assert {f"{batch.id}-{row}" for row in range(25)} == {name for page in found for name in page}
    times = [letter["at"] for letter in listed(http)]
    assert times == sorted(times, reverse=True)
    assert {"DIVIDE"} == {letter["taskType"] for letter in listed(http, type="DIVIDE")}
    assert other == listed(http, type="DIVIDE")[0]["taskId"]


@pytest.mark.parametrize(
    ("asked", "field"), [({"limit": "0"}, "limit"), ({"cursor": "x"}, "cursor"), ({"kind": "ECHO"}, "kind")]
)
def test_a_question_for_dead_letters_that_is_wrong_is_refused(
    http: httpx.Client, asked: dict[str, str], field: str
) -> None:
    answer = http.get("/dead-letters", params=asked)

    assert 422 == answer.status_code
    assert field == answer.json()["errors"][0]["field"]


def test_a_task_that_is_requeued_has_all_its_attempts_again_and_leaves_the_list(http: httpx.Client) -> None:
    # given a task that failed at its second and last attempt, and would succeed at its fourth
    task_id = submit(http, "FLAKY", {"until": 4}, maxAttempts=2, backoff=QUICK)
    assert 2 == ended(http, task_id)["attempt"]

    # when it is requeued by its id
    assert 1 == requeue(http, taskIds=[task_id])

    # then it goes on counting its attempts, and completes at the second of the two that it has again
    eventually(has_status(http, task_id, "COMPLETED"))
    task = view(http, task_id)
    assert (4, 4) == (task["result"], task["attempt"])
    assert [1, 2, 3] == [entry["attempt"] for entry in task["history"]]
    assert "error" not in task
    assert task_id not in [letter.get("taskId") for letter in listed(http, type="FLAKY")]


def test_a_task_that_is_requeued_and_fails_again_is_a_dead_letter_again(http: httpx.Client) -> None:
    task_id = submit(http, "FLAKY", {"until": 99}, maxAttempts=2, backoff=QUICK)
    ended(http, task_id)

    requeue(http, taskIds=[task_id])

    def failed_again() -> None:
        assert ("FAILED", 4) == (view(http, task_id)["status"], view(http, task_id)["attempt"])

    eventually(failed_again)
    assert [4] == [letter["attempt"] for letter in listed(http, type="FLAKY") if letter["taskId"] == task_id]


def test_what_did_not_fail_is_not_requeued(http: httpx.Client) -> None:
    done = submit(http, "ECHO", 1)
    ended(http, done)

    assert 0 == requeue(http, taskIds=[done, ids.new_id()])
    assert "COMPLETED" == view(http, done)["status"]


def test_a_batchs_failed_tasks_are_requeued_and_the_others_left_alone(client: nexusq_sdk.Client) -> None:
    # given a batch, every other task of which fails at its first attempt
    batch = client.submit_batch("FLAKY", [{"until": 1 + row % 2} for row in range(40)])
    batch.wait(timeout=30)
    assert 20 == batch.counts()["FAILED"]

    # when its dead letters are requeued
    assert 20 == client.requeue(batch=batch.id)

    # then the batch is open again, ends again, and nothing else has run twice
    again = client.batch(batch.id).wait(timeout=30)
    assert {"COMPLETED": 40} == {name: count for name, count in again.counts().items() if count}
    assert [1 + row % 2 for row in range(40)] == list(again.results())
    assert client.dead_letters(batch=batch.id).empty


def test_dead_letters_are_requeued_by_type(http: httpx.Client, queue: str, start_worker: StartWorker) -> None:
    # given a type that no worker of this queue knows, so that all its tasks are dead letters
    start_worker(queue)
    name = f"NEW_{queue}"
    tasks = [submit(http, name, {}, queue=queue, allowUnknown=True) for _ in range(3)]
    for task in tasks:
        assert "UnknownTaskType" == ended(http, task)["error"]["type"]

    # when they are requeued by their type
    assert 3 == requeue(http, type=name)

    # then each has been tried again
    for task in tasks:
        eventually(lambda task=task: _at_attempt(http, task, 2))
    assert 0 == requeue(http, type="NO_SUCH")


def _at_attempt(http: httpx.Client, task_id: str, attempt: int) -> None:
    assert ("FAILED", attempt) == (view(http, task_id)["status"], view(http, task_id)["attempt"])


def test_all_dead_letters_are_requeued(http: httpx.Client) -> None:
    # given a task that fails once
    task_id = submit(http, "FLAKY", {"until": 2})
    ended(http, task_id)

    # when all dead letters that there are go back
    assert requeue(http, all=True) >= 1

    eventually(has_status(http, task_id, "COMPLETED"))


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({}, "got none of them"),
        ({"all": False}, "got none of them"),
        ({"type": "ECHO", "batch": "x"}, "got 2 of them"),
        ({"taskIds": ["1"]}, "expected taskIds to be ids of tasks, got '1'"),
        ({"taskIds": "1"}, "expected taskIds to be array"),
        ({"tasks": []}, "unknown field 'tasks'"),
    ],
)
def test_a_requeue_must_say_what_is_meant(http: httpx.Client, body: dict[str, Any], detail: str) -> None:
    answer = http.post("/dead-letters/requeue", json=body)

    assert 422 == answer.status_code
    assert detail in answer.json()["detail"]


def test_a_failed_task_is_retried_by_its_id(client: nexusq_sdk.Client) -> None:
    # given a task that has failed
    task = client.submit("FLAKY", {"until": 2})
    with pytest.raises(nexusq_sdk.TaskFailed):
        task.result(timeout=30)

    # when it is tried again
    task.retry()

    assert 2 == task.result(timeout=30)


def test_a_task_that_has_not_failed_is_not_retried(client: nexusq_sdk.Client, http: httpx.Client) -> None:
    task = client.submit("ECHO", 1)
    task.result(timeout=30)

    with pytest.raises(nexusq_sdk.Refused, match="it is COMPLETED"):
        task.retry()
    assert 404 == http.post(f"/tasks/{ids.new_id()}/retry").status_code
    assert 404 == http.post(f"/batches/{ids.new_id()}/retry").status_code


def test_a_batchs_failed_tasks_are_retried_and_cancelled_ones_only_if_asked(client: nexusq_sdk.Client) -> None:
    # given a batch with completed, failed and cancelled tasks
    batch = client.submit_batch("FLAKY", [{"until": 1}, {"until": 2}])
    batch.wait(timeout=30)
    later = client.submit_batch("ECHO", [1, 2, 3], delay=3600)
    later.cancel()

    # when both are tried again
    assert 1 == batch.retry_failed()
    assert 0 == later.retry_failed()
    assert 3 == later.retry_failed(cancelled=True)

    # then all have completed
    assert [1, 2] == list(batch.results(timeout=30))
    assert [1, 2, 3] == list(later.results(timeout=30))


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b"\x00\x01 garbage", "expected a task as JSON"),
        (b'{"taskId": "%b", "taskType": "ECHO", "payl', "expected a task as JSON"),
        (b'{"taskId":"%b","taskType":"ECHO","payload":1,"attempt":-3}', "attempt"),
        (b'{"taskId":"%b","taskType":"ECHO","payload":1,"attempt":"1"}', "attempt"),
        (b'{"taskId":"%b","taskType":"ECHO","payload":1,"options":{"maxAttempts":0}}', "maxAttempts"),
        (b'{"taskId":"%b","taskType":"ECHO","payload":1,"options":{"delaySeconds":1e305}}', "delaySeconds"),
        (b'{"taskId":"%b","taskType":"ECHO","payload":1,"options":{"resultTtlSeconds":1e30}}', "resultTtlSeconds"),
        (b'{"taskId":"%b","taskType":"ECHO","payload":1,"options":{"resultTtlSeconds":-5}}', "resultTtlSeconds"),
        (b'{"taskId":"%b","taskType":"ECHO","payload":1,"options":{"timeoutSeconds":0}}', "timeoutSeconds"),
        (b'{"taskId":"%b","taskType":"ECHO","payload":1,"options":{"backoff":{"initialSeconds":-1}}}', "backoff"),
        (b'{"taskId":"%b","taskType":"ECHO","payload":1,"options":{"eta":"tomorrow"}}', "eta"),
        (b'{"taskId":"%b","taskType":"ECHO","payload":1,"options":{"eta":"2030-01-01T00:00:00"}}', "eta"),
        (b'{"taskId":"%b","taskType":"ECHO","payload":1,"options":{"priority":"urgent"}}', "priority"),
        (b'{"taskId":"%b","taskType":"ECHO","payload":1,"options":{"shard":7}}', "shard"),
        (b'{"taskId":"%b","taskType":"ECHO","payload":1,"options":[]}', "options"),
        (b'{"taskId":"%b","taskType":"ECHO","payload":1,"batchSize":3}', "batchSize"),
        (b'{"taskId":"%b-4","taskType":"ECHO","payload":1,"batchSize":-1}', "batchSize"),
        (b'{"taskId":"%b-4","taskType":"ECHO","payload":1,"batchSize":1e30}', "batchSize"),
    ],
)
def test_a_record_that_no_worker_can_run_is_listed_with_the_reason_and_stops_nothing(
    http: httpx.Client, producer: KafkaProducer, record: bytes, reason: str
) -> None:
    # given such a record, and a task behind it in the same partition
    value = record.replace(b"%b", ids.new_id().encode())
    sent = producer.send("task-queue", value, partition=3).get(10)
    behind = ids.new_id()
    task = json.dumps({"taskId": behind, "taskType": "ECHO", "payload": 9}).encode()
    producer.send("task-queue", task, partition=3).get(10)

    # when the task has run
    eventually(lambda: _completed(http, behind))

    # then the record is in the list: where it was, why it is there, and its bytes
    letter = next(letter for letter in listed(http) if letter.get("offset") == sent.offset and letter["partition"] == 3)
    assert reason in letter["reason"]
    assert ("task-queue", value) == (letter["topic"], base64.b64decode(letter["record"]))


def _completed(http: httpx.Client, task_id: str) -> None:
    assert "COMPLETED" == http.get(f"/tasks/{task_id}").json().get("status")


def test_a_record_of_a_newer_version_runs_if_only_its_own_fields_are_new(
    http: httpx.Client, producer: KafkaProducer
) -> None:
    task_id = send(producer, "task-queue", taskType="ECHO", payload=3, version=9, trace={"id": "x"})

    eventually(lambda: _completed(http, task_id))


def test_a_task_of_the_largest_size_that_fails_has_its_letter_too(
    http: httpx.Client, settings: Settings, redis_client: redis.Redis
) -> None:
    with new_dead_letters(settings) as wait_for:
        # given a payload of nearly 900 kB whose task fails with a message as long
        task_id = submit(http, "FAIL", {"message": "x" * 890_000})

        # when it has failed
        task = ended(http, task_id)

        # then its letter is on the topic whole
        assert "FAILED" == task["status"]
        letter = wait_for(lambda letter: letter.get("taskId") == task_id)
    assert 890_000 == len(letter["payload"]["message"])
