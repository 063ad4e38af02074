"""What the HTTP API refuses: each time by a problem document that says what was wrong, and nothing is queued."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import redis
from kafka import KafkaConsumer, TopicPartition

from nexusq_sdk.protocol import ids
from nexusq_sdk.protocol.redis_layout import TYPES
from nexusq_sdk.protocol.words import MAX_CHUNK_TASKS, MAX_TASK_BYTES
from nexusq_server.settings import Settings
from nexusq_server.topics import topic

JSON = {"Content-Type": "application/json"}
NDJSON = {"Content-Type": "application/x-ndjson"}
GZIP = JSON | {"Content-Encoding": "gzip"}
ECHO = b'{"taskType":"ECHO","payload":1}'
MAIL = {"to": "user@example.com", "subject": "s", "body": "b"}


def refused(answer: httpx.Response, status: int, kind: str, said: str, field: str | None = None) -> dict[str, Any]:
    """Hold that an answer is a whole problem document that says this, and give it. `field`: of its first fault."""
    assert status == answer.status_code, answer.text
    assert "application/problem+json" == answer.headers["content-type"]
    problem = dict(answer.json())
    assert {"type", "title", "status", "detail", "errors"} == set(problem)
    assert (f"urn:nexusq:problem:{kind}", status) == (problem["type"], problem["status"])
    assert problem["title"]
    assert said in problem["detail"]
    for error in problem["errors"]:
        assert {"message", "field", "row"} == set(error)
        assert error["message"]
    if field is not None:
        assert field == problem["errors"][0]["field"]
    return problem


def _with_options(options: str) -> bytes:
    return f'{{"taskType":"ECHO","payload":1,"options":{options}}}'.encode()


def _sleep(seconds: str) -> bytes:
    return f'{{"taskType":"SLEEP","payload":{{"seconds":{seconds}}}}}'.encode()


@pytest.mark.parametrize(
    ("body", "field", "said"),
    [
        (b"", None, "expected the body to be JSON in UTF-8"),
        (b"to=user", None, "expected the body to be JSON in UTF-8"),
        (ECHO + b" 2", None, "expected the body to be JSON in UTF-8"),
        (ECHO.replace(b"1", b"NaN"), None, "expected the body to be JSON in UTF-8"),
        (ECHO.replace(b"1", b'"\xff"'), None, "expected the body to be JSON in UTF-8"),
        (ECHO.replace(b"1", rb'"\ud800"'), None, "expected the body to be JSON in UTF-8"),
        (ECHO.replace(b"1", b"[" * 100_000 + b"]" * 100_000), None, "expected the body to be JSON in UTF-8"),
        (b"[]", "", "expected the body to be object, got array"),
        (b"{}", "taskType", "'taskType' is missing"),
        (b'{"taskType":"ECHO"}', "payload", "'payload' is missing"),
        (b'{"taskType":7,"payload":1}', "taskType", "expected taskType to be str, got int"),
        (ECHO[:-1] + b',"taskID":"7"}', "taskID", "unknown field 'taskID'; did you mean 'taskId'?"),
        (ECHO[:-1] + b',"colour":"red"}', "colour", "unknown field 'colour'"),
        (ECHO[:-1] + b',"taskId":"7"}', "taskId", "expected taskId to be a uuid in lower case, got '7'"),
        (ECHO[:-1] + b',"taskId":"01A20E45-5716-74DF-A356-688BECB510F5"}', "taskId", "in lower case"),
        (_with_options('{"que":"mails"}'), "options.que", "unknown field 'options.que'; did you mean 'queue'?"),
        (_with_options("[]"), "options", "expected options to be object"),
        (_with_options('{"queue":7}'), "options.queue", "expected options.queue to be str"),
        (_with_options('{"queue":"Mails"}'), "options.queue", "such as 'reports'"),
        (_with_options('{"queue":"dead"}'), "options.queue", "not dead, high, low, normal), got 'dead'"),
        (_with_options(f'{{"queue":"{"q" * 61}"}}'), "options.queue", "60 at most"),
        (_with_options('{"resultTtlSeconds":0}'), "options.resultTtlSeconds", "from 1 to ten years, got 0"),
        (_with_options('{"resultTtlSeconds":1e12}'), "options.resultTtlSeconds", "from 1 to ten years, got 1e+12"),
        (_with_options('{"resultTtlSeconds":"1h"}'), "options.resultTtlSeconds", "to be float | null, got str"),
        (b'{"taskType":"E CHO","payload":1,"options":{"allowUnknown":true}}', "taskType", "such as 'EMAIL_SEND'"),
        (b'{"taskType":"","payload":1,"options":{"allowUnknown":true}}', "taskType", "such as 'EMAIL_SEND'"),
    ],
)
def test_a_body_that_is_no_task_is_refused_naming_the_field(
    http: httpx.Client, body: bytes, field: str | None, said: str
) -> None:
    refused(http.post("/tasks", content=body, headers=JSON), 422, "invalid-request", said, field)


@pytest.mark.parametrize(
    ("body", "field", "said"),
    [
        (_sleep("-1"), "seconds", "SLEEP: expected 'seconds' to fit the type's schema: -1 is less than"),
        (_sleep('"1"'), "seconds", "SLEEP: expected 'seconds' to be a number, got \"1\""),
        (_sleep("1").replace(b"seconds", b"second"), "second", "did you mean 'seconds'?"),
        (b'{"taskType":"SLEEP","payload":{}}', "seconds", "SLEEP: 'seconds' is missing"),
        (b'{"taskType":"SLEEP","payload":[1]}', "", "SLEEP: expected the payload to be an object, got [1]"),
        # numbers that no reader of JSON holds would spoil every page that has them
        (_sleep("1e999"), "", "SLEEP: expected the payload to be JSON that can be read: Number out of range"),
        (_sleep("1" + "0" * 5000), "", "expected the payload to be JSON that can be read"),
        (ECHO.replace(b"1", b"1e999"), "", "ECHO: expected the payload to be JSON that can be read"),
    ],
)
def test_a_payload_that_its_handler_would_not_take_is_refused_naming_the_field(
    http: httpx.Client, body: bytes, field: str, said: str
) -> None:
    problem = refused(http.post("/tasks", content=body, headers=JSON), 422, "invalid-payload", said, field)

    assert {None} == {error["row"] for error in problem["errors"]}


def test_a_batch_with_a_wrong_row_is_refused_whole_naming_rows_and_fields(
    http: httpx.Client, redis_client: redis.Redis, queue: str, settings: Settings
) -> None:
    # given a chunk whose rows are counted from 10, two of them wrong
    batch_id = ids.new_id()
    rows = [MAIL, {**MAIL, "to": 1}, MAIL, {"to": "user@example.com", "subject": "s", "boddy": "b"}]
    chunk = {"taskType": "EMAIL_SEND", "batchId": batch_id, "firstIndex": 10, "payloads": rows}

    # when it is posted
    answer = http.post("/batches", json=chunk | {"options": {"queue": queue}})

    # then each fault is told with its row and field
    said = "EMAIL_SEND: row 11: expected 'to' to be a string, got 1; 2 of 4 rows are wrong"
    problem = refused(answer, 422, "invalid-payload", said)
    faults = {(error["row"], error["field"]): error["message"] for error in problem["errors"]}
    assert {(11, "to"), (13, "boddy"), (13, "body")} == set(faults)
    assert "'boddy' is not a field of it; did you mean 'body'?" == faults[13, "boddy"]
    assert "'body' is missing" == faults[13, "body"]
    # and nothing of it is anywhere
    refused(http.get(f"/batches/{batch_id}"), 404, "batch-not-found", batch_id)
    assert [] == list(redis_client.scan_iter(f"nexusq:*{batch_id}*", count=10_000))
    consumer = KafkaConsumer(bootstrap_servers=list(settings.kafka))
    ends = consumer.end_offsets([TopicPartition(topic(queue), number) for number in range(settings.partitions)])
    consumer.close()
    assert {0} == set(ends.values())


def test_of_many_wrong_rows_the_first_are_listed_and_all_are_counted(http: httpx.Client) -> None:
    answer = http.post("/batches", json={"taskType": "SLEEP", "payloads": [{}] * 500})

    problem = refused(answer, 422, "invalid-payload", "500 of 500 rows are wrong")
    assert list(range(20)) == [error["row"] for error in problem["errors"]]


@pytest.mark.parametrize(("name", "hint"), [("ECH", "did you mean ECHO"), ("email_send", "did you mean EMAIL_SEND")])
def test_an_unknown_type_is_refused_with_the_nearest_names_and_what_to_do(
    http: httpx.Client, name: str, hint: str
) -> None:
    for path, body in (("/tasks", {"payload": 1}), ("/batches", {"payloads": [1]})):
        answer = http.post(path, json={"taskType": name, **body})
        problem = refused(answer, 422, "unknown-task-type", hint, "taskType")
        assert "set options.allowUnknown" in problem["detail"]


def test_allow_unknown_lets_a_type_through_that_no_worker_has_offered(http: httpx.Client, queue: str) -> None:
    options = {"allowUnknown": True, "queue": queue}

    answer = http.post("/tasks", json={"taskType": "YET_TO_COME", "payload": 1, "options": options})

    assert 202 == answer.status_code, answer.text
    seen = http.get(f"/tasks/{answer.json()['taskId']}").json()
    assert ("QUEUED", queue) == (seen["status"], seen["queue"])


@pytest.fixture
def odd_type(redis_client: redis.Redis) -> Iterator[str]:
    """Offer a type whose pattern Python knows and the API's validator does not."""
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": r"(a)?(?(1)b|\N{BULLET})"}}}
    entry = {"taskType": "ODD_PATTERN", "description": "", "payloadSchema": schema}
    redis_client.hset(TYPES, "ODD_PATTERN", json.dumps(entry))
    yield "ODD_PATTERN"
    redis_client.hdel(TYPES, "ODD_PATTERN")


