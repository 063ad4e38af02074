"""What a user holds of a task or a batch: an id and a connection. Made by `Client`, or again from an id.

Handles are for one thread each; only a `Progress` polls in a thread of its own.
"""

from __future__ import annotations

import contextlib
import html
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import msgspec

from nexusq_sdk import progress as progress_
from nexusq_sdk.errors import (
    ConnectionFailed,
    ResultExpired,
    ServerUnavailable,
    TaskCancelled,
    TaskFailed,
    UnknownTask,
    WaitTimeout,
)
from nexusq_sdk.functions import open_column, open_result
from nexusq_sdk.options import seconds
from nexusq_sdk.protocol.wire import BatchView, Requeued, Submitted, TaskError, TaskPage, TaskView
from nexusq_sdk.protocol.words import Status

if TYPE_CHECKING:
    import pandas as pd

#: Waiting asks often at first, since most tasks are short, and ever less often later.
FIRST_PAUSE, LONGEST_PAUSE = 0.005, 0.5
#: Seconds in which the state of what was just accepted may be missing: Kafka has it, Redis was away.
LAG = 60.0
#: Seconds that a finished wait gives the progress display for its last drawing.
LAST_DRAWING = 2.0


class Reads(Protocol):
    """The three reads that a handle needs: `Connection` and `RedisView` have them."""

    signing_key: bytes | None

    def task(self, task_id: str) -> TaskView:
        """Give all that is known of a task."""

    def batch(self, batch_id: str) -> BatchView:
        """Give a batch's counters."""

    def batch_tasks(self, batch_id: str, *, payload: bool = False) -> Iterator[TaskPage]:
        """Give a batch's tasks by columns, page after page."""


def _poll(ended: Callable[[], bool], timeout: float | timedelta | None) -> bool:
    """Ask until it has ended; False if it had not in time."""
    limit = seconds(timeout)
    deadline = None if limit is None else time.monotonic() + limit
    pause = FIRST_PAUSE
    while not ended():
        left = LONGEST_PAUSE if deadline is None else deadline - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(pause, left))
        pause = min(1.3 * pause, LONGEST_PAUSE)
    return True


@runtime_checkable
class Writes(Protocol):
    """What a handle needs to change something: `Connection` has it, `RedisView` does not."""

    def cancel_task(self, task_id: str) -> Submitted:
        """Cancel a task."""

    def retry_task(self, task_id: str) -> Submitted:
        """Try a task again."""

    def cancel_batch(self, batch_id: str) -> BatchView:
        """Cancel a batch."""

    def retry_batch(self, batch_id: str, *, cancelled: bool = False) -> Requeued:
        """Try a batch's failed tasks again."""


def _writes(reads: Reads) -> Writes:
    if not isinstance(reads, Writes):
        raise TypeError(
            f"expected a handle of a Client, since only the API changes tasks, got one of {type(reads).__name__}"
        )
    return reads


@contextlib.contextmanager
def _resumable(handle: Task | Batch) -> Iterator[None]:
    """Say, where a wait is broken off, that what was waited for goes on, and how to take it up again."""
    try:
        yield
    except (KeyboardInterrupt, ConnectionFailed, ServerUnavailable) as error:
        name = type(handle).__name__.lower()
        error.add_note(f"The {name} goes on. Take it up again, from any kernel: client.{name}({handle.id!r})")
        raise


