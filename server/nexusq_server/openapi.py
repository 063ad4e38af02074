"""The API's description: OpenAPI 3.1 made from the wire's own types, and a page that shows it without a network."""

from __future__ import annotations

import functools
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import msgspec

from nexusq_sdk.protocol import wire, wire_reports
from nexusq_sdk.protocol.words import Priority, Status
from nexusq_server.bodies import LONGEST_HOLD
from nexusq_server.problems import MEDIA_TYPE, Refusal

_TASK_ID = "01a20e45-5716-74df-a356-688becb510f5"
_MAIL = {"to": "user@example.com", "subject": "Hello from NexusQ!", "body": "This is an asynchronous email."}
_EXAMPLES: dict[type, Any] = {
    wire.SubmitTask: {"taskType": "EMAIL_SEND", "payload": _MAIL},
    wire.Submitted: {"taskId": _TASK_ID, "status": "QUEUED"},
    wire.SubmitChunk: {"taskType": "EMAIL_SEND", "payloads": [_MAIL], "options": {"queue": "mails"}},
    wire.ChunkAccepted: {"batchId": _TASK_ID, "firstIndex": 0, "accepted": 1, "closed": True},
    wire.TaskView: {
        "taskId": _TASK_ID,
        "taskType": "EMAIL_SEND",
        "status": "COMPLETED",
        "payload": _MAIL,
        "result": {"deliveryStatus": "SENT"},
        "attempt": 1,
        "worker": "host-4711-9f3c",
        "queue": "default",
        "submittedAt": "2026-01-31T12:00:00.000000Z",
        "startedAt": "2026-01-31T12:00:00.004000Z",
        "finishedAt": "2026-01-31T12:00:00.019000Z",
        "expiresAt": "2026-02-01T12:00:01Z",
    },
    wire.BatchView: {
        "batchId": _TASK_ID,
        "taskType": "EMAIL_SEND",
        "queue": "default",
        "size": 1000,
        "closed": True,
        "counts": dict.fromkeys((status.value for status in Status), 0) | {"COMPLETED": 998, "FAILED": 2},
        "ratePerSecond": 512.3,
        "submittedAt": "2026-01-31T12:00:00.000000Z",
        "startedAt": "2026-01-31T12:00:00.004000Z",
        "finishedAt": "2026-01-31T12:00:01.952000Z",
        "name": "exp-7",
        "p50Seconds": 0.012,
        "p95Seconds": 0.031,
        "errors": [{"type": "smtplib.SMTPRecipientsRefused", "count": 2, "taskId": f"{_TASK_ID}-17"}],
        "expiresAt": "2026-02-01T12:00:02Z",
    },
    wire_reports.NameBatch: {"batchId": _TASK_ID, "digest": "9f86d081884c7d65"},
    wire_reports.NamedBatch: {"name": "exp-7", "batchId": _TASK_ID, "digest": "9f86d081884c7d65"},
    wire_reports.LaneView: {
        "queue": "default",
        "priority": "normal",
        "lag": 1200,
        "due": 3,
        "inProgress": 16,
        "ratePerSecond": 512.3,
        "workers": 2,
    },
    wire_reports.Backlog: {
        "queue": "default",
        "backlog": 1203,
        "ready": 1184,
        "dueSoon": 3,
        "inProgress": 16,
        "workers": 2,
    },
    wire.Requeue: {"batch": _TASK_ID},
    wire.Requeued: {"requeued": 2},
    wire.DeadLetters: {
        "deadLetters": [
            {
                "reason": "SMTPRecipientsRefused: 550 no such mailbox",
                "at": "2026-01-31T12:00:00.019000Z",
                "taskId": _TASK_ID,
                "taskType": "EMAIL_SEND",
                "queue": "default",
                "attempt": 1,
                "payload": _MAIL,
                "error": {
                    "type": "smtplib.SMTPRecipientsRefused",
                    "message": "550 no such mailbox",
                    "traceback": "...",
                },
                "history": [],
            }
        ],
        "nextCursor": None,
    },
    wire.Schedule: {
        "taskType": "EMAIL_SEND",
        "payload": _MAIL,
        "cron": "30 8 * * MON-FRI",
        "timeZone": "Europe/Berlin",
        "missed": "once",
    },
    wire.ScheduleView: {
        "name": "morning-mail",
        "taskType": "EMAIL_SEND",
        "payload": _MAIL,
        "cron": "30 8 * * MON-FRI",
        "timeZone": "Europe/Berlin",
        "createdAt": "2026-01-29T12:00:00.000000Z",
        "nextAt": "2026-02-02T07:30:00Z",
        "lastAt": "2026-01-30T07:30:00Z",
        "lastTaskId": "7d1c3a4e-7a44-5f0e-9d53-0c1a0cc3f4a9",
    },
    wire.Lookup: {"taskIds": [_TASK_ID], "results": True},
    wire.Blob: {"blobId": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", "bytes": 1043},
    wire.TaskPage: {"columns": {"taskId": [_TASK_ID], "status": ["COMPLETED"]}, "nextCursor": None},
    wire.Problem: {
        "type": "urn:nexusq:problem:invalid-payload",
        "title": "A payload does not fit its task type",
        "status": 422,
        "detail": "EMAIL_SEND: row 17: 'to' is missing",
        "errors": [{"message": "'to' is missing", "field": "to", "row": 17}],
    },
}
#: What the probes answer.
_STATUS = {"type": "object", "properties": {"status": {"type": "string"}}, "required": ["status"]}
_TYPES = [*_EXAMPLES, wire_reports.Batches, wire_reports.Queues, wire.Schedules, wire.TaskTypes, wire.Workers]

_PAGE = [
    ("limit", {"type": "integer", "minimum": 1, "maximum": 10000, "default": 1000}, "rows a page"),
    ("cursor", {"type": "string"}, "nextCursor of the page before"),
    ("payload", {"type": "boolean", "default": False}, "whether to give the payloads as well"),
]
_ROWS = [("firstIndex", {"type": "integer", "minimum": 0, "default": 0}, "the row to begin with"), *_PAGE]
_FILTERS = [
    ("status", {"type": "string", "enum": list(Status)}, "only tasks with this status"),
    ("type", {"type": "string"}, "only tasks of this type"),
    ("batch", {"type": "string"}, "only tasks of this batch"),
    ("since", {"type": "string"}, "submitted since: 15m, 2h, 1d, or an RFC 3339 time"),
]
_LINES = [
    ("taskType", {"type": "string"}, "NDJSON only, needed there"),
    ("batchId", {"type": "string"}, "NDJSON only"),
    ("firstIndex", {"type": "integer", "minimum": 0, "default": 0}, "NDJSON only"),
    ("last", {"type": "boolean", "default": True}, "NDJSON only"),
    ("queue", {"type": "string"}, "NDJSON only"),
    ("resultTtlSeconds", {"type": "number"}, "NDJSON only"),
    ("allowUnknown", {"type": "boolean", "default": False}, "NDJSON only"),
    ("priority", {"type": "string", "enum": list(Priority)}, "NDJSON only"),
    ("delaySeconds", {"type": "number"}, "NDJSON only"),
    ("eta", {"type": "string", "format": "date-time"}, "NDJSON only"),
    ("maxAttempts", {"type": "integer"}, "NDJSON only"),
    ("timeoutSeconds", {"type": "number"}, "NDJSON only"),
    ("idempotencyKey", {"type": "string"}, "NDJSON only"),
]
_CANCELLED = [("cancelled", {"type": "boolean", "default": False}, "whether to take back what was cancelled as well")]
_HOLD = [
    (
        "waitSeconds",
        {"type": "number", "minimum": 0, "maximum": LONGEST_HOLD, "default": 0},
        "answer as soon as the task has ended, but not later than so many seconds from now",
    )
]
_BACKLOG = [
    (
        "dueWithinSeconds",
        {"type": "integer", "minimum": 0, "maximum": 86400, "default": 30},
        "count tasks that are due so soon",
    )
]
_LETTERS = [_FILTERS[1], _FILTERS[2], *_PAGE[:2]]
#: Method, path, what it is for, body, answer's status and type, query parameters, statuses of its refusals.
_CALLS: list[tuple[str, str, str, type | None, int, type | None, list[Any], list[int]]] = [
    ("post", "/tasks", "Submit one task", wire.SubmitTask, 202, wire.Submitted, [], [409, 410, 413, 415, 422, 503]),
    ("get", "/tasks", "List tasks, newest first, by columns",
     None, 200, wire.TaskPage, _FILTERS + _PAGE, [404, 422, 503]),
    ("get", "/tasks/{taskId}", "All that is known of a task", None, 200, wire.TaskView, _HOLD, [404, 410, 422, 503]),
    ("post", "/batches", "Submit a batch or a chunk of one; JSON or NDJSON (a payload a line), gzip too",
     wire.SubmitChunk, 202, wire.ChunkAccepted, _LINES, [409, 413, 415, 422, 503]),
    ("get", "/batches", "List batches, newest first",
     None, 200, wire_reports.Batches, [_FILTERS[3], *_PAGE[:2]], [422, 503]),
    ("get", "/batches/{batchId}", "A batch's counters", None, 200, wire.BatchView, [], [404, 503]),
    ("get", "/batches/{batchId}/tasks", "A batch's tasks, by columns",
     None, 200, wire.TaskPage, _ROWS, [404, 422, 503]),
    ("post", "/tasks/{taskId}/cancel", "Cancel a task: at once where it waits, else its handler is asked to end",
     None, 200, wire.Submitted, [], [404, 410, 503]),
    ("post", "/tasks/{taskId}/retry", "Try a task again that failed or was cancelled",
     None, 200, wire.Submitted, [], [404, 409, 410, 503]),
    ("post", "/batches/{batchId}/cancel", "Cancel all tasks of a batch that have not ended, and those to come",
     None, 200, wire.BatchView, [], [404, 503]),
    ("post", "/batches/{batchId}/retry", "Try the tasks of a batch again that failed",
     None, 200, wire.Requeued, _CANCELLED, [404, 422, 503]),
    ("post", "/tasks/lookup", "How these tasks stand, by columns, in the order of the ids; null: not known",
     wire.Lookup, 200, wire.TaskPage, [], [413, 415, 422, 503]),
    ("put", "/blobs/{blobId}", "Keep signed bytes under their SHA-256: a function, or a large argument of one",
     bytes, 200, wire.Blob, [], [403, 404, 413, 415, 422, 503]),
    ("get", "/blobs/{blobId}", "Whether a blob is kept; it is then kept for longer",
     None, 200, wire.Blob, [], [403, 404, 422, 503]),
    ("get", "/dead-letters", "What failed for good, newest first",
     None, 200, wire.DeadLetters, _LETTERS, [422, 503]),
    ("post", "/dead-letters/requeue", "Take tasks back from the dead letters: by id, of a batch, of a type, or all",
     wire.Requeue, 200, wire.Requeued, [], [413, 415, 422, 503]),
    ("get", "/schedules", "Tasks that are submitted again and again, by cron",
     None, 200, wire.Schedules, [], [422, 503]),
    ("get", "/schedules/{name}", "A schedule, and when it ticks next",
     None, 200, wire.ScheduleView, [], [404, 422, 503]),
    ("put", "/schedules/{name}", "Create or replace a schedule",
     wire.Schedule, 200, wire.ScheduleView, [], [413, 415, 422, 503]),
    ("delete", "/schedules/{name}", "Remove a schedule; what it has submitted runs",
     None, 200, wire.ScheduleView, [], [404, 422, 503]),
    ("put", "/names/{name}", "Give a batch a name, or learn which one has it; refused if that one has other inputs",
     wire_reports.NameBatch, 200, wire_reports.NamedBatch, [], [409, 413, 415, 422, 503]),
    ("get", "/names/{name}", "Which batch has the name", None, 200, wire_reports.NamedBatch, [], [404, 422, 503]),
    ("get", "/queues", "What waits in the queues, by priority; not older than a second",
     None, 200, wire_reports.Queues, [], [422, 503]),
    ("get", "/queues/{queue}/backlog", "The work that a queue's workers have before them, to scale them by",
     None, 200, wire_reports.Backlog, _BACKLOG, [404, 422, 503]),
    ("get", "/task-types", "What workers offer, with the schema of each payload", None, 200, wire.TaskTypes, [], [503]),
    ("get", "/workers", "The live workers", None, 200, wire.Workers, [], [503]),
    ("get", "/healthz", "Whether the process answers", None, 200, None, [], []),
    ("get", "/readyz", "Whether Kafka and Redis answer", None, 200, None, [], [503]),
]  # fmt: skip


def _raw(_: type) -> dict[str, Any]:
    """Describe `msgspec.Raw`: any JSON."""
    return {"description": "any JSON"}


@functools.cache
def openapi() -> bytes:
    """Give the document as JSON."""
    _, components = msgspec.json.schema_components(_TYPES, schema_hook=_raw, ref_template="#/components/schemas/{name}")
    for kind, example in _EXAMPLES.items():
        components[kind.__name__]["examples"] = [example]
    titles: dict[int, list[str]] = {}
    for refusal in Refusal.__subclasses__():
        titles.setdefault(refusal.status, []).append(refusal.title)
    paths: dict[str, Any] = {}
    for method, path, summary, body, status, answer, parameters, refusals in _CALLS:
        call: dict[str, Any] = {
            "summary": summary,
            "operationId": f"{method}{''.join(word.strip('{}').title() for word in path.split('/'))}".replace("-", ""),
            "parameters": [
                {"name": path[path.index("{") + 1 : path.index("}")], "in": "path", "required": True,
                 "schema": {"type": "string"}},
            ] if "{" in path else [],
            "responses": {str(status): {"description": "OK" if status == 200 else "Accepted: safe in Kafka"}},
        }  # fmt: skip
        call["parameters"] += [
            {"name": name, "in": "query", "schema": schema, "description": text} for name, schema, text in parameters
        ]
        if body is not None:
            content: dict[str, Any] = {"application/json": {"schema": _ref(body)}}
            if body is bytes:
                content = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
            if path == "/batches":
                content["application/x-ndjson"] = {"schema": {"type": "string"}}
            call["requestBody"] = {"required": True, "content": content}
        call["responses"][str(status)]["content"] = {
            "application/json": {"schema": _STATUS if answer is None else _ref(answer)}
        }
        for code in refusals:
            call["responses"][str(code)] = {
                "description": "; ".join(titles[code]),
                "content": {MEDIA_TYPE: {"schema": _ref(wire.Problem)}},
            }
        paths.setdefault(path, {})[method] = call
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": "NexusQ", "version": version("nexusq"), "license": {"name": "MIT"}},
            "paths": paths,
            "components": {"schemas": components},
        }
    )


def _ref(kind: type) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


@functools.cache
def docs_page() -> str:
    """Give the page that shows the document. It loads nothing from anywhere."""
    return (files("nexusq_server") / "docs.html").read_text().replace("/*OPENAPI*/null", openapi().decode())
