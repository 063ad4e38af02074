"""What the three executors share: what they are asked, the run of a task, and the words for how it ended.

`start`, `free` and `take_back` are called by the worker's loop, `cancel` by any thread, `running` by the lease.
The functions at the end are called where a handler runs, child processes too: this file loads neither Kafka's client
nor Redis's.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple

from msgspec.structs import replace

from nexusq_sdk.protocol.wire import TaskError
from nexusq_sdk.tasks import Cancelled, CurrentTask, Retry, TimeLimitExceeded
from nexusq_server.clock import now_us
from nexusq_server.registry import Handler, InvalidPayload
from nexusq_server.slots import Slots
from nexusq_server.work import Claimed, Ended, cancelled, completed, describe, failed, kinds_of

#: Told how an attempt ended, from the thread that ran it. Must be quick and must not raise.
OnEnd = Callable[[Claimed, Ended], None]

_ABSENT: Any = object()


class Note(NamedTuple):
    """What a handler has said of its task."""

    task_id: str
    attempt: int
    fraction: float | None
    text: str
    lines: tuple[str, ...]


def take_note(task: CurrentTask) -> Note | None:
    """Give what a task's handler has said since this was asked last; None: nothing."""
    said = task._said
    if said is None or not said.news:
        return None
    said.news = False
    return Note(task.id, task.attempt, said.fraction, said.text, said.lines)


class Executor(ABC):
    """Places that run handlers, each with a slot of its own from `first_slot` on, and the tasks in hand.

    A run is in `_in_hand` from `start` until its end was told, in `_queued` until somebody takes it out to start it,
    to cancel it or to give it back: whoever's pop succeeds has it.
    """

    def __init__(
        self,
        places: int,
        slots: Slots,
        first_slot: int,
        on_end: OnEnd,
        max_result_bytes: int,
        freed: threading.Event | None = None,
    ) -> None:
        self.places = places
        self._slots = slots
        self._first_slot = first_slot
        self._on_end = on_end
        self._max_result_bytes = max_result_bytes
        self._freed = freed or threading.Event()
        self._in_hand: set[Claimed] = set()
        self._enough = places  # below so many in hand, an end is told to who waits for a free place
        self._queued: dict[Claimed, None] = {}
        self._lapsed: deque[Claimed] = deque()  # not started, since their lease had run out: as the next
        self._last_notes: deque[Note] = deque()  # of runs that have ended: added by their threads, taken by the loop
        self._running: list[Claimed | None] = [None] * places  # each entry is written by whoever serves the place

    def start(self, claimed: Claimed, handler: Handler, limit: timedelta | None = None) -> None:
        """Take a task in hand: it starts as soon as a place is free."""
        claimed.handler = handler
        claimed.limit = limit
        self._in_hand.add(claimed)
        self._queued[claimed] = None
        self._hand_over(claimed)

    def free(self) -> int:
        """Give how many tasks to claim now."""
        return max(0, self.places - len(self._in_hand))

    def lasts(self, _tasks: int) -> float:
        """Give for how many seconds so many tasks more will do, as far as is known."""
        return 0.0

    def wait_free(self, seconds: float) -> None:
        """Wait until a task ends (in any executor that shares the event), at most so long; then ask `free` again."""
        self._freed.wait(seconds)
        self._freed.clear()

    def in_hand(self) -> int:
        """Give how many tasks were started here and have not ended."""
        return len(self._in_hand)

    def idle(self) -> bool:
        """Whether everything that was started has ended or was taken back."""
        return not self._in_hand

    def running(self) -> list[str]:
        """Give the ids of the tasks whose handlers have started."""
        return [run.id for run in self._running if run is not None]

    def notes(self) -> list[Note]:
        """Give what handlers have said since this was asked last."""
        found = [note for run in list(self._running) if run is not None and (note := take_note(run)) is not None]
        while self._last_notes:
            found.append(self._last_notes.popleft())
        return found

    def cancel(self, task_id: str) -> bool:
        """End a task as cancelled: at once if its handler has not started; False if it is not in hand."""
        for run in list(self._in_hand):
            if run.id == task_id:
                run.cancel()
                if self._queued.pop(run, _ABSENT) is not _ABSENT:
                    self._on_end(run, cancelled(now_us()))
                    self._in_hand.discard(run)
                    self._freed.set()
                    self._gone()
                else:
                    self._interrupt(run)
                return True
        return False

    def take_back(self) -> list[Claimed]:
        """Give back what has not started, in its order. It is out of hand and will not start here."""
        back = []
        for run in list(self._queued):
            if self._queued.pop(run, _ABSENT) is not _ABSENT:
                self._in_hand.discard(run)
                back.append(run)
        self._gone()
        return back

    @abstractmethod
    def stop(self) -> None:
        """Let the threads end after what is in hand; waits for none of them."""

    @abstractmethod
    def join(self, seconds: float) -> bool:
        """Wait for the threads to end after `stop`, at most so long; whether they have."""

    @abstractmethod
    def _hand_over(self, run: Claimed) -> None:
        """Tell the places of a run."""

    @abstractmethod
    def _interrupt(self, run: Claimed) -> None:
        """Stop a cancelled run whose handler has started or is about to."""

    def _gone(self) -> None:  # noqa: B027 - most have nothing to do
        """Note that queued runs have gone without a place's doing."""

    def lapsed(self) -> list[Claimed]:
        """Give what was not started, since the lease under which it was claimed had run out: it may be another's."""
        return [self._lapsed.popleft() for _ in range(len(self._lapsed))]

    def _take(self, run: Claimed) -> bool:
        """Take a queued run to start it; False if it was cancelled or given back, or is perhaps another worker's."""
        return self._queued.pop(run, _ABSENT) is not _ABSENT and self._may_start(run)

    def _may_start(self, run: Claimed) -> bool:
        """Whether the lease of a run lasts; if not, it is out of hand: it may be another worker's."""
        if self._slots.covers(run.lease):
            return True
        self._lapse(run)
        return False

    def _lapse(self, run: Claimed) -> None:
        self._in_hand.discard(run)
        self._lapsed.append(run)
        self._freed.set()

    def _began(self, place: int, run: Claimed) -> None:
        self._running[place] = run
        self._slots.start(self._first_slot + place, run.id)

    def _ended(self, place: int, run: Claimed, ended: Ended) -> None:
        # The outcome first: a crash right after it charges an attempt; the other way round it would lose one.
        self._on_end(run, ended)
        self._vacate(place)
        if run._said is not None and (note := take_note(run)) is not None:
            self._last_notes.append(note)
        self._in_hand.discard(run)
        if len(self._in_hand) < self._enough and not self._freed.is_set():
            self._freed.set()

    def _vacate(self, place: int) -> None:
        self._slots.end(self._first_slot + place)
        self._running[place] = None


