"""Runs handlers in threads: no Future a task, a plain queue in and one call out.

`start` and `free` are called by the worker's loop; each thread writes only its own place of `_ended` and `_busy`, which
the loop reads. A time limit and a cancel are raised inside the handler by the interpreter, and never outside of it.
Must never touch Kafka or Redis.
"""

from __future__ import annotations

import ctypes
import threading
import time
from queue import SimpleQueue

from nexusq_sdk.protocol.wire import TaskError
from nexusq_sdk.tasks import CURRENT, Cancelled
from nexusq_server.clock import now_us
from nexusq_server.runs import Executor, OnEnd, attempt, out_of_time
from nexusq_server.seats import Deadlines, Seat
from nexusq_server.slots import Slots
from nexusq_server.work import Claimed, Ended, cancelled, describe, failed, kinds_of

#: Tasks are claimed for about so long ahead, so that threads never wait for a claim.
LOOK_AHEAD_SECONDS = 0.05
#: ... but never more than so many for each thread, however short they have been lately.
LOOK_AHEAD_TASKS = 250


class ThreadExecutor(Executor):
    """`concurrency` threads that run handlers, and what they are doing."""

    def __init__(
        self,
        concurrency: int,
        slots: Slots,
        first_slot: int,
        on_end: OnEnd,
        max_result_bytes: int,
        freed: threading.Event | None = None,
    ) -> None:
        super().__init__(concurrency, slots, first_slot, on_end, max_result_bytes, freed)
        self._queue: SimpleQueue[Claimed | None] = SimpleQueue()
        self._ended_count = [0] * concurrency
        self._busy = [0] * concurrency
        self._window = (0, 0, time.monotonic())  # ended, busy µs, when the look-ahead was last reckoned
        self._ahead = 0
        self._seats = [_ThreadSeat() for _ in range(concurrency)]
        self._deadlines = Deadlines(self._seats)
        self._threads = [
            threading.Thread(target=self._serve, args=(place,), name=f"handler-{place}", daemon=True)
            for place in range(concurrency)
        ]
        for thread in self._threads:
            thread.start()

    def free(self) -> int:
        """Give how many tasks to claim now: the free threads, and a short look-ahead from recent durations.

        Of the look-ahead, half is used up before more is claimed: a few large claims cost less than many small ones.
        """
        ahead = self._look_ahead()
        self._enough = self.places + ahead // 2
        in_hand = len(self._in_hand)
        return self.places + ahead - in_hand if in_hand < self._enough else 0

    def stop(self) -> None:
        """Let the threads end after what they have; waits for none of them."""
        for _ in self._threads:
            self._queue.put(None)

    def join(self, seconds: float) -> bool:
        """Wait for the threads to end after `stop`, at most so long; whether they have."""
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        # Not before: a handler that runs on still has its limit.
        self._deadlines.stop()
        return self._deadlines.join(max(0.0, until - time.monotonic())) and not any(
            thread.is_alive() for thread in self._threads
        )

    def _hand_over(self, run: Claimed) -> None:
        self._queue.put(run)

    def _interrupt(self, run: Claimed) -> None:
        # Not seated yet: the thread sees the flag before it calls the handler.
        any(seat.strike(run, Cancelled) for seat in self._seats)

    def _look_ahead(self) -> int:
        ended, busy, when = self._window
        now = time.monotonic()
        if now - when >= LOOK_AHEAD_SECONDS:
            total, total_busy = sum(self._ended_count), sum(self._busy)
            if total > ended:
                mean = max((total_busy - busy) / (total - ended) / 1e6, 1e-6)
                self._ahead = min(int(LOOK_AHEAD_SECONDS / mean), LOOK_AHEAD_TASKS) * self.places
            elif self._in_hand:
                # Nothing ended for a while although something runs: whatever was quick is so no more.
                self._ahead = 0
            self._window = (total, total_busy, now)
        return self._ahead

    def _serve(self, place: int) -> None:
        seat = self._seats[place]
        seat.thread = threading.get_ident()
        while (run := self._queue.get()) is not None:
            if not self._take(run):
                continue
            self._began(place, run)
            ended = self._attempt(seat, run)
            self._ended_count[place] += 1
            self._busy[place] += ended.finished_us - ended.started_us
            self._ended(place, run, ended)

    def _attempt(self, seat: _ThreadSeat, run: Claimed) -> Ended:
        """Run the handler; whatever is raised into this thread meanwhile has been raised when this returns."""
        started = now_us()
        ended: Ended | None = None
        CURRENT.set(run)
        try:
            try:
                if run.limit is not None:
                    self._deadlines.watch(seat, run, run.limit)
                seat.run = run
                if run.cancelled:  # after the seat was taken: a cancel either finds it there or was seen here
                    ended = cancelled(started)
                else:
                    ended = attempt(run, run.handler, run.received.record.payload, run.limit, self._max_result_bytes)
            finally:
                seat.leave()
        except BaseException as error:
            # A blow that fell in our own code: just before or after the handler, or in the lines above.
            seat.leave()
            if ended is None:
                ended = _struck(run, error, started)
        return ended


class _ThreadSeat(Seat):
    """A thread's window: a blow is an exception that the interpreter raises in the thread at its next step."""

    __slots__ = ("thread",)

    def __init__(self) -> None:
        super().__init__(self._raise)
        self.thread = 0

    def leave(self) -> None:
        """Close the window; what was sent and has not been raised yet is called back."""
        run = self.run
        super().leave()
        if run is None or run.interrupt is not None:
            _set_async_exc(self.thread, None)

    def _raise(self, reason: type[BaseException]) -> None:
        _set_async_exc(self.thread, reason)


def _set_async_exc(thread: int, reason: type[BaseException] | None) -> None:
    exception = None if reason is None else ctypes.py_object(reason)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), exception)


def _struck(run: Claimed, error: BaseException, started_us: int) -> Ended:
    if run.cancelled or isinstance(error, Cancelled):
        return cancelled(started_us)
    if run.interrupt is not None:
        return out_of_time(run.limit, started_us)
    return failed(
        TaskError(type=type(error).__qualname__, message=str(error), traceback=describe(error, 0).traceback),
        started_us,
        kinds=kinds_of(type(error)),
    )
