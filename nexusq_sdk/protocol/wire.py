"""What travels over HTTP and Kafka, one type each: snake_case here, camelCase on the wire.

SDK and server use the same types, so that neither can drift from the other. A field whose value is a time says
its unit: ``…At`` is an RFC 3339 timestamp in UTC, ``…Us`` whole microseconds since 1970, ``…Seconds`` seconds.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from msgspec import UNSET, Raw, Struct, UnsetType

from nexusq_sdk.protocol.words import Missed, Priority, Status


class Strict(Struct, rename="camel", kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a client sends: an unknown field is refused, since it is most likely a misspelt one."""


class StrictValue(Struct, rename="camel", kw_only=True, omit_defaults=True, forbid_unknown_fields=True, frozen=True):
    """The same, for what never changes: it can be a key."""


class Answer(Struct, rename="camel", kw_only=True, omit_defaults=True):
    """What the server sends: unknown fields are passed over, so that an older SDK reads a newer server."""


class Backoff(StrictValue, frozen=True):
    """How long to wait before the next attempt: a random time up to ``initial * 2**n``, at most `cap` ("full jitter").

    n counts the attempts that have failed, from 0. Source: "Exponential Backoff And Jitter", AWS Architecture Blog,
    2015.
    """

    initial_seconds: float = 1.0
    cap_seconds: float = 300.0


class Options(StrictValue, frozen=True):
    """How a task or every task of a batch is to be handled. What is not given is the task type's, then the server's."""

    queue: str | None = None
    priority: Priority | None = None
    delay_seconds: float | None = None
    eta: datetime | None = None
    max_attempts: int | None = None
    backoff: Backoff | None = None
    timeout_seconds: float | None = None
    result_ttl_seconds: float | None = None
    idempotency_key: str | None = None
    allow_unknown: bool = False


class SubmitTask(Strict):
    """``POST /tasks``: one task. The id is the client's, so that a repeated post submits nothing twice."""

    task_type: str
    payload: Raw
    task_id: str | None = None
    options: Options | None = None


class Submitted(Answer, omit_defaults=False):
    """``POST /tasks`` → 202: from here on the task is safe in Kafka."""

    task_id: str
    status: Status


class Schedule(Strict):
    """``PUT /schedules/{name}``: a task to be submitted at every tick of `cron`, in a time zone (IANA).

    Five fields, six with seconds in front, or ``@hourly`` and the like. `missed` says what becomes of ticks that nobody
    served: one submit for all of them (``once``), one each (``all``, the last 1000), or none (``skip``).
    """

    task_type: str
    payload: Raw
    cron: str
    time_zone: str = "UTC"
    options: Options | None = None
    missed: Missed = Missed.ONCE
    paused: bool = False


class ScheduleView(Answer):
    """``GET /schedules/{name}``: a schedule and how it stands. `next_at` is absent while it is paused."""

    name: str
    task_type: str
    payload: Raw
    cron: str
    created_at: datetime
    time_zone: str = "UTC"
    options: Options | None = None
    missed: Missed = Missed.ONCE
    paused: bool = False
    next_at: datetime | None = None
    last_at: datetime | None = None
    last_task_id: str | None = None


class Schedules(Answer, omit_defaults=False):
    """``GET /schedules``, by name."""

    schedules: list[ScheduleView]


class SubmitChunk(Strict):
    """``POST /batches``: rows ``first_index``, ``first_index + 1``, … of a batch, each a payload.

    The chunk that is marked `last` closes the batch: its size is then known.
    """

    task_type: str
    payloads: list[Raw]
    batch_id: str | None = None
    first_index: int = 0
    last: bool = True
    options: Options | None = None


class ChunkAccepted(Answer, omit_defaults=False):
    """``POST /batches`` → 202."""

    batch_id: str
    first_index: int
    accepted: int
    closed: bool


class Requeue(Strict):
    """``POST /dead-letters/requeue``: which tasks; exactly one of these."""

    task_ids: list[str] | None = None
    batch: str | None = None
    type: str | None = None
    all: bool = False


class Requeued(Answer, omit_defaults=False):
    """How many tasks were taken back; those that had not failed, or have expired, are not among them."""

    requeued: int


class TaskError(Answer, omit_defaults=False):
    """Why a task failed: the exception's type and message, and the worker's traceback as text."""

    type: str
    message: str
    traceback: str = ""


class FailedAttempt(Answer, omit_defaults=False):
    """One attempt that failed, in a task's history."""

    attempt: int
    type: str
    message: str
    worker: str
    finished_us: int


class TaskView(Answer):
    """``GET /tasks/{taskId}``: everything that is known of a task.

    `progress` (0 … 1), `progress_text` and `log` (its last lines) are what its handler has said of itself.
    `options` are those that were said with it; `expires_at` is when its state goes, once it has ended.
    """

    task_id: str
    task_type: str
    status: Status
    payload: Raw | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    error: TaskError | None = None
    attempt: int = 0
    worker: str | None = None
    queue: str | None = None
    priority: Priority | None = None
    batch_id: str | None = None
    history: list[FailedAttempt] = []
    submitted_at: datetime | None = None
    due_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    expires_at: datetime | None = None
    options: Options | None = None
    progress: float | None = None
    progress_text: str | None = None
    log: list[str] = []


