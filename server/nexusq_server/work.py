"""A claimed task on its way through a worker, and the end of its attempt. Values only.

Child processes import this too: it must load neither Kafka's client nor Redis's.
"""

from __future__ import annotations

import linecache
import traceback
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec

from nexusq_sdk import tasks
from nexusq_sdk.protocol.wire import Record, TaskError
from nexusq_sdk.protocol.words import Priority, Status
from nexusq_server.clock import now_us
from nexusq_server.states import NewTask, encode_options

if TYPE_CHECKING:
    from kafka import TopicPartition

    from nexusq_server.registry import Handler

#: A traceback's longest text: it is kept in Redis and shown in notebooks.
MAX_TRACEBACK_CHARS = 20_000
MAX_MESSAGE_CHARS = 4_000
#: Whose exceptions are told without their module: everyone knows them.
_BARE = ("builtins", tasks.__name__)


class Received:
    """A record as it was polled: decoded, and where it came from. `task` is made only where it is asked for."""

    __slots__ = (
        "batch_size",
        "epoch",
        "number",
        "offset",
        "partition",
        "priority",
        "queue",
        "record",
        "size",
        "submitted_us",
        "task_id",
    )

    def __init__(
        self,
        record: Record,
        queue: str,
        priority: Priority,
        submitted_us: int,
        partition: TopicPartition,
        epoch: int,
        offset: int,
        size: int,
    ) -> None:
        self.task_id = record.task_id
        self.number = record.attempt  # the attempt that the record is for
        self.batch_size = record.batch_size
        self.record = record
        self.queue = queue
        self.priority = priority
        self.submitted_us = submitted_us
        self.partition = partition
        self.epoch = epoch
        self.offset = offset
        self.size = size

    @property
    def task(self) -> NewTask:
        """The task as the store is told of it."""
        options = self.record.options
        due = None
        if options is not None and options.eta is not None:
            due = int(options.eta.timestamp() * 1_000_000)
        elif options is not None and options.delay_seconds is not None:
            due = self.submitted_us + int(options.delay_seconds * 1_000_000)
        return NewTask(
            self.task_id,
            self.record.task_type,
            bytes(self.record.payload),
            self.queue,
            None if options is None else options.result_ttl_seconds,
            self.submitted_us,
            self.priority,
            encode_options(options),
            due,
            self.batch_size,
        )


class Claimed(tasks.CurrentTask):
    """A task that this worker may run, as this attempt; its handler gets it as `current_task`.

    `spent` of its attempts count no more: it was taken back from the dead letters after them.
    `alone`: it was claimed again and again without an end, so it runs in a process that it can't take others down with.
    `lease` is the number of the lease under which it was claimed: once that has run out, it is not to be started.
    The rest is its executor's. Compared by identity: an id may come again.
    """

    __slots__ = ("alone", "deadline", "handler", "interrupt", "lease", "limit", "received", "spent")

    handler: Handler
    limit: timedelta | None

    def __init__(
        self, received: Received, attempt: int, spent: int = 0, *, alone: bool = False, lease: int = 0
    ) -> None:
        # The hot path: no call of the parent's __init__.
        self.id = received.task_id
        self.task_type = received.record.task_type
        self.attempt = attempt
        self._cancelled = False
        self._said = None
        self.received = received
        self.spent = spent
        self.alone = alone
        self.lease = lease
        self.deadline = float("inf")  # by time.monotonic, once its handler is about to start
        self.interrupt: type[BaseException] | None = None  # what was sent into its handler: one thing at the most

    def cancel(self) -> None:
        """Raise the flag that the handler can read."""
        self._cancelled = True


@dataclass(slots=True)
class Ended:
    """How one attempt ended, before it is decided whether there is another one.

    `value` is JSON: the result, or a `TaskError`. `kinds` are the names of the raised exception's class and its bases,
    the most derived first, each both qualified by its module and not. `retry_in` is what `nexusq_sdk.Retry` asked for.
    """

    status: Status
    value: bytes
    started_us: int
    finished_us: int
    kinds: tuple[str, ...] = ()
    retry_in: timedelta | None = None
    hopeless: bool = False  # the next attempt would end the same way: the payload does not fit, nobody knows the type


def completed(result: bytes, started_us: int) -> Ended:
    """Give the end of a handler that returned."""
    return Ended(Status.COMPLETED, result, started_us, now_us())


def failed(
    error: TaskError,
    started_us: int,
    *,
    kinds: tuple[str, ...] = (),
    retry_in: timedelta | None = None,
    hopeless: bool = False,
) -> Ended:
    """Give the end of an attempt that failed."""
    return Ended(Status.FAILED, msgspec.json.encode(error), started_us, now_us(), kinds, retry_in, hopeless)


def kinds_of(error: type[BaseException]) -> tuple[str, ...]:
    """Give the names of an exception's class and its bases, the most derived first, qualified and bare."""
    classes = (entry for entry in error.__mro__ if entry is not object)
    return tuple(name for entry in classes for name in (full_name(entry), entry.__qualname__))


def full_name(kind: type) -> str:
    """Give a class's name, qualified by its module."""
    return f"{kind.__module__}.{kind.__qualname__}"


def cancelled(started_us: int) -> Ended:
    """Give the end of a task that was cancelled while it ran."""
    error = TaskError(type="TaskCancelled", message="the task was cancelled while it ran")
    return Ended(Status.CANCELLED, msgspec.json.encode(error), started_us, now_us())


def describe(error: BaseException, skip_frames: int) -> TaskError:
    """Put an exception into text, without the worker's own frames at the top of its traceback."""
    linecache.checkcache()
    trace = error.__traceback__
    for _ in range(skip_frames):
        trace = trace.tb_next if trace is not None and trace.tb_next is not None else trace
    while trace is not None and trace.tb_next is not None and "__tracebackhide__" in trace.tb_frame.f_globals:
        trace = trace.tb_next
    lines = traceback.format_exception(type(error), error, trace)
    return TaskError(
        type=type(error).__qualname__ if type(error).__module__ in _BARE else full_name(type(error)),
        message=_cut(_message(error), MAX_MESSAGE_CHARS),
        traceback=_cut("".join(lines), MAX_TRACEBACK_CHARS),
    )


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as fault:
        # A user's __str__ may itself fail; the task's failure must be told all the same.
        return f"(no message: {type(fault).__name__} in its __str__)"


def _cut(text: str, limit: int) -> str:
    # Lone surrogates have no UTF-8 form; they come from undecodable file names.
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= limit else f"{text[: limit // 2]}\n... cut ...\n{text[-limit // 2 :]}"


def unknown_type(claimed: Claimed, known: list[str]) -> Ended:
    """Give the end of a task whose type this worker does not know."""
    message = f"expected a task type that this worker knows ({', '.join(known)}), got {claimed.task_type!r}"
    return failed(TaskError(type="UnknownTaskType", message=message), now_us(), hopeless=True)


def given_up(deliveries: int) -> Ended:
    """Give the end of a task whose workers have died, each time that it was claimed."""
    message = (
        f"expected the task to end, but it was claimed {deliveries - 1} times and its worker died each time "
        f"(NEXUSQ_MAX_DELIVERIES); does its handler take the worker down?"
    )
    return failed(TaskError(type="WorkerLost", message=message), now_us(), hopeless=True)