def test_a_schema_that_the_api_can_not_check_is_left_to_the_workers(
    http: httpx.Client, queue: str, odd_type: str
) -> None:
    answer = http.post("/tasks", json={"taskType": odd_type, "payload": {"a": "b"}, "options": {"queue": queue}})

    assert 202 == answer.status_code, answer.text


def test_what_is_too_large_is_refused_before_it_takes_up_memory(http: httpx.Client) -> None:
    def post(body: bytes, said: str, path: str = "/tasks", headers: dict[str, str] = JSON) -> None:
        refused(http.post(path, content=body, headers=headers), 413, "body-too-large", said)

    large = json.dumps("x" * MAX_TASK_BYTES).encode()
    post(ECHO.replace(b"1", large), "expected a payload of at most 900 kB, got 900 kB")
    chunk = b'{"taskType":"ECHO","firstIndex":7,"payloads":[1,%b]}' % large
    post(chunk, "row 8: expected a payload of at most 900 kB", "/batches")
    rows = {"taskType": "ECHO", "payloads": [1] * (MAX_CHUNK_TASKS + 1)}
    post(json.dumps(rows).encode(), f"at most {MAX_CHUNK_TASKS} tasks a chunk, got {MAX_CHUNK_TASKS + 1}", "/batches")
    post(b" " * (64 * 2**20 + 1), "expected a body of at most 64 MiB")
    # a bomb: 65 MiB that come as 300 kB
    post(gzip.compress(bytes(65 * 2**20), 1), "expected a body of at most 64 MiB, unpacked", headers=GZIP)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (ECHO, "expected a body packed with gzip"),
        (b"", "expected a whole gzip body, got one that breaks off"),
        (gzip.compress(ECHO)[:-5], "expected a whole gzip body, got one that breaks off"),
        (gzip.compress(ECHO) + b"and more", "expected a body packed with gzip"),
        (gzip.compress(ECHO) + gzip.compress(b" ")[:-5], "expected a whole gzip body, got one that breaks off"),
        (gzip.compress(b"") * 1_000_000, "expected a gzip body of at most 2000 members, got more"),
    ],
    ids=["not packed", "empty", "cut", "something behind", "second member cut", "too many members"],
)
def test_a_broken_gzip_body_is_refused(http: httpx.Client, body: bytes, said: str) -> None:
    refused(http.post("/tasks", content=body, headers=GZIP), 422, "invalid-request", said)


