"""Where one handler runs at a time and can be struck from outside, and the one thread that watches time limits.

A seat's `run` is written by the thread that sits on it; `strike` is called by any other. The lock between them makes
sure that a blow meets the run it was meant for, or nobody.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

from nexusq_sdk.tasks import TimeLimitExceeded
from nexusq_server.work import Claimed

#: The timer looks again at the latest after so long; a wait can't be longer than a platform's own limit.
LONGEST_WAIT = 3600.0
#: ... and so soon where a deadline has passed before its run sits down.
MOMENT = 0.005


class Seat:
    """One place's window for blows: open from `run` being set until `leave`.

    In a thread's window any line may raise, so a lock that is written in Python must not be taken in it: a blow may
    fall after it is taken and before its ``with`` knows of it. A bare Lock's ``with`` is safe.
    """

    __slots__ = ("_blow", "_lock", "due", "run")

    def __init__(self, blow: Callable[[type[BaseException]], None]) -> None:
        self._blow = blow
        self._lock = threading.Lock()
        self.run: Claimed | None = None
        self.due = float("inf")  # the deadline of what sits here, or is about to

    def leave(self) -> None:
        """Close the window: once this returns, no blow comes any more."""
        with self._lock:
            self.run = None
            self.due = float("inf")

    def strike(self, run: Claimed, reason: type[BaseException]) -> bool:
        """Strike `run` if it sits here and has not been struck yet."""
        with self._lock:
            if self.run is not run or run.interrupt is not None:
                return False
            run.interrupt = reason
            self._blow(reason)
            return True


class Deadlines:
    """Strikes runs whose deadline has passed. Its thread starts with the first run that has one."""

    def __init__(self, seats: Sequence[Seat]) -> None:
        self._seats = seats
        self._changed = threading.Condition()
        self._next = float("inf")  # when the thread looks again; written by it alone
        self._thread: threading.Thread | None = None
        self._stopping = False

    def watch(self, seat: Seat, run: Claimed, limit: timedelta) -> None:
        """Tell of a run that is about to sit down with a time limit, from now on. Not while its window is open."""
        run.deadline = seat.due = time.monotonic() + limit.total_seconds()
        if self._thread is None or run.deadline < self._next:
            with self._changed:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._serve, name="deadlines", daemon=True)
                    self._thread.start()
                self._changed.notify()

    def stop(self) -> None:
        """Let the thread end."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def join(self, seconds: float) -> bool:
        """Wait for the thread's end, at most so long."""
        if self._thread is not None:
            self._thread.join(seconds)
        return self._thread is None or not self._thread.is_alive()

    def _serve(self) -> None:
        with self._changed:
            while not self._stopping:
                # Infinity while looking: who sits down meanwhile, and may be missed, notifies.
                self._next = float("inf")
                nearest = float("inf")
                now = time.monotonic()
                for seat in self._seats:
                    due, run = seat.due, seat.run
                    if due > now:
                        nearest = min(nearest, due)
                    elif run is None:
                        nearest = min(nearest, now + MOMENT)  # about to sit down, or just leaving
                    elif run.deadline <= now:
                        seat.strike(run, TimeLimitExceeded)
                self._next = nearest
                self._changed.wait(min(nearest - time.monotonic(), LONGEST_WAIT))
