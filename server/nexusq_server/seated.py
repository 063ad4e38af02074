"""What executors of threads and of processes share: a thread for each place, its seat, and tasks claimed ahead.

`start` and `free` are called by the worker's loop; each thread writes only its own place of the counts that the loop
reads.
"""

from __future__ import annotations

import threading
import time
from abc import abstractmethod
from collections.abc import Sequence
from queue import SimpleQueue

from nexusq_sdk.tasks import Cancelled
from nexusq_server.runs import Executor, OnEnd
from nexusq_server.seats import Deadlines, Seat
from nexusq_server.slots import Slots
from nexusq_server.work import Claimed, Ended

#: Tasks are claimed for about so long ahead, so that no place waits for a claim, and a claim is for many. At a batch's
#: end one worker may have so much more to do than another.
LOOK_AHEAD_SECONDS = 0.2
#: ... but never more than so many for each place, however short they have been lately.
LOOK_AHEAD_TASKS = 250


class SeatedExecutor(Executor):
    """A thread with a seat for each place, which takes what is handed over in turn. `_begin` starts the threads."""

    def __init__(
        self,
        seats: Sequence[Seat],
        slots: Slots,
        first_slot: int,
        on_end: OnEnd,
        max_result_bytes: int,
        freed: threading.Event | None = None,
    ) -> None:
        super().__init__(len(seats), slots, first_slot, on_end, max_result_bytes, freed)
        self._queue: SimpleQueue[Claimed | None] = SimpleQueue()
        self._deadlines = Deadlines(seats)
        self._all_seats = seats
        self._threads: list[threading.Thread] = []
        self._ended_count = [0] * len(seats)
        self._busy = [0] * len(seats)
        self._window = (0, 0, time.monotonic())  # ended, busy µs, when the look-ahead was last reckoned
        self._ahead = 0
        self._mean = float("inf")  # how long a task took lately, in seconds, as far as is known

    def free(self) -> int:
        """Give how many tasks to claim now: the free places, and a short look-ahead from recent durations.

        Of the look-ahead, half is used up before more is claimed: a few large claims cost less than many small ones.
        """
        ahead = self._look_ahead()
        self._enough = self.places + ahead // 2
        in_hand = len(self._in_hand)
        return self.places + ahead - in_hand if in_hand < self._enough else 0

    def lasts(self, tasks: int) -> float:
        """Give for how many seconds so many tasks more will do, by how long tasks took lately."""
        return LOOK_AHEAD_SECONDS * tasks / max(self._ahead, self.places)

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

    @abstractmethod
    def _serve(self, place: int) -> None:
        """Run what the queue gives until it gives None."""

    def _begin(self, name: str) -> None:
        self._threads = [
            threading.Thread(target=self._serve, args=(place,), name=f"{name}-{place}", daemon=True)
            for place in range(self.places)
        ]
        for thread in self._threads:
            thread.start()

    def _hand_over(self, run: Claimed) -> None:
        self._queue.put(run)

    def _interrupt(self, run: Claimed) -> None:
        # Not seated yet: the thread sees the flag before it calls the handler.
        any(seat.strike(run, Cancelled) for seat in self._all_seats)

    def _ended(self, place: int, run: Claimed, ended: Ended) -> None:
        self._ended_count[place] += 1
        self._busy[place] += ended.finished_us - ended.started_us
        super()._ended(place, run, ended)

    def _look_ahead(self) -> int:
        ended, busy, when = self._window
        now = time.monotonic()
        due = now - when >= LOOK_AHEAD_SECONDS
        if due or not self._ahead:
            total, total_busy = sum(self._ended_count), sum(self._busy)
            # Where nothing is claimed ahead yet, it is as soon as as many have ended as run at once.
            if due or total >= ended + self.places:
                if total > ended:
                    self._mean = max((total_busy - busy) / (total - ended) / 1e6, 1e-6)
                elif self._in_hand:
                    # Nothing ended for a while although something runs: whatever was quick is so no more.
                    self._mean = float("inf")
                self._ahead = min(int(LOOK_AHEAD_SECONDS / self._mean), LOOK_AHEAD_TASKS) * self.places
                self._window = (total, total_busy, now)
        return self._ahead
