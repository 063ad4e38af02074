"""What a user holds of a batch: an id and a connection. Made by `Client`, or again from an id or a name.

Handles are for one thread each; only a `Progress` polls in a thread of its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from nexusq_sdk import handle_html, outcomes
from nexusq_sdk import progress as progress_
from nexusq_sdk.connection import Connection
from nexusq_sdk.errors import NexusQError, ResultExpired, WaitTimeout
from nexusq_sdk.functions import Function, encode_calls, open_column
from nexusq_sdk.handles import (
    Handle,
    OnInterrupt,
    Reads,
    Writes,
    payload_text,
    quick,
    resumable,
    warn_if_soon,
    writes,
)
from nexusq_sdk.options import seconds
from nexusq_sdk.outcomes import Errors
from nexusq_sdk.progress_text import Pace, describe, ended, finished
from nexusq_sdk.protocol import ids
from nexusq_sdk.protocol.calls import Call, is_call
from nexusq_sdk.protocol.waits import ASK_API, pauses
from nexusq_sdk.protocol.wire import BatchView, Options, TaskError
from nexusq_sdk.protocol.words import Status
from nexusq_sdk.rows import encode_rows, index_of
from nexusq_sdk.sending import send_batch
from nexusq_sdk.task_handle import Task

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas as pd

__all__ = ["Batch", "Task"]

#: Seconds that a finished wait gives the progress display for its last drawing.
LAST_DRAWING = 2.0


class Batch(Handle[BatchView]):
    """Tasks that were submitted together, a row each.

    Attributes
    ----------
    id : str
        Good for `Client.batch` in any other kernel.
    """

    _kind = "batch"

    def __init__(
        self,
        batch_id: str,
        reads: Reads,
        *,
        index: pd.Index[Any] | None = None,
        submitted: BatchView | None = None,
        options: Options | None = None,
    ) -> None:
        super().__init__(batch_id, reads, submitted)
        self._index = index
        self._options = options
        self._pace = Pace()
        self._rate: float | None = None
        self._shown: list[progress_.Progress] = []

    def info(self) -> BatchView:
        """Give the counters, times and rate as the server has them now.

        Raises
        ------
        UnknownTask
        """
        return self._current()

    def _read(self, reads: Reads) -> BatchView:
        return reads.batch(self.id)

    def _is_over(self, view: BatchView) -> bool:
        return finished(view)

    def _saw(self, view: BatchView) -> None:
        self._seen, self._rate = view, self._pace.add(time.monotonic(), ended(view))

    @property
    def name(self) -> str | None:
        """The name that it was submitted under, or None."""
        return (self._seen or self.info()).name

    def counts(self) -> dict[str, int]:
        """Give the number of tasks for each status."""
        return dict(self.info().counts)

    def __len__(self) -> int:
        return (self._seen or self.info()).size

    def wait(self, timeout: float | timedelta | None = None, *, on_interrupt: OnInterrupt = "leave") -> Batch:
        """Wait until all tasks have ended, however they went. Interrupting it leaves the batch running.

        Parameters
        ----------
        timeout
            Seconds or a timedelta.
        on_interrupt : {"leave", "cancel"}
            What becomes of the batch when the wait is interrupted (Ctrl-C, the stop button).

        Raises
        ------
        WaitTimeout
            If some have not ended in time; they go on.
        """
        __tracebackhide__ = True
        self._wait(timeout, on_interrupt)
        # What is printed next should not land in the middle of a bar.
        deadline = time.monotonic() + LAST_DRAWING
        while self._shown:
            self._shown.pop().settle(max(0.0, deadline - time.monotonic()))
        return self

    def progress(self) -> progress_.Progress:
        """Show how far it is, and go on showing it while you do other things: a widget, a bar, or lines in a log.

        It returns at once; `wait` waits.
        """
        cancel = self.cancel if isinstance(self._reads, Writes) else None
        drawer = progress_.choose_drawer(cancel, self._example, self._glance())
        shown = progress_.Progress(lambda: self._reads.batch(self.id), drawer)
        shown.start()
        self._shown.append(shown)
        return shown

    def cancel(self) -> Batch:
        """Cancel all its tasks that have not ended, and those that are still being submitted.

        Tasks that run are asked to end: `wait` for that.
        """
        self._seen = writes(self._reads).cancel_batch(self.id)
        return self

    def retry_failed(self, *, cancelled: bool = False) -> int:
        """Try its failed tasks again, with all their attempts before them; give how many.

        Parameters
        ----------
        cancelled : bool
            Whether to take back those that were cancelled as well.
        """
        requeued = writes(self._reads).retry_batch(self.id, cancelled=cancelled).requeued
        self._seen = None
        return requeued

    def resubmit(self, rows: pd.DataFrame | Iterable[Any] | None = None) -> Batch:
        """Submit another batch of the same task type with the same options: of the failed rows, or of other rows.

        Parameters
        ----------
        rows : DataFrame or iterable, optional
            As for `Client.submit_batch`, or for `Client.map` where it was that; otherwise the payloads of the rows that
            failed or were cancelled, under their labels.

        Examples
        --------
        >>> batch.resubmit(people[people["country"] == "NL"]).wait()  # doctest: +SKIP
        """
        connection = self._reads
        if not isinstance(connection, Connection):
            writes(connection)  # says what is expected
            raise TypeError(f"expected a handle of a Client, got one of {type(connection).__name__}")
        options, task_type = self._said(), self.info().task_type
        index = index_of(rows)
        if rows is None:
            frame = self._frame_of((Status.FAILED, Status.CANCELLED), raw=True)
            payloads, index = encode_rows(frame["payload"].tolist()), frame.index
        elif is_call(task_type):
            payloads = encode_calls(connection, self._function(task_type), rows)
        else:
            payloads = encode_rows(rows)
        sent = send_batch(connection, task_type, payloads, options)
        return Batch(sent.batch_id, connection, index=index, submitted=sent, options=options)

    def _function(self, task_type: str) -> Function:
        """Give the function that its tasks call, as the first of them names it."""
        first = self._reads.task(ids.task_id(self.id, 0))
        if not isinstance(first.payload, msgspec.Raw):
            raise ResultExpired(f"the payloads of batch {self.id} are not kept any more: submit its function again")
        call = msgspec.json.decode(first.payload, type=Call)
        return Function(call.function, task_type, call.code)

    def _said(self) -> Options:
        """Give the options that it was submitted with, without what was for that one time."""
        if self._options is not None:
            return msgspec.structs.replace(self._options, idempotency_key=None, eta=None, delay_seconds=None)
        known = Options(queue=self.info().queue, allow_unknown=True)
        if not len(self):
            return known
        first = self._reads.task(ids.task_id(self.id, 0))
        kept = first.options or Options()
        return msgspec.structs.replace(kept, eta=None, queue=first.queue, priority=first.priority, allow_unknown=True)

    def frame(
        self, *, payload: bool = False, expand: bool = False, dtype_backend: Literal["pyarrow"] | None = None
    ) -> pd.DataFrame:
        """Give the outcomes so far, a row for each task in the order of the rows that were submitted.

        Parameters
        ----------
        payload : bool
            Whether to bring the payloads back as well.
        expand : bool
            Whether results that are dicts become columns, ``result.<field>``. What is no dict stays in ``result``.
        dtype_backend : {"pyarrow"}, optional
            Keep text in Arrow's strings: a fraction of the memory. Needs pyarrow.

        Returns
        -------
        DataFrame, shape (n, 17 or 18)
            Columns and dtypes: see `nexusq_sdk.frames.task_frame`. The index is that of the DataFrame that this handle
            submitted, so that ``people.join(batch.frame())`` puts outcomes beside inputs; otherwise, as from
            `Client.batch`, 0 … n-1, the rows' positions. Where a label stands twice in it, put both side by side by
            ``pd.concat([people, batch.frame()], axis=1)``: a join would pair each with each.
            For files see `nexusq_sdk.frames.to_text`.

        Examples
        --------
        >>> outcomes = people.join(batch.frame())  # doctest: +SKIP
        >>> outcomes[outcomes["status"] == "FAILED"]  # doctest: +SKIP
        """
        from nexusq_sdk import frames  # noqa: PLC0415 - pandas loads when a frame is wanted

        self._warn_if_soon()
        pages = self._reads.batch_tasks(self.id, payload=payload)
        opened = (open_column(page.columns, self._reads.signing_key) for page in pages)
        frame = frames.task_frame(opened, payload=payload, dtype_backend=dtype_backend)
        if self._index is not None and len(self._index) == len(frame):
            frame.index = self._index
        return frames.expand(frame) if expand else frame

    def failed(self) -> pd.DataFrame:
        """Give the rows that failed, with their payloads and errors: columns and index as of ``frame(payload=True)``.

        Examples
        --------
        >>> batch.failed().groupby("error_type").size()  # doctest: +SKIP
        """
        return self._frame_of((Status.FAILED,))

    def _frame_of(self, statuses: tuple[Status, ...], raw: bool = False) -> pd.DataFrame:
        from nexusq_sdk import frames  # noqa: PLC0415 - as above

        positions: list[int] = []
        pages = (page.columns for page in self._reads.batch_tasks(self.id, payload=True))
        found = frames.rows_where(pages, "status", {status.value for status in statuses}, positions)
        opened = (columns if raw else open_column(columns, self._reads.signing_key) for columns in found)
        frame = frames.task_frame(opened, payload=True)
        frame.index = frames.labels(self._index, positions, len(self))
        return frame

    def report(self) -> pd.DataFrame:
        """Sum the batch up: counts by status, and percentiles of waiting and running. See `frames.report_frame`."""
        from nexusq_sdk import frames  # noqa: PLC0415 - as above

        return frames.report_frame(self.frame())

    def results(self, timeout: float | timedelta | None = None, *, errors: Errors = "raise") -> Iterator[Any]:
        """Wait for the end and give the results, one for each row, in the rows' order.

        Parameters
        ----------
        errors : {"raise", "return", "skip"}
            What to do at a row without a result: raise; give the exception in its place; leave it out.

        Raises
        ------
        TaskFailed
            At the first row that failed. If others failed too it is a `BatchFailed`: one traceback for each kind of
            error, with counts.
        TaskCancelled, ResultExpired
            At a row that was cancelled, or whose result is not kept any more.
        WaitTimeout
        """
        if errors not in {"raise", "return", "skip"}:
            raise ValueError(f"expected errors to be 'raise', 'return' or 'skip', got {errors!r}")
        __tracebackhide__ = True
        self.wait(timeout)
        self._warn_if_soon()
        pages = self._reads.batch_tasks(self.id)
        return outcomes.results(pages, self.id, len(self), errors, self._label, self._payload, self._reads.signing_key)

    def as_completed(self, timeout: float | timedelta | None = None) -> Iterator[Task]:
        """Give its tasks as they end, in about that order: each with its ``label``, and ``result()`` at hand.

        The counters are polled; rows are read in bulk, and only when more have ended.

        Raises
        ------
        WaitTimeout
            If some have not ended in time; they go on.

        Examples
        --------
        >>> for task in batch.as_completed():  # doctest: +SKIP
        ...     print(task.label, task.exception() or task.result())
        """
        limit = seconds(timeout)
        deadline = None if limit is None else time.monotonic() + limit
        given: set[int] = set()
        first = seen = 0  # all rows before `first` were given
        with resumable("batch", self.id, self._stand, "leave", self.cancel):
            for pause in pauses(ASK_API):
                view = self.info()
                if ended(view) > seen:
                    seen, at = ended(view), first
                    for page in self._reads.batch_tasks(self.id, first=first):
                        for position, row in enumerate(outcomes.rows(page), at):
                            if row.ended and position not in given:
                                given.add(position)
                                yield self._task(row, position)
                        at += len(page.columns["taskId"])
                        if first + len(given) >= seen:
                            break
                    while first in given:
                        given.discard(first)
                        first += 1
                if finished(view) and first >= view.size:
                    return
                left = pause if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    raise WaitTimeout(f"batch {self.id}: {self._stand()} after {limit:g} s; it goes on")
                time.sleep(min(pause, left))

    def plot(self) -> matplotlib.figure.Figure:
        """Draw when which worker ran which task, and how long tasks ran. Needs matplotlib.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from nexusq_sdk import plots  # noqa: PLC0415 - matplotlib loads when a plot is wanted

        return plots.batch_figure(self.frame(), repr(self))

    def _task(self, row: outcomes.Row, position: int) -> Task:
        # What has expired is asked for again, and says so then.
        return Task(row.task_id, self._reads, row.view() if row.status else None, label=self._label(position))

    def _label(self, position: int) -> object:
        return self._index[position] if self._index is not None and position < len(self._index) else position

    def _payload(self, task_id: str) -> str | None:
        try:
            return payload_text(self._reads.task(task_id))
        except NexusQError:
            return None  # the error is worth telling without it

    def _example(self, task_id: str) -> TaskError | None:
        try:
            return quick(self._reads).task(task_id).error
        except Exception:
            return None  # what is shown is not worth an error

    def _stand(self) -> str:
        # Not the rate since it began: it may have waited for days, or for workers.
        return describe(self._seen, self._rate or 0.0) if self._seen else "not seen yet"

    def _warn_if_soon(self) -> None:
        view = self._seen
        if view is not None and view.finished_at is not None:
            warn_if_soon(f"batch {self.id}", view.finished_at, view.expires_at)

    def __repr__(self) -> str:
        seen = self._glance()
        name = f" {seen.name!r}" if seen and seen.name else ""
        return f"<Batch {self.id}{name}{f' {seen.task_type}: {describe(seen)}' if seen else ''}>"

    def _repr_html_(self) -> str:
        seen = self._glance()
        return f"<div>Batch <code>{handle_html.text(self.id)}</code></div>" if seen is None else handle_html.batch(seen)