class Task:
    """One task that was submitted.

    Attributes
    ----------
    id : str
        Good for `Client.task` in any other kernel.
    """

    def __init__(self, task_id: str, reads: Reads, submitted: TaskView | None = None) -> None:
        self.id = task_id
        self._reads = reads
        self._seen = submitted
        self._lag_ends = time.monotonic() + LAG if submitted else 0.0

    @property
    def status(self) -> Status:
        """The status as the server has it now."""
        return self.info().status

    def info(self) -> TaskView:
        """Give all that is known now: status, result, error, attempt, worker, times.

        Raises
        ------
        UnknownTask, ResultExpired
        """
        if self._seen is None or not self._seen.status.terminal:
            try:
                self._seen = self._reads.task(self.id)
                self._lag_ends = 0.0
            except UnknownTask:
                if self._seen is None or time.monotonic() > self._lag_ends:
                    raise
        return self._seen

    def done(self) -> bool:
        """Whether the task has ended."""
        return self.info().status.terminal

    def wait(self, timeout: float | timedelta | None = None) -> Task:
        """Wait for the end, however it went.

        Raises
        ------
        WaitTimeout
            If it has not ended after `timeout` (seconds or timedelta); it goes on.
        """
        with _resumable(self):
            if not _poll(self.done, timeout):
                raise WaitTimeout(f"task {self.id} was still {self.status} after {seconds(timeout):g} s; it goes on")
        return self

    def result(self, timeout: float | timedelta | None = None) -> Any:
        """Wait for the end and give what the handler returned.

        Raises
        ------
        TaskFailed
            With the worker's traceback.
        TaskCancelled, WaitTimeout
        """
        info = self.wait(timeout).info()
        _raise_unless_completed(self.id, info.status, info.error)
        value = msgspec.json.decode(info.result) if isinstance(info.result, msgspec.Raw) else None
        return open_result(info.task_type, self.id, value, self._reads.signing_key)

    def cancel(self) -> bool:
        """Cancel it: at once where it waits; where it runs, its handler is asked to end.

        Returns
        -------
        bool
            False if it had ended before.
        """
        status = _writes(self._reads).cancel_task(self.id).status
        return status is Status.CANCELLED or not status.terminal

    def retry(self) -> Task:
        """Try it again from its first attempt, if it has failed or was cancelled.

        Raises
        ------
        Refused
            If it has not ended so.
        """
        _writes(self._reads).retry_task(self.id)
        self._seen = None
        return self

    def __repr__(self) -> str:
        return f"<Task {self.id}{f' {self._seen.status}' if self._seen else ''}>"


