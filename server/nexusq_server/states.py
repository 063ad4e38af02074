"""What the store's scripts are told of tasks and what they answer. Values only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, cast

import msgspec

from nexusq_sdk.protocol.wire import Options
from nexusq_sdk.protocol.words import DEFAULT_QUEUE, Priority

#: What `Store.claim` answers in place of an attempt; `UNKNOWN` is the script's alone: there is no state.
SKIP, LATER, UNKNOWN = 0, -1, -2
#: What `Store.settle` answers.
SETTLED, DROPPED, LOST = 1, 0, -1
#: What `Unusual.how` says.
USUAL, ALONE, GIVEN_UP = 0, 1, 2

_NO_OPTIONS = Options()
_encode = msgspec.json.Encoder().encode


class NewTask(NamedTuple):
    """A task that Kafka has acknowledged. `payload` and `options` are JSON; times are microseconds since 1970.

    `batch_size` closes the batch: it stands on the last of its tasks.
    """

    task_id: str
    task_type: str
    payload: bytes
    queue: str
    ttl_seconds: float | None
    submitted_us: int
    priority: str = Priority.NORMAL
    options: bytes = b""
    due_us: int | None = None
    batch_size: int | None = None

    def packed(self) -> tuple[str, ...]:
        """Give the row that the scripts read: text throughout ("" for what is usual).

        Lua's numbers would round the times, and Redis's cmsgpack knows no msgpack bytes.
        """
        return (
            self.task_id,
            self.task_type,
            self.payload.decode(),
            "" if self.queue == DEFAULT_QUEUE else self.queue,
            "" if self.ttl_seconds is None else repr(self.ttl_seconds),
            str(self.submitted_us),
            "" if self.priority == Priority.NORMAL else self.priority,
            self.options.decode(),
            "" if self.due_us is None else str(self.due_us),
            "" if self.batch_size is None else str(self.batch_size),
        )


class Recorded(Protocol):
    """A task as its record says it: what a claim needs to know. `task` is what it needs where there is no state."""

    @property
    def task_id(self) -> str:
        """The task's id."""

    @property
    def number(self) -> int:
        """The attempt that the record is for."""

    @property
    def batch_size(self) -> int | None:
        """The size of the batch that it closes."""

    @property
    def task(self) -> NewTask:
        """All of it."""


class Unusual(NamedTuple):
    """How to run a task that is not as usual: `spent` attempts count no more; `ALONE`, or it is `GIVEN_UP`."""

    spent: int = 0
    how: int = USUAL
    deliveries: int = 1


class Outcome(NamedTuple):
    """How an attempt ended, as the row that ``settle.lua`` reads: times are microseconds, as text, and what it ran.

    `value` is JSON: the result of a COMPLETED task, else the `TaskError`. SCHEDULED: it failed, and there is another
    attempt at `due_us`. `history` is JSON of what failed, or empty.
    """

    task_id: str
    attempt: int
    status: str
    value: str
    started_us: str
    finished_us: str
    ran_us: int
    due_us: str = ""
    history: str = ""
    parked: bool = False


class DueTask(NamedTuple):
    """A task whose time has come, as its record is to be written."""

    task_id: str
    task_type: str
    payload: bytes
    queue: str
    priority: str
    options: bytes
    record: int

    @classmethod
    def of(cls, row: Sequence[bytes | None]) -> DueTask:
        """Read the fields of a state, in this order; what is not there is as usual."""
        task_id, task_type, payload, queue, priority, options, record = row
        return cls(
            cast(bytes, task_id).decode(),
            cast(bytes, task_type).decode(),
            payload or b"null",
            (queue or DEFAULT_QUEUE.encode()).decode(),
            (priority or Priority.NORMAL.encode()).decode(),
            options or b"",
            int(record or 1),
        )


def encode_options(options: Options | None) -> bytes:
    """Give what a worker needs of the options, as JSON; empty where that is nothing.

    Queue and priority are the topic's, the rest was for the API.
    """
    if options is None:
        return b""
    kept = Options(
        eta=options.eta,
        max_attempts=options.max_attempts,
        backoff=options.backoff,
        timeout_seconds=options.timeout_seconds,
        result_ttl_seconds=options.result_ttl_seconds,
    )
    return b"" if kept == _NO_OPTIONS else _encode(kept)
