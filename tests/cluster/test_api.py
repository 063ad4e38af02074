"""What the HTTP API answers when all is well, as any client sees it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import redis

from nexusq_sdk.protocol import ids
from nexusq_sdk.protocol.wire import COLUMNS
from nexusq_sdk.protocol.words import Status
from tests.conftest import eventually

NDJSON = {"Content-Type": "application/x-ndjson"}


def post(http: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    answer = http.post(path, json=body)
    assert 202 == answer.status_code, answer.text
    return dict(answer.json())


def get(http: httpx.Client, path: str, **asked: Any) -> dict[str, Any]:
    answer = http.get(path, params=asked)
    assert 200 == answer.status_code, answer.text
    return dict(answer.json())


def wait_for_task(http: httpx.Client, task_id: str) -> dict[str, Any]:
    seen: dict[str, Any] = {}

    def has_ended() -> None:
        seen.clear()
        seen.update(get(http, f"/tasks/{task_id}"))
        assert seen["status"] in {"COMPLETED", "FAILED"}

    eventually(has_ended)
    return seen


def wait_for_batch(http: httpx.Client, batch_id: str) -> dict[str, Any]:
    seen: dict[str, Any] = {}

    def has_ended() -> None:
        seen.clear()
        seen.update(get(http, f"/batches/{batch_id}"))
        assert seen["finishedAt"] is not None, seen

    eventually(has_ended)
    return seen


def results(http: httpx.Client, batch_id: str) -> list[Any]:
    columns = get(http, f"/batches/{batch_id}/tasks", limit=10_000)["columns"]
    return list(columns["result"])


def pages(http: httpx.Client, path: str, **asked: Any) -> list[dict[str, list[Any]]]:
    """Give the columns of all pages, by the cursor."""
    found = []
    while True:
        page = get(http, path, **asked)
        found.append(page["columns"])
        if page["nextCursor"] is None:
            return found
        asked["cursor"] = page["nextCursor"]


def test_a_task_is_answered_with_its_id_and_later_with_all_that_is_known_of_it(http: httpx.Client) -> None:
    # given an id that the client made
    task_id = ids.new_id()

    # when a task is posted
    accepted = post(http, "/tasks", taskType="ECHO", payload={"a": [1, "zwei"]}, taskId=task_id)

    # then it is queued, and once it has ended every field is there and the times are in order
    assert {"taskId": task_id, "status": "QUEUED"} == accepted
    seen = wait_for_task(http, task_id)
    times = [datetime.fromisoformat(seen.pop(name)) for name in ("submittedAt", "startedAt", "finishedAt")]
    assert sorted(times) == times
    assert timedelta(0) == times[0].utcoffset()
    assert times[0] > datetime.now(UTC) - timedelta(minutes=5)
    assert seen.pop("worker")
    assert datetime.fromisoformat(seen.pop("expiresAt")) > times[-1]
    same = {"a": [1, "zwei"]}
    assert seen == {
        "taskId": task_id,
        "taskType": "ECHO",
        "status": "COMPLETED",
        "payload": same,
        "result": same,
        "attempt": 1,
        "queue": "default",
        "priority": "normal",
    }


def test_a_failed_task_shows_type_message_and_traceback_and_no_result(http: httpx.Client) -> None:
    task_id = post(http, "/tasks", taskType="FAIL", payload={"message": "no luck"})["taskId"]

    seen = wait_for_task(http, task_id)

    assert "FAILED" == seen["status"]
    assert ("ValueError", "no luck") == (seen["error"]["type"], seen["error"]["message"])
    assert "raise ValueError(message)" in seen["error"]["traceback"]
    assert "result" not in seen


def test_a_result_of_null_is_there_as_null(http: httpx.Client) -> None:
    task_id = post(http, "/tasks", taskType="ECHO", payload=None)["taskId"]

    seen = wait_for_task(http, task_id)

    assert (None, None) == (seen["payload"], seen["result"])


def test_a_task_that_is_posted_twice_under_one_id_runs_once(http: httpx.Client, tmp_path: Any) -> None:
    ledger = tmp_path / "ledger"
    body = {"taskType": "LEDGER", "taskId": ids.new_id(), "payload": {"path": str(ledger), "line": "ran"}}
    post(http, "/tasks", **body)
    wait_for_task(http, body["taskId"])

    again = post(http, "/tasks", **body)

    # a task behind it tells when the worker has passed it
    assert body["taskId"] == again["taskId"]
    wait_for_batch(http, post(http, "/batches", taskType="ECHO", payloads=[0] * 100)["batchId"])
    assert "ran\n" == ledger.read_text()
    assert 1 == get(http, f"/tasks/{body['taskId']}")["attempt"]


def _as_json(payloads: list[Any]) -> tuple[bytes, dict[str, str], dict[str, str]]:
    return json.dumps({"taskType": "ECHO", "payloads": payloads}).encode(), {"Content-Type": "application/json"}, {}


def _as_lines(payloads: list[Any]) -> tuple[bytes, dict[str, str], dict[str, str]]:
    body = b"".join(json.dumps(payload).encode() + b"\r\n\n" for payload in payloads)
    return body, dict(NDJSON), {"taskType": "ECHO"}


@pytest.mark.parametrize("packed", ["plain", "gzip", "two gzip members"])
@pytest.mark.parametrize("form", [_as_json, _as_lines])
def test_a_batch_is_taken_as_json_and_as_lines_plain_and_packed(
    http: httpx.Client, form: Callable[[list[Any]], tuple[bytes, dict[str, str], dict[str, str]]], packed: str
) -> None:
    # given a batch whose payloads are objects, lists, text and null
    payloads = [{"n": 1, "ü": "é"}, [1, 2], "text", None, 1.5]
    body, headers, asked = form(payloads)
    if packed == "gzip":
        body = gzip.compress(body)
    elif packed == "two gzip members":  # what `cat a.gz b.gz` gives is a gzip file as well
        body = gzip.compress(body[:40]) + gzip.compress(body[40:])
    if packed != "plain":
        headers["Content-Encoding"] = "gzip"

    # when it is posted
    answer = http.post("/batches", content=body, headers=headers, params=asked)

    # then it is accepted whole and runs in the rows' order
    assert 202 == answer.status_code, answer.text
    accepted = answer.json()
    batch_id = accepted.pop("batchId")
    assert {"firstIndex": 0, "accepted": 5, "closed": True} == accepted
    assert 5 == wait_for_batch(http, batch_id)["counts"]["COMPLETED"]
    assert payloads == results(http, batch_id)


def test_chunks_make_one_batch_in_any_order_and_posted_twice_until_the_last_closes_it(http: httpx.Client) -> None:
    # given three chunks of one batch
    batch_id = ids.new_id()
    rows = list(range(30))
    chunks = [
        {"taskType": "ECHO", "batchId": batch_id, "firstIndex": first, "payloads": rows[first : first + 10]}
        for first in (0, 10, 20)
    ]

    # when the last rows come first, then the first ones twice
    for chunk in (chunks[2], chunks[0], chunks[0]):
        assert not post(http, "/batches", **chunk, last=False)["closed"]

    # then the batch stays open, although all of its rows so far have ended
    def ran() -> None:
        assert 20 == get(http, f"/batches/{batch_id}")["counts"]["COMPLETED"]

    eventually(ran)
    assert not get(http, f"/batches/{batch_id}")["closed"]

    # when the chunk that is marked as the last comes, again twice, and by NDJSON
    lines = "\n".join(map(str, chunks[1]["payloads"]))
    asked = {"taskType": "ECHO", "batchId": batch_id, "firstIndex": "10", "last": "false"}
    assert 202 == http.post("/batches", content=lines, headers=NDJSON, params=asked).status_code
    for _ in range(2):
        assert post(http, "/batches", **chunks[2], last=True)["closed"]

    # then it is closed with every row once
    seen = wait_for_batch(http, batch_id)
    assert (30, True) == (seen["size"], seen["closed"])
    assert {"COMPLETED": 30} == {name: count for name, count in seen["counts"].items() if count}
    assert rows == results(http, batch_id)


def test_a_batchs_counters_name_every_status_and_its_times_and_rate(http: httpx.Client) -> None:
    rows = [{"a": 1, "b": 2}, {"a": 1, "b": 0}, {"a": 1, "b": 4}]
    batch_id = post(http, "/batches", taskType="DIVIDE", payloads=rows)["batchId"]

    seen = wait_for_batch(http, batch_id)

    assert list(Status) == list(seen["counts"])
    assert (2, 1) == (seen["counts"]["COMPLETED"], seen["counts"]["FAILED"])
    assert (batch_id, "DIVIDE", "default", 3) == tuple(seen[n] for n in ("batchId", "taskType", "queue", "size"))
    times = [datetime.fromisoformat(seen[name]) for name in ("submittedAt", "startedAt", "finishedAt")]
    assert sorted(times) == times
    assert seen["ratePerSecond"] == pytest.approx(3 / (times[2] - times[1]).total_seconds(), rel=0.01, abs=0.1)


def test_an_empty_batch_has_ended_at_once(http: httpx.Client) -> None:
    batch_id = post(http, "/batches", taskType="ECHO", payloads=[])["batchId"]

    assert 0 == wait_for_batch(http, batch_id)["size"]
    assert [[]] == [page["taskId"] for page in pages(http, f"/batches/{batch_id}/tasks")]


def test_a_batchs_tasks_come_by_columns_and_pages_in_the_rows_order(http: httpx.Client) -> None:
    payloads = [{"a": row, "b": 1} for row in range(10)] + [{"a": 1, "b": 0}]
    batch_id = post(http, "/batches", taskType="DIVIDE", payloads=payloads)["batchId"]
    wait_for_batch(http, batch_id)

    found = pages(http, f"/batches/{batch_id}/tasks", limit=4, payload="true")

    assert [4, 4, 3] == [len(page["taskId"]) for page in found]
    assert [*COLUMNS, "payload"] == list(found[0])
    whole = {name: [value for page in found for value in page[name]] for name in found[0]}
    assert [f"{batch_id}-{row}" for row in range(11)] == whole["taskId"]
    assert payloads == whole["payload"]
    assert [*map(float, range(10)), None] == whole["result"]
    assert ["COMPLETED"] * 10 + ["FAILED"] == whole["status"]
    assert "ZeroDivisionError" == whole["error"][10]["type"]
    assert [None] * 10 == whole["error"][:10]
    assert {1} == set(whole["attempt"])
    for submitted, started, finished in zip(whole["submittedUs"], whole["startedUs"], whole["finishedUs"], strict=True):
        assert submitted <= started <= finished
    assert "payload" not in pages(http, f"/batches/{batch_id}/tasks")[0]
    assert ids.split_task_id(whole["taskId"][3]) == (batch_id, 3)
    assert batch_id == get(http, f"/tasks/{batch_id}-3")["batchId"]


def test_all_tasks_are_listed_newest_first_by_pages(http: httpx.Client) -> None:
    # given single tasks and a batch, one after the other
    moment = datetime.now(UTC).isoformat()
    first = post(http, "/tasks", taskType="ECHO", payload=1)["taskId"]
    batch = post(http, "/batches", taskType="DIVIDE", payloads=[{"a": 1, "b": n} for n in (1, 0, 2, 0)])["batchId"]
    last = post(http, "/tasks", taskType="FAIL", payload={"message": ""})["taskId"]
    wait_for_batch(http, batch)
    wait_for_task(http, first)
    wait_for_task(http, last)
    newest_first = [last, *(f"{batch}-{row}" for row in (3, 2, 1, 0)), first]

    def listed(limit: int = 1000, **asked: str) -> list[str]:
        found = pages(http, "/tasks", since=moment, limit=limit, **asked)
        return [task_id for page in found for task_id in page["taskId"]]

    # then every way of asking gives them from the newest to the oldest, whatever a page holds
    for limit in (1, 2, 5, 6, 1000):
        assert newest_first == listed(limit)
    assert newest_first == listed(2, payload="true")
    # and filters leave out what does not match, alone and together
    assert [last, f"{batch}-3", f"{batch}-1"] == listed(2, status="FAILED")
    assert newest_first[1:5] == listed(3, type="DIVIDE")
    assert newest_first[1:5] == listed(3, batch=batch)
    assert [f"{batch}-2", f"{batch}-0"] == listed(1, batch=batch, status="COMPLETED")
    assert [first] == listed(type="ECHO", status="COMPLETED")
    assert [] == listed(type="ECHO", batch=batch)
    assert [] == listed(status="QUEUED")


def test_single_tasks_and_batches_are_listed_once_each_however_many_there_are(http: httpx.Client, queue: str) -> None:
    # given more single tasks than are looked at in one go, with batches between, of a type that is this test's alone
    name = f"LISTED_{queue}"
    options = {"queue": queue, "allowUnknown": True}
    newest_first: list[str] = []
    for number in range(250):
        if number % 100 == 50:
            batch = post(http, "/batches", taskType=name, payloads=[1] * 3, options=options)["batchId"]
            newest_first = [f"{batch}-2", f"{batch}-1", f"{batch}-0", *newest_first]
        newest_first.insert(0, post(http, "/tasks", taskType=name, payload=1, options=options)["taskId"])

    for limit in (20, 99, 1000):
        found = pages(http, "/tasks", type=name, limit=limit)
        assert newest_first == [task_id for page in found for task_id in page["taskId"]]
        assert {limit} >= {len(page["taskId"]) for page in found[:-1]}


def test_since_takes_spans_and_moments_and_holds_within_a_batch_too(http: httpx.Client) -> None:
    batch = post(http, "/batches", taskType="ECHO", payloads=[1, 2])["batchId"]
    wait_for_batch(http, batch)
    later = (datetime.now(UTC) + timedelta(seconds=1)).isoformat().replace("+00:00", "Z")

    day = f"{datetime.now(UTC) - timedelta(days=2):%Y-%m-%d}"
    for since in ("60s", "15m", "2h", "1d", f"{day}T12:00:00Z", f"{day}T13:00:00+01:00", day):
        assert 2 == len(get(http, "/tasks", since=since, batch=batch)["columns"]["taskId"]), since
    assert [] == get(http, "/tasks", since=later)["columns"]["taskId"]
    assert [] == get(http, "/tasks", since=later, batch=batch)["columns"]["taskId"]


def test_what_workers_offer_is_listed_with_the_schema_of_each_payload(http: httpx.Client) -> None:
    types = {entry["taskType"]: entry for entry in get(http, "/task-types")["taskTypes"]}

    assert sorted(types) == list(types)
    assert {"ECHO", "SLEEP", "EMAIL_SEND", "DIVIDE"} <= set(types)
    assert "Divide a by b." == types["DIVIDE"]["description"]
    schema = types["EMAIL_SEND"]["payloadSchema"]
    assert ["body", "subject", "to"] == sorted(schema["required"])
    assert "sender" in schema["properties"]


def test_live_workers_are_listed_with_what_they_do(http: httpx.Client) -> None:
    workers = get(http, "/workers")["workers"]

    [mine] = [worker for worker in workers if "default" in worker["queues"]]
    assert {"ECHO", "DIVIDE"} <= set(mine["taskTypes"])
    assert mine["concurrency"] >= 1
    assert 0 <= mine["running"] <= mine["concurrency"]
    assert datetime.fromisoformat(mine["startedAt"]) <= datetime.now(UTC)


def test_it_says_that_it_lives_is_ready_and_what_it_offers(http: httpx.Client) -> None:
    assert {"status": "ok"} == get(http, "/healthz")
    assert {"status": "ready"} == get(http, "/readyz")
    assert "/tasks" in get(http, "/openapi.json")["paths"]
    docs = http.get("/docs")
    assert (200, "text/html; charset=utf-8") == (docs.status_code, docs.headers["content-type"])
    assert '"openapi":"3.1.0"' in docs.text
    assert "http://" not in docs.text.replace("http://127.0.0.1", "")  # it loads nothing from anywhere
    assert "https://" not in docs.text


def test_what_has_expired_is_gone_and_what_never_was_is_not_found(
    http: httpx.Client, redis_client: redis.Redis
) -> None:
    # given a task and a batch that are kept for a second
    options = {"resultTtlSeconds": 1}
    task_id = post(http, "/tasks", taskType="ECHO", payload=1, options=options)["taskId"]
    batch_id = post(http, "/batches", taskType="ECHO", payloads=[1, 2], options=options)["batchId"]

    def status(path: str) -> tuple[int, str]:
        answer = http.get(path)
        return answer.status_code, answer.json().get("type", "").rpartition(":")[2]

    # when that second is over
    def expired() -> None:
        for name in (task_id, f"{batch_id}-0", f"{batch_id}-1"):
            assert (410, "task-expired") == status(f"/tasks/{name}")

    eventually(expired)

    # then the batch still has its counters, and rows without a state
    assert 2 == get(http, f"/batches/{batch_id}")["counts"]["COMPLETED"]
    assert [None, None] == get(http, f"/batches/{batch_id}/tasks")["columns"]["status"]
    assert not redis_client.exists(f"nexusq:task:{task_id}")
    # and what never was is told apart
    assert (404, "task-not-found") == status(f"/tasks/{batch_id}-2")
    assert (404, "task-not-found") == status(f"/tasks/{ids.new_id()}")
    assert (404, "task-not-found") == status(f"/tasks/{ids.new_id()}-0")
    assert (404, "batch-not-found") == status(f"/batches/{ids.new_id()}")
    assert (404, "batch-not-found") == status(f"/batches/{ids.new_id()}/tasks")


def test_who_asks_for_a_task_with_wait_seconds_is_answered_once_it_has_ended(http: httpx.Client) -> None:
    # given a task that is still to come when it is asked for
    task_id = post(http, "/tasks", taskType="ECHO", payload=1, options={"delaySeconds": 1})["taskId"]

    # when it is asked for once, with time to wait
    seen = get(http, f"/tasks/{task_id}", waitSeconds=20)

    # then it has ended, and the answer has come with its end, not after all of the time
    assert "COMPLETED" == seen["status"]
    assert datetime.now(UTC) - datetime.fromisoformat(seen["finishedAt"]) < timedelta(seconds=10)


def test_who_waits_for_a_task_that_does_not_end_is_told_how_it_stands(http: httpx.Client, queue: str) -> None:
    task_id = post(http, "/tasks", taskType="ECHO", payload=1, options={"queue": queue})["taskId"]

    assert "QUEUED" == get(http, f"/tasks/{task_id}", waitSeconds=0.2)["status"]
    assert 404 == http.get(f"/tasks/{ids.new_id()}", params={"waitSeconds": 5}).status_code


@pytest.mark.parametrize("seconds", ["-1", "31", "nan", "soon"])
def test_wait_seconds_are_a_number_up_to_thirty(http: httpx.Client, seconds: str) -> None:
    answer = http.get(f"/tasks/{ids.new_id()}", params={"waitSeconds": seconds})

    assert 422 == answer.status_code
    assert f"expected waitSeconds to be a number from 0 to 30, got {seconds!r}" == answer.json()["detail"]
