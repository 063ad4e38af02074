"""What a user holds of a task: an id and a connection. Made by `Client`, or again from an id. For one thread."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec

from nexusq_sdk import handle_html
from nexusq_sdk.errors import TaskCancelled, TaskFailed, task_failed
from nexusq_sdk.functions import open_result, printed
from nexusq_sdk.handles import Handle, OnInterrupt, Reads, payload_text, warn_if_soon, writes
from nexusq_sdk.protocol.wire import TaskView
from nexusq_sdk.protocol.words import Status


class Task(Handle[TaskView]):
    """One task that was submitted.

    Attributes
    ----------
    id : str
        Good for `Client.task` in any other kernel.
    label : object or None
        The row's label in the index of the DataFrame that was submitted, else its position; None for a single task.
    """

    _kind = "task"

    def __init__(
        self,
        task_id: str,
        reads: Reads,
        submitted: TaskView | None = None,
        *,
        label: object = None,
    ) -> None:
        super().__init__(task_id, reads, submitted)
        self.label = label

    @property
    def status(self) -> Status:
        """The status as the server has it now."""
        return self.info().status

    def info(self) -> TaskView:
        """Give all that is known now: status, result, error, attempt, worker, times.

        Raises
        ------
        UnknownTask
            If it never was.
        ResultExpired
            If it was there and its state is not kept any more.
        """
        view = self._current()
        if view.status.terminal and view.queue is None:  # of a page, which leaves out what few ask for
            self._seen = view = self._reads.task(self.id)
        return view

    def _read(self, reads: Reads) -> TaskView:
        return reads.task(self.id, self._hold)

    def _is_over(self, view: TaskView) -> bool:
        return view.status.terminal

    def wait(self, timeout: float | timedelta | None = None, *, on_interrupt: OnInterrupt = "leave") -> Task:
        """Wait for the end, however it went.

        Parameters
        ----------
        timeout
            Seconds or a timedelta.
        on_interrupt : {"leave", "cancel"}
            What becomes of the task when the wait is interrupted.

        Raises
        ------
        WaitTimeout
            If it has not ended in time; it goes on.
        """
        __tracebackhide__ = True
        self._wait(timeout, on_interrupt)
        return self

    def result(self, timeout: float | timedelta | None = None) -> Any:
        """Wait for the end and give what the handler returned.

        Raises
        ------
        TaskFailed
            With the worker's traceback; it is also of the built-in type that was raised.
        TaskCancelled, ResultExpired, WaitTimeout
        """
        __tracebackhide__ = True
        info = self.wait(timeout)._known()
        error = self.exception()
        if error is not None:
            raise error
        warn_if_soon(f"task {self.id}", info.finished_at, info.expires_at)
        value = msgspec.json.decode(info.result) if isinstance(info.result, msgspec.Raw) else None
        return open_result(info.task_type, self.id, value, self._reads.signing_key)

    def stdout(self, timeout: float | timedelta | None = None) -> str:
        """Wait for the end and give what a function that was sent by value has printed: the last 20,000 characters.

        Empty where it printed nothing, failed, or is no function.
        """
        info = self.wait(timeout)._known()
        value = msgspec.json.decode(info.result) if isinstance(info.result, msgspec.Raw) else None
        return printed(info.task_type, value)

    def exception(self, timeout: float | timedelta | None = None) -> TaskFailed | TaskCancelled | None:
        """Wait for the end and give what `result` would raise; None if the task completed."""
        info = self.wait(timeout)._known()
        if info.status is Status.CANCELLED:
            return TaskCancelled(f"task {self.id} was cancelled")
        if info.status is not Status.FAILED:
            return None
        told = info.error
        payload = payload_text(info)
        return task_failed(
            self.id,
            told.type if told else "Exception",
            told.message if told else "",
            told.traceback if told else "",
            label=self.label,
            payload=payload,
        )

    def cancel(self) -> bool:
        """Cancel it: at once where it waits; where it runs, its handler is asked to end.

        Returns
        -------
        bool
            False if it had ended before.
        """
        status = writes(self._reads).cancel_task(self.id).status
        return status is Status.CANCELLED or not status.terminal

    def retry(self) -> Task:
        """Try it again from its first attempt, if it has failed or was cancelled.

        Raises
        ------
        Refused
            If it has not ended so.
        """
        writes(self._reads).retry_task(self.id)
        self._seen = None
        return self

    def _stand(self) -> str:
        return str(self._seen.status) if self._seen else "not seen yet"

    def __repr__(self) -> str:
        seen = self._glance()
        return f"<Task {self.id}{f' {seen.task_type} {seen.status}' if seen else ''}>"

    def _repr_html_(self) -> str:
        return handle_html.task(self.id, self._glance(), self.label)
