"""What `Task` and `Batch` have in common: what they read and write through, how they wait, when they warn."""

from __future__ import annotations

import contextlib
import sys
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar, runtime_checkable

import msgspec

from nexusq_sdk.errors import ConnectionFailed, ResultsExpireSoon, ServerUnavailable, UnknownTask, WaitTimeout
from nexusq_sdk.options import seconds
from nexusq_sdk.progress_text import span
from nexusq_sdk.protocol.calls import is_call
from nexusq_sdk.protocol.waits import ASK_API, pauses
from nexusq_sdk.protocol.wire import BatchView, Requeued, Submitted, TaskPage, TaskView

#: Seconds in which the state of what was just accepted may be missing: Kafka has it, Redis was away.
LAG = 60.0
#: Seconds for which what a handle shows of itself is not asked for again.
GLANCE = 1.0
#: Results warn when less than this is left, and less than a quarter of the time for which they are kept ...
SOON = timedelta(hours=1)
#: ... unless they are kept so shortly that whoever asked for it knows.
SHORT_LIVED = timedelta(minutes=1)
#: For how long, in seconds, the API may hold back its answer about a task that is waited for. An API that is to stop
#: waits for it.
HOLD = 2.0
#: What becomes of the work when a wait is interrupted.
OnInterrupt = Literal["leave", "cancel"]
View = TypeVar("View", TaskView, BatchView)


class Reads(Protocol):
    """The three reads that a handle needs: `Connection` and `RedisView` have them."""

    signing_key: bytes | None

    @property
    def taken_back(self) -> int:
        """How often tasks that had ended were taken back through it."""

    def task(self, task_id: str, hold: float = 0.0) -> TaskView:
        """Give all that is known of a task, as soon as it has ended, but not later than `hold` seconds from now."""

    def batch(self, batch_id: str) -> BatchView:
        """Give a batch's counters."""

    def batch_tasks(self, batch_id: str, *, payload: bool = False, first: int = 0) -> Iterator[TaskPage]:
        """Give a batch's tasks by columns, page after page, from row `first` on."""


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


def writes(reads: Reads) -> Writes:
    """Give what a handle changes things through.

    Raises
    ------
    TypeError
        If the handle only reads.
    """
    if not isinstance(reads, Writes):
        raise TypeError(
            f"expected a handle of a Client, since only the API changes tasks, got one of {type(reads).__name__}"
        )
    return reads


def payload_text(view: TaskView) -> str | None:
    """Give a task's payload as JSON to be read; None where it is not known, or pickled arguments of a function."""
    if not isinstance(view.payload, msgspec.Raw) or is_call(view.task_type):
        return None
    return bytes(view.payload).decode("utf-8", "replace")


def quick(reads: Reads) -> Reads:
    """Give what reads the same without waiting for a server that is away: for what is only shown."""
    found: Reads = getattr(reads, "quick", reads)
    return found


def poll(ended: Callable[[], bool], timeout: float | timedelta | None) -> bool:
    """Ask until it has ended; False if it had not in time."""
    __tracebackhide__ = True
    limit = seconds(timeout)
    deadline = None if limit is None else time.monotonic() + limit
    for pause in pauses(ASK_API):
        if ended():
            return True
        left = pause if deadline is None else deadline - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(pause, left))
    raise AssertionError("pauses never end")


@contextlib.contextmanager
def resumable(
    kind: str, handle_id: str, stand: Callable[[], str], on_interrupt: OnInterrupt, cancel: Callable[[], object]
) -> Iterator[None]:
    """Say, where a wait is broken off, that what was waited for goes on, how far it is and how to take it up again."""
    if on_interrupt not in {"leave", "cancel"}:
        raise ValueError(f"expected on_interrupt to be 'leave' or 'cancel', got {on_interrupt!r}")
    try:
        yield
    except KeyboardInterrupt as error:
        again = f"client.{kind}({handle_id!r})"
        if on_interrupt == "leave":
            error.add_note(f"The {kind} goes on ({stand()}). Take it up again, from any kernel: {again}")
        else:
            try:
                cancel()
                error.add_note(f"The {kind} was cancelled ({stand()}): {again}")
            except Exception as fault:
                error.add_note(f"The {kind} could not be cancelled and goes on: {fault}\nTake it up again: {again}")
        raise
    except (ConnectionFailed, ServerUnavailable) as error:
        error.add_note(
            f"The {kind} goes on ({stand()}). Take it up again, from any kernel: client.{kind}({handle_id!r})"
        )
        raise