@pytest.mark.parametrize(
    ("path", "headers", "said"),
    [
        ("/tasks", {"Content-Type": "text/plain"}, "expected Content-Type to be application/json or application/x-nd"),
        ("/batches", {"Content-Type": "text/csv"}, "got 'text/csv'"),
        ("/tasks", NDJSON, "POST /batches takes NDJSON"),
        ("/tasks", JSON | {"Content-Encoding": "br"}, "expected Content-Encoding to be gzip or absent, got 'br'"),
    ],
)
def test_a_content_type_or_encoding_that_is_not_taken_is_refused(
    http: httpx.Client, path: str, headers: dict[str, str], said: str
) -> None:
    refused(http.post(path, content=ECHO, headers=headers), 415, "unsupported-body", said)


@pytest.mark.parametrize(
    ("asked", "field", "said"),
    [
        ({}, "taskType", "'taskType' is missing"),
        ({"taskType": "ECHO", "lst": "false"}, "lst", "expected query parameters among taskType, batchId, firstIndex"),
        ({"taskType": "ECHO", "last": "no"}, "last", "expected last to be true or false, got 'no'"),
        ({"taskType": "ECHO", "allowUnknown": "1"}, "allowUnknown", "to be true or false, got '1'"),
        ({"taskType": "ECHO", "firstIndex": "x"}, "firstIndex", "to be a whole number, got 'x'"),
        ({"taskType": "ECHO", "firstIndex": "-1"}, "firstIndex", "from 0 to 1,000,000,000, got -1"),
        ({"taskType": "ECHO", "batchId": "x"}, "batchId", "expected batchId to be a uuid in lower case, got 'x'"),
        ({"taskType": "ECHO", "resultTtlSeconds": "nan"}, "options.resultTtlSeconds", "got nan"),
        ({"taskType": "ECHO", "queue": "high"}, "options.queue", "got 'high'"),
    ],
)
def test_a_wrong_parameter_beside_lines_is_refused(
    http: httpx.Client, asked: dict[str, str], field: str, said: str
) -> None:
    answer = http.post("/batches", content=b"1\n2\n", headers=NDJSON, params=asked)

    refused(answer, 422, "invalid-request", said, field)