def attempt(task: CurrentTask, handler: Handler, payload: Any, limit: timedelta | None, max_bytes: int) -> Ended:
    """Run a handler in this thread and give how it ended."""
    started = now_us()
    try:
        args, kwargs = handler.decode(payload)
    except InvalidPayload as error:
        return unfit(error, started)
    try:
        result = handler.call(*args, **kwargs)
    except BaseException as error:
        return raised(task, error, started, limit)
    return returned(task, handler, result, started, max_bytes)


def unfit(error: InvalidPayload, started_us: int) -> Ended:
    """Give the end of an attempt whose payload does not fit: no other attempt would fare better."""
    return failed(TaskError(type="InvalidPayload", message=str(error)), started_us, hopeless=True)


def returned(task: CurrentTask, handler: Handler, result: Any, started_us: int, max_bytes: int) -> Ended:
    """Give the end of an attempt whose handler returned."""
    try:
        value = handler.encode(result)
    except Exception as error:
        return raised(task, error, started_us, None)
    if len(value) > max_bytes:
        message = (
            f"expected the result to have at most {max_bytes // 1024} KiB as JSON "
            f"(NEXUSQ_MAX_RESULT_KIB), got {len(value) // 1024} KiB; store it and return where it is"
        )
        return failed(TaskError(type="ResultTooLarge", message=message), started_us, kinds=("ResultTooLarge",))
    return completed(value, started_us)


def raised(task: CurrentTask, error: BaseException, started_us: int, limit: timedelta | None) -> Ended:
    """Give the end of an attempt whose handler raised. What a cancelled one raises on its way out is of no interest."""
    if task.cancelled or isinstance(error, Cancelled):
        return cancelled(started_us)
    told = describe(error, skip_frames=1)
    if isinstance(error, TimeLimitExceeded) and limit is not None:
        told = replace(told, message=beyond(limit))
    retry_in = error.delay if isinstance(error, Retry) else None
    return failed(told, started_us, kinds=kinds_of(type(error)), retry_in=retry_in)


def out_of_time(limit: timedelta | None, started_us: int) -> Ended:
    """Give the end of an attempt that was stopped at its time limit."""
    message = beyond(limit) if limit is not None else str(TimeLimitExceeded())
    error = TaskError(type=TimeLimitExceeded.__name__, message=message)
    return failed(error, started_us, kinds=kinds_of(TimeLimitExceeded))


def beyond(limit: timedelta) -> str:
    """Say that a limit was passed."""
    return f"expected the task to end within its time limit of {limit.total_seconds():g} s, it ran on"