class ErrorKind(Answer, omit_defaults=False):
    """How many tasks of a batch failed with one type of error, and one of them."""

    type: str
    count: int
    task_id: str


class TaskSaid(Answer, omit_defaults=False):
    """What a running task has last said of itself: how far it is (0 … 1), with what, its last three log lines."""

    task_id: str
    progress: float | None
    progress_text: str | None
    log: list[str]


class BatchView(Answer, omit_defaults=False):
    """``GET /batches/{id}``: the batch's counters.

    `size` is the number of tasks accepted so far, the whole number once `closed`.
    `rate_per_second` is that of tasks ended since the first one began. `p50_seconds` and `p95_seconds` say how long
    attempts ran that ended their task: percentiles, within a tenth. `errors` are those of failed tasks by type, the
    most frequent first. `expires_at` is when the states of its tasks begin to go, once it has finished.
    `said` is what running tasks say of themselves: of those that spoke last, five at the most, by rows.
    """

    batch_id: str
    task_type: str
    queue: str
    size: int
    closed: bool
    counts: dict[str, int]
    rate_per_second: float
    submitted_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    name: str | None = None
    p50_seconds: float | None = None
    p95_seconds: float | None = None
    errors: list[ErrorKind] = []
    expires_at: datetime | None = None
    said: list[TaskSaid] = []


class TaskPage(Answer, omit_defaults=False):
    """``GET /batches/{id}/tasks`` and ``GET /tasks``: tasks by columns, all of one length.

    The columns are named in `COLUMNS`. Ask for the next page with `next_cursor`; null: this was the last one.
    """

    columns: dict[str, list[Any]]
    next_cursor: str | None = None


#: The columns of a `TaskPage`, in their order. ``status`` null: the task's state has expired.
COLUMNS = (
    "taskId",
    "taskType",
    "status",
    "result",
    "error",
    "attempt",
    "worker",
    "submittedUs",
    "startedUs",
    "finishedUs",
    "progress",
    "progressText",
    "log",
)
#: A further column, only where it is asked for: it is as large as what was submitted.
PAYLOAD_COLUMN = "payload"


class Lookup(Strict):
    """``POST /tasks/lookup``: how these tasks stand; without `results`, those columns are left out, and the errors.

    Where results are very large (8 MiB in all) the answer has the first ones alone: ask for the others again.
    """

    task_ids: list[str]
    results: bool = True


class Blob(Answer, omit_defaults=False):
    """``PUT`` and ``GET /blobs/{blobId}``: signed bytes that are kept, a function or a large argument of one."""

    blob_id: str
    bytes: int


class TaskType(Answer, omit_defaults=False):
    """One entry of ``GET /task-types``: what workers have offered, live or not."""

    task_type: str
    description: str
    payload_schema: dict[str, Any]


class TaskTypes(Answer, omit_defaults=False):
    """``GET /task-types``."""

    task_types: list[TaskType]


class WorkerView(Answer, omit_defaults=False):
    """One live worker: `concurrency` and `processes` are how many tasks it runs at once in threads and in processes."""

    worker: str
    queues: list[str]
    task_types: list[str]
    concurrency: int
    processes: int
    running: int
    settled: int
    rejected: int
    started_at: datetime


class Workers(Answer, omit_defaults=False):
    """``GET /workers``."""

    workers: list[WorkerView]


class FieldError(Answer, omit_defaults=False):
    """One fault in what was sent: in which row of a batch (null for a single task), at which field, what."""

    message: str
    field: str = ""
    row: int | None = None


class Problem(Answer, omit_defaults=False):
    """A problem document (RFC 9457), ``application/problem+json``: what every error is answered with."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldError] = []


class Record(Struct, rename="camel", kw_only=True, omit_defaults=True):
    """The value of a Kafka record: JSON that another language can write; unknown fields are passed over."""

    task_id: str
    task_type: str
    payload: Raw
    batch_id: str | None = None
    attempt: int = 1
    options: Options | None = None
    batch_size: int | None = None


class DeadLetter(Answer):
    """The value of a record on ``task-queue.dead``: a task that failed for good, or a record that was no task.

    A task comes with its payload, error and history. Of a record there are the reason and its value in base64.
    """

    reason: str
    at: datetime
    task_id: str | None = None
    task_type: str | None = None
    batch_id: str | None = None
    queue: str | None = None
    attempt: int | None = None
    payload: Raw | UnsetType = UNSET
    error: TaskError | None = None
    history: list[FailedAttempt] = []
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None
    record: str | None = None


class DeadLetters(Answer, omit_defaults=False):
    """``GET /dead-letters``: a page, newest first."""

    dead_letters: list[DeadLetter]
    next_cursor: str | None = None
