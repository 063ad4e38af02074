"""Tasks and batches as Redis has them → as the wire has them: one reading for the API and for `RedisView`. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import cast

import msgspec
from msgspec import UNSET, Raw

from nexusq_sdk.protocol import ids
from nexusq_sdk.protocol.wire import BatchView, ErrorKind, FailedAttempt, Options, TaskError, TaskSaid, TaskView
from nexusq_sdk.protocol.words import DEFAULT_QUEUE, TERMINAL, Priority, Status

#: How finely running times are counted: edges a power of two. Eight: each is 9 % above the one below.
EDGES = 8
#: Rows of a finished batch that are asked when their state goes.
SAMPLED = 8
#: Running tasks of a batch that are shown with what they say, and lines of each.
SHOWN_SAID, SAID_LINES = 5, 3
#: The fields of a task's hash that `task_said` reads.
SAID_FIELDS = ("status", "progress", "progressText", "log")


def moment(value: bytes | None) -> datetime | None:
    """Read a time: whole microseconds since 1970."""
    return None if value is None else datetime.fromtimestamp(int(value) / 1_000_000, UTC)


def expiry(answer: object) -> datetime | None:
    """Read what PEXPIRETIME answers: milliseconds since 1970; None where nothing expires."""
    return datetime.fromtimestamp(answer / 1000, UTC) if isinstance(answer, int) and answer > 0 else None


def sampled(batch_id: str, size: int) -> list[str]:
    """Give the ids of a few rows, evenly spread: the first to expire of them stands for the batch.

    Examples
    --------
    >>> sampled("b", 3)
    ['b-0', 'b-1', 'b-2']
    >>> sampled("b", 800)[:3]
    ['b-0', 'b-100', 'b-200']
    """
    return [ids.task_id(batch_id, row) for row in sorted({size * at // SAMPLED for at in range(SAMPLED)}) if row < size]


def first_expiry(answers: Iterable[object]) -> datetime | None:
    """Give the earliest of what PEXPIRETIME answered."""
    return min((found for answer in answers if (found := expiry(answer)) is not None), default=None)


def task_view(task_id: str, state: Mapping[bytes, bytes], expires: object = None) -> TaskView:
    """Read a task's hash."""
    split = ids.split_task_id(task_id)
    error, options, progress = state.get(b"error"), state.get(b"options"), state.get(b"progress")
    return TaskView(
        task_id=task_id,
        task_type=state[b"taskType"].decode(),
        status=Status(state[b"status"].decode()),
        payload=Raw(state[b"payload"]) if b"payload" in state else UNSET,
        result=Raw(state[b"result"]) if b"result" in state else UNSET,
        error=None if error is None else msgspec.json.decode(error, type=TaskError),
        attempt=int(state.get(b"attempt", 0)),
        worker=state[b"worker"].decode() if b"worker" in state else None,
        queue=state.get(b"queue", b"").decode() or DEFAULT_QUEUE,
        priority=Priority(state.get(b"priority", b"").decode() or Priority.NORMAL),
        batch_id=split[0] if split else None,
        history=msgspec.json.decode(state.get(b"history", b"[]"), type=list[FailedAttempt]),
        submitted_at=moment(state.get(b"submittedUs")),
        due_at=moment(state.get(b"dueUs")) if state[b"status"] == b"SCHEDULED" else None,
        started_at=moment(state.get(b"startedUs")),
        finished_at=moment(state.get(b"finishedUs")),
        expires_at=expiry(expires),
        options=msgspec.json.decode(options, type=Options) if options else None,
        progress=None if progress is None else float(progress),
        progress_text=state[b"progressText"].decode() if b"progressText" in state else None,
        log=msgspec.json.decode(state.get(b"log", b"[]"), type=list[str]),
    )


def task_said(task_ids: Sequence[bytes], rows: Iterable[Sequence[bytes | None]]) -> list[TaskSaid]:
    """Read what tasks of a batch say of themselves while they run, from their `SAID_FIELDS`."""
    found = []
    for task_id, (status, progress, text, log) in zip(task_ids, rows, strict=True):
        if status == b"IN_PROGRESS":
            lines = msgspec.json.decode(log or b"[]", type=list[str])[-SAID_LINES:]
            done = None if progress is None else float(progress)
            found.append(
                TaskSaid(
                    task_id=task_id.decode(),
                    progress=done,
                    progress_text=None if text is None else text.decode(),
                    log=lines,
                )
            )
    return sorted(found, key=lambda said: int(said.task_id.rpartition("-")[2]))[:SHOWN_SAID]


def batch_view(
    batch_id: str,
    state: Mapping[bytes, bytes],
    now_us: int,
    expires: datetime | None = None,
    said: Sequence[TaskSaid] = (),
) -> BatchView:
    """Read a batch's hash, which has been submitted (``submittedUs`` is in it)."""
    counts = {status.value: int(state.get(status.value.encode(), 0)) for status in Status}
    started, finished = state.get(b"startedUs"), state.get(b"finishedUs")
    seconds = (int(finished or now_us) - int(started)) / 1e6 if started else 0.0
    ended = sum(counts[status] for status in TERMINAL)
    ran = {int(field[6:]): int(count) for field, count in state.items() if field.startswith(b"ranUs:")}
    return BatchView(
        batch_id=batch_id,
        task_type=state[b"taskType"].decode(),
        queue=state.get(b"queue", b"").decode() or DEFAULT_QUEUE,
        size=int(state.get(b"size", 0)),
        closed=b"closed" in state,
        counts=counts,
        rate_per_second=round(ended / seconds, 1) if seconds > 0 else 0.0,
        submitted_at=cast(datetime, moment(state[b"submittedUs"])),
        started_at=moment(started),
        finished_at=moment(finished),
        name=state[b"name"].decode() if b"name" in state else None,
        p50_seconds=quantile(ran, 0.5),
        p95_seconds=quantile(ran, 0.95),
        errors=_errors(state),
        expires_at=expires,
        said=list(said),
    )


def quantile(ran: Mapping[int, int], share: float) -> float | None:
    """Give a quantile of counted running times, in seconds: the middle of the counter that it falls into.

    Examples
    --------
    >>> quantile({1024: 98, 1048576: 2}, 0.5)
    0.000981
    """
    total = sum(ran.values())
    if total <= 0:
        return None
    passed = 0
    for edge in sorted(ran):
        passed += ran[edge]
        if passed >= math.ceil(share * total):
            return round(edge / 2 ** (0.5 / EDGES) / 1e6, 6)
    return None


def _errors(state: Mapping[bytes, bytes]) -> list[ErrorKind]:
    found = []
    for field, count in state.items():
        if field.startswith(b"error:") and int(count) > 0:
            at = state.get(b"errorAt:" + field[6:], b"")
            found.append(ErrorKind(type=field[6:].decode("utf-8", "replace"), count=int(count), task_id=at.decode()))
    return sorted(found, key=lambda kind: (-kind.count, kind.type))
