"""Runs handlers in threads: no Future a task, a plain queue in and one call out.

A time limit and a cancel are raised inside the handler by the interpreter, and never outside of it.
Must never touch Kafka or Redis.
"""

from __future__ import annotations

import ctypes
import threading

from nexusq_sdk.protocol.wire import TaskError
from nexusq_sdk.tasks import CURRENT, Cancelled
from nexusq_server.clock import now_us
from nexusq_server.runs import OnEnd, attempt, out_of_time
from nexusq_server.seated import SeatedExecutor
from nexusq_server.seats import Seat
from nexusq_server.slots import Slots
from nexusq_server.work import Claimed, Ended, cancelled, describe, failed, kinds_of


class ThreadExecutor(SeatedExecutor):
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
        self._seats = [_ThreadSeat() for _ in range(concurrency)]
        super().__init__(self._seats, slots, first_slot, on_end, max_result_bytes, freed)
        self._begin("handler")

    def _serve(self, place: int) -> None:
        seat = self._seats[place]
        seat.thread = threading.get_ident()
        while (run := self._queue.get()) is not None:
            if not self._take(run):
                continue
            self._began(place, run)
            ended = self._attempt(seat, run)
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
