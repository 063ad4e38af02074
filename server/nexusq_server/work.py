"""A claimed task on its way through a worker, and the end of its attempt. Values only."""

from __future__ import annotations

import linecache
import traceback
from dataclasses import dataclass
from datetime import timedelta

import msgspec
from kafka import TopicPartition

from nexusq_sdk.protocol.wire import TaskError
from nexusq_sdk.protocol.words import Status
from nexusq_server.offsets import Place
from nexusq_server.store import NewTask, now_us

#: A traceback's longest text: it is kept in Redis and shown in notebooks.
MAX_TRACEBACK_CHARS = 20_000
MAX_MESSAGE_CHARS = 4_000


@dataclass(slots=True)
class Received:
    """A record as it was polled: decoded, and where it came from."""

    attempt: int
    task: NewTask
    place: Place[TopicPartition]
    size: int


@dataclass(slots=True)
class Claimed:
    """A task that this worker may run, as this attempt.

    `spent` of its attempts count no more: it was taken back from the dead letters after them.
    `alone`: it was claimed again and again without an end, so it runs in a process that it can't take others down with.
    """

    received: Received
    attempt: int
    spent: int = 0
    alone: bool = False


@dataclass(slots=True)
class Ended:
    """How one attempt ended, before it is decided whether there is another one.

    `value` is JSON: the result, or a `TaskError`. `kinds` are the names of the raised exception's class and its bases, the
    most derived first, each both qualified by its module and not. `retry_in` is what `nexusq_sdk.Retry` asked for.
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


def failed(error: TaskError, started_us: int, *, kinds: tuple[str, ...] = (), hopeless: bool = False) -> Ended:
    """Give the end of an attempt that failed."""
    return Ended(Status.FAILED, msgspec.json.encode(error), started_us, now_us(), kinds, hopeless=hopeless)


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
    lines = traceback.format_exception(type(error), error, trace)
    return TaskError(
        type=type(error).__qualname__ if type(error).__module__ == "builtins" else _full_name(error),
        message=_cut(_message(error), MAX_MESSAGE_CHARS),
        traceback=_cut("".join(lines), MAX_TRACEBACK_CHARS),
    )


def _full_name(error: BaseException) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}"


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
    message = (
        f"expected a task type that this worker knows ({', '.join(known)}), got {claimed.received.task.task_type!r}"
    )
    return failed(TaskError(type="UnknownTaskType", message=message), now_us(), hopeless=True)