class Handle(ABC, Generic[View]):
    """An id, what it is read through, and what was last seen of it."""

    _kind: ClassVar[str]

    def __init__(self, handle_id: str, reads: Reads, submitted: View | None) -> None:
        self.id = handle_id
        self._reads = reads
        self._seen: View | None = submitted
        self._seen_at = time.monotonic() if submitted else -GLANCE
        self._lag_ends = time.monotonic() + LAG if submitted else 0.0
        self._taken_back = reads.taken_back
        self._hold = 0.0  # for how long a read may wait for the end, in seconds

    @abstractmethod
    def _read(self, reads: Reads) -> View:
        """Ask for it."""

    @abstractmethod
    def _is_over(self, view: View) -> bool:
        """Whether it will not change any more, unless somebody takes tasks back."""

    @abstractmethod
    def _stand(self) -> str:
        """Say how it stands."""

    @abstractmethod
    def cancel(self) -> Any:
        """Cancel it."""

    def done(self) -> bool:
        """Whether it has ended, however it went."""
        return self._is_over(self._known())

    def _saw(self, view: View) -> None:
        self._seen = view

    def _known(self) -> View:
        """Give what is known now; of what is over, what was read of it then."""
        if self._taken_back != self._reads.taken_back:
            self._taken_back, self._seen = self._reads.taken_back, None
        seen = self._seen
        if seen is None or not self._is_over(seen):
            try:
                self._saw(self._read(self._reads))
                self._lag_ends = 0.0
            except UnknownTask:
                if seen is None or time.monotonic() > self._lag_ends:
                    raise
            self._seen_at = time.monotonic()
        assert self._seen is not None
        return self._seen

    def _current(self) -> View:
        """Give what is known now; what is over is asked for again, in case somebody has taken tasks back."""
        view = self._known()
        if time.monotonic() - self._seen_at > GLANCE:
            self._seen_at = time.monotonic()
            with contextlib.suppress(Exception):  # it is forgotten by now, or the server away: so it stands
                self._saw(self._read(quick(self._reads)))
        return self._seen or view

    def _glance(self) -> View | None:
        """Give what was seen within the last second, else ask once; never raise."""
        if (self._seen is None or not self._is_over(self._seen)) and time.monotonic() - self._seen_at > GLANCE:
            self._seen_at = time.monotonic()
            with contextlib.suppress(Exception):  # what is shown is not worth an error: the next call tells
                self._saw(self._read(quick(self._reads)))
        return self._seen

    def _wait(self, timeout: float | timedelta | None, on_interrupt: OnInterrupt) -> None:
        __tracebackhide__ = True
        limit = seconds(timeout)
        deadline = float("inf") if limit is None else time.monotonic() + limit

        def done() -> bool:
            self._hold = min(HOLD, max(0.0, deadline - time.monotonic()))
            try:
                return self.done()
            finally:
                self._hold = 0.0

        with resumable(self._kind, self.id, self._stand, on_interrupt, self.cancel):
            if not poll(done, timeout):
                raise WaitTimeout(f"{self._kind} {self.id}: {self._stand()} after {limit:g} s; it goes on")


def warn_if_soon(what: str, finished_at: datetime | None, expires_at: datetime | None) -> None:
    """Warn that results are near their expiry."""
    if finished_at is None or expires_at is None:
        return
    kept, left = expires_at - finished_at, expires_at - datetime.now(UTC)
    if kept >= SHORT_LIVED and timedelta() < left < min(SOON, kept / 4):
        warnings.warn(
            f"the results of {what} are kept for {span(left.total_seconds())} more: save them, for example by "
            f"batch.frame().to_parquet(...), or submit with a longer result_ttl",
            ResultsExpireSoon,
            stacklevel=_outside(),
        )


def _outside() -> int:
    """Give the stacklevel of whoever called into this package."""
    here = str(Path(__file__).parent)
    frame: Any = sys._getframe(1)
    level = 1
    while frame is not None and frame.f_code.co_filename.startswith(here):
        frame, level = frame.f_back, level + 1
    return level
