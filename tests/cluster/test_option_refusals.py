"""Options that can't be meant, over HTTP: 422, naming the field. All of them at once: tests/pure/test_options.py."""

from __future__ import annotations

from typing import Any

import httpx
import pytest


@pytest.mark.parametrize(
    ("options", "field", "expected"),
    [
        ({"queue": "Reports"}, "queue", "expected queue to be a name such as 'reports'"),
        ({"queue": 7}, "queue", "expected options.queue to be str | null, got int"),
        ({"priority": "urgent"}, "priority", "urgent"),
        ({"delaySeconds": -1}, "delaySeconds", "from 0 to ten years, got -1"),
        ({"delaySeconds": "5"}, "delaySeconds", "expected options.delaySeconds to be float | null, got str"),
        ({"eta": "tomorrow"}, "eta", "RFC3339"),
        ({"eta": "2030-01-01T00:00:00"}, "eta", "a time with its offset"),
        ({"eta": "2030-01-01T00:00:00Z", "delaySeconds": 1}, "eta", "got both"),
        ({"maxAttempts": 0}, "maxAttempts", "from 1 to 1000000, got 0"),
        ({"maxAttempts": 1.5}, "maxAttempts", "int"),
        ({"backoff": {"initialSeconds": -1}}, "backoff.initialSeconds", "from 0 to ten years"),
        ({"backoff": {"first": 1}}, "backoff.first", "unknown field"),
        ({"backoff": 3}, "backoff", "expected options.backoff to be object | null, got int"),
        ({"timeoutSeconds": 0}, "timeoutSeconds", "above 0"),
        ({"resultTtlSeconds": 0}, "resultTtlSeconds", "from 1 to ten years"),
        ({"idempotencyKey": ""}, "idempotencyKey", "1 to 255 characters"),
        ({"allowUnknown": "yes"}, "allowUnknown", "expected options.allowUnknown to be bool, got str"),
        ({"maxAttempt": 3}, "maxAttempt", "did you mean 'maxAttempts'?"),
    ],
)
@pytest.mark.parametrize("path", ["/tasks", "/batches"])
def test_an_option_that_can_not_be_meant_is_refused_and_named(
    http: httpx.Client, path: str, options: dict[str, Any], field: str, expected: str
) -> None:
    body = {"taskType": "ECHO", "options": options} | ({"payload": 1} if path == "/tasks" else {"payloads": [1]})

    answer = http.post(path, json=body)

    assert 422 == answer.status_code, answer.text
    problem = answer.json()
    assert problem["type"].endswith("invalid-request")
    assert expected in problem["detail"]
    assert [f"options.{field}"] == [error["field"] for error in problem["errors"]]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"priority": "urgent"}, "urgent"),
        ({"delaySeconds": "soon"}, "delaySeconds"),
        ({"maxAttempts": "0"}, "from 1 to 1000000, got 0"),
        ({"backoff": "1"}, "got 'backoff'"),
    ],
)
def test_options_of_ndjson_are_checked_as_well(http: httpx.Client, asked: dict[str, str], expected: str) -> None:
    headers = {"Content-Type": "application/x-ndjson"}

    answer = http.post("/batches", params={"taskType": "ECHO"} | asked, content="1\n", headers=headers)

    assert 422 == answer.status_code, answer.text
    assert expected in answer.json()["detail"]
    assert answer.json()["errors"]