class Batch:
    """Tasks that were submitted together, a row each.

    Attributes
    ----------
    id : str
        Good for `Client.batch` in any other kernel.
    """

    def __init__(
        self,
        batch_id: str,
        reads: Reads,
        *,
        index: pd.Index[Any] | None = None,
        submitted: BatchView | None = None,
    ) -> None:
        self.id = batch_id
        self._reads = reads
        self._index = index
        self._seen = submitted
        self._lag_ends = time.monotonic() + LAG if submitted else 0.0
        self._shown: list[progress_.Progress] = []

    def info(self) -> BatchView:
        """Give the counters, times and rate as the server has them now.

        Raises
        ------
        UnknownTask
        """
        if self._seen is None or not progress_.finished(self._seen):
            try:
                self._seen = self._reads.batch(self.id)
                self._lag_ends = 0.0
            except UnknownTask:
                if self._seen is None or time.monotonic() > self._lag_ends:
                    raise
        return self._seen

    def counts(self) -> dict[str, int]:
        """Give the number of tasks for each status."""
        return dict(self.info().counts)

    def done(self) -> bool:
        """Whether all tasks have ended."""
        return progress_.finished(self.info())

    def __len__(self) -> int:
        return (self._seen or self.info()).size

    def wait(self, timeout: float | timedelta | None = None) -> Batch:
        """Wait until all tasks have ended, however they went. Interrupting it leaves the batch running.

        Raises
        ------
        WaitTimeout
            If some have not ended after `timeout` (seconds or timedelta); they go on.
        """
        with _resumable(self):
            if not _poll(self.done, timeout):
                stand = progress_.describe(self.info())
                raise WaitTimeout(f"batch {self.id}: {stand} after {seconds(timeout):g} s; it goes on")
        # What is printed next should not land in the middle of a bar.
        deadline = time.monotonic() + LAST_DRAWING
        while self._shown:
            self._shown.pop().join(max(0.0, deadline - time.monotonic()))
        return self

    def progress(self) -> progress_.Progress:
        """Show how far it is, and go on showing it while you do other things: a widget, a bar, or lines in a log."""
        shown = progress_.Progress(lambda: self._reads.batch(self.id), progress_.choose_drawer())
        shown.start()
        self._shown.append(shown)
        return shown

    def cancel(self) -> Batch:
        """Cancel all its tasks that have not ended, and those that are still being submitted.

        Tasks that run are asked to end: `wait` for that.
        """
        self._seen = _writes(self._reads).cancel_batch(self.id)
        return self

    def retry_failed(self, *, cancelled: bool = False) -> int:
        """Try its failed tasks again, with all their attempts before them; give how many.

        Parameters
        ----------
        cancelled : bool
            Whether to take back those that were cancelled as well.
        """
        requeued = _writes(self._reads).retry_batch(self.id, cancelled=cancelled).requeued
        self._seen = None
        return requeued

    def frame(self, *, payload: bool = False) -> pd.DataFrame:
        """Give the outcomes so far, a row for each task in the order of the rows that were submitted.

        Parameters
        ----------
        payload : bool
            Whether to bring the payloads back as well.

        Returns
        -------
        DataFrame, shape (n, 14 or 15)
            Columns and dtypes: see `nexusq_sdk.frames.task_frame`. The index is that of the DataFrame that this handle
            submitted, so that ``people.join(batch.frame())`` puts outcomes beside inputs; otherwise, as from
            `Client.batch`, 0 … n-1, the rows' positions. Where a label stands twice in it, put both side by side by
            ``pd.concat([people, batch.frame()], axis=1)``: a join would pair each with each.

        Examples
        --------
        >>> outcomes = people.join(batch.frame())  # doctest: +SKIP
        >>> outcomes[outcomes["status"] == "FAILED"]  # doctest: +SKIP
        """
        from nexusq_sdk import frames  # noqa: PLC0415 - pandas loads when a frame is wanted

        columns = frames.gather(self._reads.batch_tasks(self.id, payload=payload), payload)
        columns = open_column(columns, self._reads.signing_key)
        fits = self._index is not None and len(self._index) == len(columns["taskId"])
        return frames.task_frame(columns, self._index if fits else None)

    def report(self) -> pd.DataFrame:
        """Sum the batch up: counts by status, and percentiles of waiting and running. See `frames.report_frame`."""
        from nexusq_sdk import frames  # noqa: PLC0415 - as above

        return frames.report_frame(self.frame())

    def results(self, timeout: float | timedelta | None = None) -> Iterator[Any]:
        """Wait for the end and give the results, one for each row, in the rows' order.

        Raises
        ------
        TaskFailed
            At the first row that failed.
        TaskCancelled, ResultExpired, WaitTimeout
        """
        self.wait(timeout)
        return self._results()

    def _results(self) -> Iterator[Any]:
        for page in self._reads.batch_tasks(self.id):
            columns = (page.columns[name] for name in ("taskId", "taskType", "status", "result", "error"))
            for task_id, task_type, status, result, error in zip(*columns, strict=True):
                if status is None:
                    raise ResultExpired(f"task {task_id} has ended and its state is not kept any more")
                _raise_unless_completed(task_id, status, error and msgspec.convert(error, TaskError))
                yield open_result(task_type, task_id, result, self._reads.signing_key)

    def __repr__(self) -> str:
        return f"<Batch {self.id}{f' {self._seen.task_type}: {progress_.describe(self._seen)}' if self._seen else ''}>"

    def _repr_html_(self) -> str:
        if self._seen is None:
            return html.escape(repr(self))
        rows = "".join(
            f"<tr><td>{name}</td><td>{count:,}</td></tr>" for name, count in self._seen.counts.items() if count
        )
        title = f"{html.escape(self._seen.task_type)} <code>{html.escape(self.id)}</code>"
        return f"<div><b>Batch</b> {title}<br>{progress_.describe(self._seen)}<table>{rows}</table></div>"


def _raise_unless_completed(task_id: str, status: str, error: TaskError | None) -> None:
    if error is not None:
        raise TaskFailed(
            f"task {task_id} failed: {error.type}: {error.message}",
            task_id=task_id,
            error_type=error.type,
            remote_traceback=error.traceback,
        )
    if status == Status.CANCELLED:
        raise TaskCancelled(f"task {task_id} was cancelled")
