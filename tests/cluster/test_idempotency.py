"""One key, one piece of work, however often it is submitted."""

from __future__ import annotations

import secrets
from typing import Any

import httpx
import pytest

import nexusq_sdk
from nexusq_sdk.protocol import ids
from tests.asking import ended
from tests.conftest import eventually


@pytest.fixture
def key() -> str:
    return f"order-{secrets.token_hex(6)}"


def post(http: httpx.Client, key: str | None = None, path: str = "/tasks", **body: Any) -> httpx.Response:
    body = {"taskType": "ECHO"} | body
    return http.post(path, json=body, headers={"Idempotency-Key": key} if key is not None else {})


def test_the_same_key_gives_the_same_task_which_runs_once(http: httpx.Client, key: str) -> None:
    # given a task that was submitted with a key
    first = post(http, key, payload={"a": 1})
    assert 202 == first.status_code
    task_id = first.json()["taskId"]
    finished = ended(http, task_id)["finishedAt"]

    # when the same comes again, with its fields in another form
    again = http.post(
        "/tasks",
        content=b'{"payload": { "a" :1.0 },"taskType":"ECHO"}',
        headers={"Idempotency-Key": key, "Content-Type": "application/json"},
    )

    # then it is that task, as it stands, and has not run again
    assert (202, {"taskId": task_id, "status": "COMPLETED"}) == (again.status_code, again.json())
    assert ids.id_from_key(key) == task_id
    assert (1, finished) == tuple(ended(http, task_id)[name] for name in ("attempt", "finishedAt"))


def test_header_and_option_are_one(http: httpx.Client, key: str) -> None:
    by_header = post(http, key, payload=1).json()["taskId"]

    by_option = post(http, payload=1, options={"idempotencyKey": key}).json()["taskId"]

    assert by_header == by_option


@pytest.mark.parametrize("other", [{"payload": 2}, {"payload": 1, "taskType": "SLEEP"}])
def test_the_same_key_with_other_work_is_a_conflict(http: httpx.Client, key: str, other: dict[str, Any]) -> None:
    # given a key that was used
    task_id = post(http, key, payload={"seconds": 0}).json()["taskId"]
    other = other | ({"payload": {"seconds": 0}} if "taskType" in other else {})

    # when it is used for something else
    answer = post(http, key, **other)

    # then that is refused, and says for what it stands
    assert 409 == answer.status_code
    problem = answer.json()
    assert problem["type"].endswith("idempotency-conflict")
    assert ("taskType" if "taskType" in other else task_id) in problem["detail"]
    assert {"seconds": 0} == ended(http, task_id)["result"]


@pytest.mark.parametrize(
    ("header", "body", "detail"),
    [
        ("", {}, "expected idempotencyKey to have 1 to 255 characters, got 0"),
        ("k" * 256, {}, "got 256"),
        ("a", {"options": {"idempotencyKey": "b"}}, "to be the same, got 'b' and 'a'"),
        ("a", {"taskId": "01a20e45-5716-74df-a356-688becb510f5"}, "expected taskId to be left out"),
        (None, {"options": {"idempotencyKey": 7}}, "idempotencyKey"),
    ],
)
def test_a_key_that_can_not_be_meant_is_refused(
    http: httpx.Client, header: str | None, body: dict[str, Any], detail: str
) -> None:
    answer = post(http, header, payload=1, **body)

    assert 422 == answer.status_code
    assert detail in answer.json()["detail"]


def test_a_batch_with_a_key_is_one_batch(http: httpx.Client, key: str) -> None:
    # given a batch with a key, in two chunks
    body = {"payloads": [1, 2], "last": False}
    batch = post(http, key, "/batches", **body).json()["batchId"]
    assert batch == post(http, key, "/batches", payloads=[3], firstIndex=2).json()["batchId"]

    # when both come again
    assert 202 == post(http, key, "/batches", **body).status_code
    assert 202 == post(http, key, "/batches", payloads=[3], firstIndex=2).status_code

    # then it has three tasks that have run once, and takes neither other rows nor more of them
    def has_ended() -> None:
        seen = http.get(f"/batches/{batch}").json()
        assert (3, 3) == (seen["size"], seen["counts"]["COMPLETED"])

    eventually(has_ended)
    assert [1, 1, 1] == http.get(f"/batches/{batch}/tasks").json()["columns"]["attempt"]
    other = post(http, key, "/batches", payloads=[1, 9], last=False)
    assert (409, True) == (other.status_code, "row 1:" in other.json()["detail"])
    assert 409 == post(http, key, "/batches", payloads=[4], firstIndex=3).status_code


def test_ndjson_takes_the_header_as_well(http: httpx.Client, key: str) -> None:
    def post_lines(lines: str) -> httpx.Response:
        headers = {"Content-Type": "application/x-ndjson", "Idempotency-Key": key}
        return http.post("/batches", params={"taskType": "ECHO"}, content=lines, headers=headers)

    first = post_lines("1\n2\n")

    assert ids.id_from_key(key) == first.json()["batchId"]
    assert 202 == post_lines("1\n2\n").status_code
    assert 409 == post_lines("1\n3\n").status_code


def test_the_sdk_submits_a_task_with_a_key_once(client: nexusq_sdk.Client, key: str) -> None:
    first = client.submit("ECHO", {"a": 1}, idempotency_key=key)
    assert {"a": 1} == first.result(timeout=30)

    # also where it has ended meanwhile
    again = client.submit("ECHO", {"a": 1}, idempotency_key=key)

    assert (first.id, {"a": 1}) == (again.id, again.result(timeout=30))
    with pytest.raises(nexusq_sdk.Refused, match="another one"):
        client.submit("ECHO", {"a": 2}, idempotency_key=key)


def test_the_sdk_tells_the_failure_of_a_key_that_was_used_before(client: nexusq_sdk.Client, key: str) -> None:
    for _ in range(2):
        with pytest.raises(nexusq_sdk.TaskFailed, match="on purpose"):
            client.submit("FAIL", {"message": "on purpose"}, idempotency_key=key).result(timeout=30)


def test_the_sdk_submits_a_batch_with_a_key_once(client: nexusq_sdk.Client, key: str) -> None:
    # given more rows than fit into one chunk
    first = client.submit_batch("ECHO", range(7000), idempotency_key=key)
    again = client.submit_batch("ECHO", range(7000), idempotency_key=key)

    again.wait(timeout=60)

    assert first.id == again.id
    assert 7000 == again.counts()["COMPLETED"]
    with pytest.raises(nexusq_sdk.Refused, match="row 6999"):
        client.submit_batch("ECHO", [*range(6999), -1], idempotency_key=key)


def test_a_key_for_a_delayed_task_gives_it_as_it_waits(http: httpx.Client, key: str) -> None:
    first = post(http, key, payload=1, options={"delaySeconds": 3600})
    again = post(http, key, payload=1, options={"delaySeconds": 3600})

    assert first.json() == again.json()
    assert "SCHEDULED" == again.json()["status"]
    assert 200 == http.post(f"/tasks/{first.json()['taskId']}/cancel").status_code