@pytest.mark.parametrize("line", [b"{", b'"\xff"', b"[" * 100_000 + b"]" * 100_000])
def test_a_line_that_is_not_json_is_refused_by_its_number_and_row(http: httpx.Client, line: bytes) -> None:
    body = b"1\n\n" + line + b"\n"

    answer = http.post("/batches", content=body, headers=NDJSON, params={"taskType": "ECHO", "firstIndex": 100})

    problem = refused(answer, 422, "invalid-request", "expected line 3 to be JSON in UTF-8")
    assert [101] == [error["row"] for error in problem["errors"]]


def test_a_parameter_beside_a_json_body_is_refused_and_not_passed_over(http: httpx.Client) -> None:
    for path in ("/tasks", "/batches"):
        answer = http.post(path, content=ECHO, headers=JSON, params={"last": "false"})
        refused(answer, 422, "invalid-request", "expected no query parameters with JSON, got 'last'", "last")


def test_a_chunk_that_contradicts_its_batch_is_refused_and_changes_nothing(http: httpx.Client, queue: str) -> None:
    batch_id = ids.new_id()
    chunk = {"taskType": "ECHO", "batchId": batch_id, "payloads": [1, 2, 3], "options": {"queue": queue}}

    def post(**changed: Any) -> httpx.Response:
        return http.post("/batches", json=chunk | changed)

    # given an open batch of three rows
    assert 202 == post(last=False).status_code
    refused(post(taskType="SLEEP", payloads=[{"seconds": 0}]), 409, "batch-conflict", "expected taskType to be 'ECHO'")
    refused(post(options={}), 409, "batch-conflict", f"expected queue to be '{queue}'")
    said = "expected the last chunk of batch"
    refused(post(payloads=[1], last=True), 409, "batch-conflict", said)

    # given that it is closed
    assert 202 == post(last=True).status_code
    refused(post(firstIndex=1), 409, "batch-conflict", "is closed with 3 tasks, got rows up to 3")
    refused(post(payloads=[1], last=True), 409, "batch-conflict", said)

    # then it is still as it was, and what it has already may come again
    assert 202 == post(firstIndex=1, payloads=[2], last=False).status_code
    seen = http.get(f"/batches/{batch_id}").json()
    assert (3, True, 3) == (seen["size"], seen["closed"], seen["counts"]["QUEUED"])


