"""What a worker does with tasks and with records that are none, on the real cluster."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable

import httpx
import pytest
import redis
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

import nexusq_sdk
from nexusq_sdk.protocol import ids
from nexusq_server.settings import Settings
from nexusq_server.topics import DEAD_LETTERS, group, topic
from tests.conftest import Addresses, WorkerProcess, eventually

StartWorker = Callable[..., WorkerProcess]


def ended(http: httpx.Client, task_id: str) -> dict[str, object]:
    """Wait for the end of a task and give what the API says of it."""
    seen: dict[str, object] = {}

    def has_ended() -> None:
        answer = http.get(f"/tasks/{task_id}")
        assert 200 == answer.status_code, answer.text
        seen.update(answer.json())
        assert seen["status"] in {"COMPLETED", "FAILED"}

    eventually(has_ended)
    return seen


def test_the_seeds_two_calls_work_with_curl_and_the_status_is_read_with_redis_cli(
    cluster: Addresses, http: httpx.Client, redis_client: redis.Redis
) -> None:
    # given the mail that every reader of the README submits first
    mail = {"to": "user@example.com", "subject": "Hello from NexusQ!", "body": "This is an asynchronous email."}
    body = json.dumps({"taskType": "EMAIL_SEND", "payload": mail})

    # when it is posted with curl
    posted = subprocess.run(
        ["curl", "-sS", "-X", "POST", f"{cluster.url}/tasks", "-H", "Content-Type: application/json", "-d", body],
        capture_output=True,
        text=True,
        check=True,
    )
    answer = json.loads(posted.stdout)

    # then the answer has the id, and later the outcome is there for curl and for redis-cli
    assert {"taskId", "status"} == set(answer)
    assert "QUEUED" == answer["status"]
    seen = ended(http, answer["taskId"])
    assert ("COMPLETED", {"deliveryStatus": "SENT"}) == (seen["status"], seen["result"])
    assert seen["submittedAt"] <= seen["startedAt"] <= seen["finishedAt"]
    assert 1 == seen["attempt"]
    in_redis = redis_client.hgetall(f"nexusq:task:{answer['taskId']}")
    assert ("COMPLETED", '{"deliveryStatus":"SENT"}') == (in_redis["status"], in_redis["result"])


def test_a_record_that_another_client_wrote_runs(http: httpx.Client, producer: KafkaProducer) -> None:
    task_id = ids.new_id()

    record = {"taskId": task_id, "taskType": "ECHO", "payload": [1, "two"], "written by": "somebody else"}
    producer.send("task-queue", json.dumps(record, indent=1).encode()).get(10)

    def completed() -> None:
        answer = http.get(f"/tasks/{task_id}").json()
        assert ("COMPLETED", [1, "two"]) == (answer.get("status"), answer.get("result"))

    eventually(completed)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "empty record"),
        (b"\xff\xfe garbage", "expected a task as JSON"),
        (b'{"taskId":', "expected a task as JSON"),
        (b"[1,2]", "expected a task as JSON"),
        (b'{"taskType":"ECHO","payload":1}', "taskId"),
        (b'{"taskId":"x","taskType":"ECHO","payload":1}', "expected taskId to be"),
        (b'{"taskId":"01a20e45-5716-74df-a356-688becb510f5","taskType":"E CHO","payload":1}', "expected taskType"),
        (b'{"taskId":"01a20e45-5716-74df-a356-688becb510f5","taskType":"ECHO"}', "payload"),
        (b'{"taskId":"01a20e45-5716-74df-a356-688becb510f5","taskType":"ECHO","payload":1,"attempt":-1}', "attempt"),
        (b'{"taskId":"01a20e45-5716-74df-a356-688becb510f5","taskType":"ECHO","payload":"\xff"}', "JSON"),
        (b"x" * 800_000, "the first 600000 of its 800000 bytes"),
    ],
)
def test_a_record_that_is_no_task_becomes_a_dead_letter_and_stops_nothing(
    settings: Settings, producer: KafkaProducer, http: httpx.Client, value: bytes, reason: str
) -> None:
    # given where the dead letters end now
    partition = TopicPartition(DEAD_LETTERS, 0)
    consumer = KafkaConsumer(bootstrap_servers=list(settings.kafka), enable_auto_commit=False)
    consumer.assign([partition])
    consumer.seek_to_end(partition)
    consumer.position(partition)

    # when the record comes, and a task behind it in the same partition
    task_id = ids.new_id()
    producer.send("task-queue", value, partition=0).get(10)
    producer.send(
        "task-queue", json.dumps({"taskId": task_id, "taskType": "ECHO", "payload": 7}).encode(), partition=0
    ).get(10)

    # then the dead letter says why and has its bytes, and the task has run
    letters: list[dict[str, object]] = []

    def came() -> None:
        for records in consumer.poll(200).values():
            letters.extend(json.loads(record.value) for record in records)
        assert any(reason in str(letter["reason"]) for letter in letters), letters

    eventually(came)
    letter = next(letter for letter in letters if reason in str(letter["reason"]))
    assert value[:600_000] == base64.b64decode(str(letter["record"]))
    assert "task-queue" == letter["topic"]
    eventually(lambda: _has_result(http, task_id, 7))
    consumer.close()


def _has_result(http: httpx.Client, task_id: str, result: object) -> None:
    assert result == http.get(f"/tasks/{task_id}").json().get("result")


def test_a_handlers_exception_fails_its_task_with_type_message_and_traceback(client: nexusq_sdk.Client) -> None:
    task = client.submit("DIVIDE", {"a": 1, "b": 0})

    with pytest.raises(nexusq_sdk.TaskFailed, match="float division by zero") as failure:
        task.result(timeout=20)

    assert "ZeroDivisionError" == failure.value.error_type
    assert "return a / b" in str(failure.value.remote_traceback)
    assert "nexusq_server" not in str(failure.value.remote_traceback)


def test_a_handler_that_calls_exit_fails_its_task_and_the_thread_goes_on(client: nexusq_sdk.Client) -> None:
    tasks = [client.submit("EXIT", {}) for _ in range(20)]

    for task in tasks:
        with pytest.raises(nexusq_sdk.TaskFailed, match="SystemExit"):
            task.result(timeout=20)
    assert 3 == client.submit("ECHO", 3).result(timeout=20)


def test_a_result_that_is_too_large_or_no_json_fails_saying_so(client: nexusq_sdk.Client) -> None:
    with pytest.raises(nexusq_sdk.TaskFailed, match="expected the result to have at most 512 KiB"):
        client.submit("BIG", {"kib": 600}).result(timeout=20)
    with pytest.raises(nexusq_sdk.TaskFailed, match="expected the result of OBJECT to have a JSON form"):
        client.submit("OBJECT", {}).result(timeout=20)


def test_a_type_that_the_worker_does_not_know_fails_saying_which_it_knows(client: nexusq_sdk.Client) -> None:
    task = client.submit("NO_SUCH_TYPE", {}, allow_unknown=True)

    with pytest.raises(nexusq_sdk.TaskFailed, match="expected a task type that this worker knows .*ECHO.*NO_SUCH_TYPE"):
        task.result(timeout=20)


def test_a_slow_task_holds_back_none_of_those_behind_it(
    client: nexusq_sdk.Client, queue: str, start_worker: StartWorker
) -> None:
    # given a worker with two threads, one of them busy for longer than this test runs
    start_worker(queue, NEXUSQ_CONCURRENCY="2", NEXUSQ_GRACE="1s")
    slow = client.submit("SLEEP", {"seconds": 600}, queue=queue)

    # when a batch comes behind it
    batch = client.submit_batch("ECHO", range(3000), queue=queue)
    batch.wait(timeout=30)

    # then all of it has ended while the slow one still runs
    assert 3000 == batch.counts()["COMPLETED"]
    assert "IN_PROGRESS" == slow.status


def test_offsets_reach_the_end_once_everything_is_settled(
    client: nexusq_sdk.Client, queue: str, start_worker: StartWorker, settings: Settings
) -> None:
    start_worker(queue)
    client.submit_batch("ECHO", range(500), queue=queue).wait(timeout=30)

    consumer = KafkaConsumer(bootstrap_servers=list(settings.kafka), group_id=group(queue), enable_auto_commit=False)
    partitions = [TopicPartition(topic(queue), number) for number in range(settings.partitions)]
    ends = {partition: end for partition, end in consumer.end_offsets(partitions).items() if end}
    assert 500 == sum(ends.values())

    def committed() -> None:
        assert ends == {partition: consumer.committed(partition) for partition in ends}

    eventually(committed)
    consumer.close()


def test_a_batch_of_ten_thousand_goes_through(client: nexusq_sdk.Client) -> None:
    batch = client.submit_batch("ECHO", ({"row": row} for row in range(10_000)))

    batch.wait(timeout=60)

    assert 10_000 == batch.counts()["COMPLETED"]
    assert [{"row": row} for row in range(10_000)] == list(batch.results())
