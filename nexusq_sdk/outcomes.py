"""Pages of a batch's tasks to outcomes, row by row: results, errors, tasks that have ended. Memory stays constant."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

import msgspec

from nexusq_sdk.errors import NexusQError, ResultExpired, TaskCancelled, TaskFailed, batch_failed, task_failed
from nexusq_sdk.functions import open_result
from nexusq_sdk.protocol.wire import TaskError, TaskPage, TaskView
from nexusq_sdk.protocol.words import Status

#: What to do with rows that have no result.
Errors = Literal["raise", "return", "skip"]
#: Gives a row's label by its position.
Label = Callable[[int], object]
#: Gives a task's payload as JSON, None where it is not kept: asked for what is raised, never for every row.
PayloadOf = Callable[[str], str | None]
_COLUMNS = ("taskId", "taskType", "status", "result", "error", "attempt", "worker")
_TIMES = ("submittedUs", "startedUs", "finishedUs")
_SAID = ("progress", "progressText", "log")


class Row(NamedTuple):
    """A row of a page; `status` None: its state has expired."""

    task_id: str
    task_type: str | None
    status: str | None
    result: Any
    error: dict[str, str] | None
    attempt: int | None
    worker: str | None
    submitted_us: int | None
    started_us: int | None
    finished_us: int | None
    progress: float | None
    progress_text: str | None
    log: list[str] | None

    @property
    def ended(self) -> bool:
        """Whether it will not change any more."""
        return self.status is None or Status(self.status).terminal

    def view(self) -> TaskView:
        """Give it as a single task is given: nobody has to ask for it again."""
        return TaskView(
            task_id=self.task_id,
            task_type=self.task_type or "",
            status=Status(self.status or Status.COMPLETED),
            result=msgspec.UNSET if self.result is None else msgspec.Raw(msgspec.json.encode(self.result)),
            error=None if self.error is None else msgspec.convert(self.error, TaskError),
            attempt=self.attempt or 0,
            worker=self.worker,
            submitted_at=_time(self.submitted_us),
            started_at=_time(self.started_us),
            finished_at=_time(self.finished_us),
            progress=self.progress,
            progress_text=self.progress_text,
            log=self.log or [],
        )


def rows(page: TaskPage) -> Iterator[Row]:
    """Give a page's rows."""
    return map(Row._make, zip(*(page.columns[name] for name in (*_COLUMNS, *_TIMES, *_SAID)), strict=True))


def error_of(row: Row, label: object = None, payload: str | None = None) -> NexusQError | None:
    """Give what the result of a row that has ended is asked for in vain with; None: it completed."""
    if row.status is None:
        return ResultExpired(f"task {row.task_id} has ended and its state is not kept any more (NEXUSQ_RESULT_TTL)")
    if row.status == Status.CANCELLED:
        return TaskCancelled(f"task {row.task_id} was cancelled")
    if row.status != Status.FAILED:
        return None
    told = row.error or {}
    return task_failed(
        row.task_id,
        told.get("type", "Exception"),
        told.get("message", ""),
        told.get("traceback", ""),
        label=label,
        payload=payload,
    )


def results(
    pages: Iterable[TaskPage],
    batch_id: str,
    size: int,
    errors: Errors,
    label: Label,
    payload: PayloadOf,
    key: bytes | None,
) -> Iterator[Any]:
    """Give results in the rows' order; what becomes of rows without one says `errors`.

    Raises
    ------
    TaskFailed, TaskCancelled, ResultExpired
        ``errors="raise"``: at the first row without a result. If several failed, all are summed up by their kinds.
    """
    __tracebackhide__ = True
    found = (row for page in pages for row in rows(page))
    for position, row in enumerate(found):
        error = error_of(row, label(position))
        if error is None:
            yield open_result(row.task_type or "", row.task_id, row.result, key)
        elif errors == "return":
            yield error
        elif errors == "raise":
            if isinstance(error, TaskFailed):
                raise _summed_up(row, position, found, batch_id, size, label, payload)
            raise error


def _summed_up(
    first: Row, position: int, rest: Iterable[Row], batch_id: str, size: int, label: Label, payload: PayloadOf
) -> TaskFailed:
    """Give one error for all the failed rows from the first one on: an example and a count for each kind."""
    examples: dict[str, TaskFailed] = {}
    counts: dict[str, int] = {}
    for at, row in enumerate(itertools.chain([first], rest), position):
        if row.status != Status.FAILED:
            continue
        kind = (row.error or {}).get("type", "Exception")
        counts[kind] = counts.get(kind, 0) + 1
        if kind not in examples:
            error = error_of(row, label(at), payload(row.task_id))
            assert isinstance(error, TaskFailed)
            examples[kind] = error
    return batch_failed(batch_id, size, list(examples.values()), counts)


def _time(value: int | None) -> datetime | None:
    return None if value is None else datetime.fromtimestamp(value / 1_000_000, UTC)