def _cursor(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("status", "DONE", "expected status to be one of SCHEDULED, QUEUED, IN_PROGRESS, COMPLETED, FAILED, CANCELLED"),
        ("since", "yesterday", "expected since to be a span such as 15m, 2h or 1d, or a time such as"),
        ("since", "-5s", "expected since to be a span"),
        ("since", "²d", "expected since to be a span"),
        ("since", "9" * 20 + "d", "expected since to be a span"),
        ("limit", "0", "expected limit to be from 1 to 10000, got 0"),
        ("limit", "10001", "expected limit to be from 1 to 10000, got 10001"),
        ("limit", "9" * 5000, "expected limit to be a whole number"),
        ("payload", "yes", "expected payload to be true or false, got 'yes'"),
        ("statsu", "FAILED", "expected query parameters among status, type, batch, since, cursor, limit"),
        ("cursor", "x", "expected cursor to be the nextCursor of an earlier page, got 'x'"),
        ("cursor", "é", "expected cursor to be the nextCursor"),
        ("cursor", _cursor("[7]"), "expected cursor to be the nextCursor"),
        ("cursor", _cursor('["+inf", "x", 1]'), "expected cursor to be the nextCursor"),
        ("cursor", _cursor('["1", "x", -1]'), "expected cursor to be the nextCursor"),
        ("cursor", _cursor("[" * 10_000), "expected cursor to be the nextCursor"),
    ],
)
def test_a_wrong_query_parameter_is_refused_by_its_name(http: httpx.Client, field: str, value: str, said: str) -> None:
    refused(http.get("/tasks", params={field: value}), 422, "invalid-request", said, field)


def test_a_batchs_page_takes_no_cursor_of_another_kind(http: httpx.Client) -> None:
    batch_id = http.post("/batches", json={"taskType": "ECHO", "payloads": [1, 2]}).json()["batchId"]

    for cursor in (_cursor('["1", "x", 1]'), _cursor("[-1]"), _cursor("[true]")):
        answer = http.get(f"/batches/{batch_id}/tasks", params={"cursor": cursor})
        refused(answer, 422, "invalid-request", "expected cursor to be the nextCursor", "cursor")


@pytest.mark.parametrize(
    ("method", "path", "status", "kind", "said"),
    [
        ("GET", "/tasks/7", 404, "task-not-found", "expected a task id, <uuid> or <uuid>-<index> in lower case, got"),
        ("GET", "/batches/7", 404, "batch-not-found", "expected a batch id, a uuid in lower case, got '7'"),
        ("GET", "/tasks?batch=7", 404, "batch-not-found", "expected a batch id"),
        ("GET", "/nowhere", 404, "not-found", "GET /nowhere: Not Found; the calls are listed at /docs"),
        ("GET", "/tasks/a/b", 404, "not-found", "Not Found"),
        ("DELETE", "/tasks", 405, "method-not-allowed", "DELETE /tasks: Method Not Allowed; the calls are listed"),
        ("POST", "/workers", 405, "method-not-allowed", "Method Not Allowed"),
    ],
)
def test_what_is_nowhere_is_refused_as_a_problem_too(
    http: httpx.Client, method: str, path: str, status: int, kind: str, said: str
) -> None:
    refused(http.request(method, path), status, kind, said)


def test_a_method_that_is_not_allowed_is_told_which_are(http: httpx.Client) -> None:
    for path, allowed in (("/tasks", "GET, HEAD, POST"), ("/batches", "GET, HEAD, POST"), ("/tasks/7", "GET, HEAD")):
        answer = http.request("PUT", path)
        refused(answer, 405, "method-not-allowed", f"PUT {path}")
        assert allowed == answer.headers["allow"]
