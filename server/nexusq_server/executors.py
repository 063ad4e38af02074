"""Runs handlers in threads: no Future a task, a plain queue in and one call out.

`start` and `free` are called by the worker's loop; each thread writes only its own slot of `_running`, `_ended`
and `_busy`, which the loop and the lease's thread read. Must never touch Kafka or Redis.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

from nexusq_sdk.protocol.wire import TaskError
from nexusq_server.registry import Handler, InvalidPayload
from nexusq_server.store import Outcome, now_us
from nexusq_server.work import Claimed, completed, describe, failed

#: Tasks are claimed for about so long ahead, so that threads never wait for a claim.
LOOK_AHEAD_SECONDS = 0.05
#: ... but never more than so many for each thread, however short they have been lately.
LOOK_AHEAD_TASKS = 250

OnEnd = Callable[[Claimed, Outcome], None]


class ThreadExecutor:
    """`concurrency` threads that run handlers, and what they are doing."""

    def __init__(self, concurrency: int, max_result_bytes: int, on_end: OnEnd) -> None:
        self._on_end = on_end
        self._max_result_bytes = max_result_bytes
        self._queue: SimpleQueue[tuple[Claimed, Handler] | None] = SimpleQueue()
        self._running: list[str | None] = [None] * concurrency
        self._ended = [0] * concurrency
        self._busy = [0] * concurrency
        self._started = 0
        self._slot_free = threading.Event()
        self._window = (0, 0, time.monotonic())  # ended, busy µs, when the look-ahead was last reckoned
        self._ahead = 0
        self._threads = [
            threading.Thread(target=self._serve, args=(slot,), name=f"handler-{slot}", daemon=True)
            for slot in range(concurrency)
        ]
        for thread in self._threads:
            thread.start()

    def start(self, claimed: Claimed, handler: Handler) -> None:
        """Hand a task over to the next free thread."""
        self._started += 1
        self._queue.put((claimed, handler))

    def free(self) -> int:
        """Give how many tasks to claim now: the free threads, and a short look-ahead from recent durations."""
        in_hand = self._started - sum(self._ended)
        return max(0, len(self._threads) + self._look_ahead() - in_hand)

    def wait_free(self, seconds: float) -> None:
        """Wait until a task ends, at most so long."""
        self._slot_free.wait(seconds)
        self._slot_free.clear()

    def running(self) -> list[str]:
        """Give the ids of the tasks whose handlers have started."""
        return [task_id for task_id in self._running if task_id is not None]

    def idle(self) -> bool:
        """Whether everything that was started has ended."""
        return self._started == sum(self._ended)

    def stop(self) -> None:
        """Let the threads end after what they have; waits for none of them."""
        for _ in self._threads:
            self._queue.put(None)

    def _look_ahead(self) -> int:
        ended, busy, when = self._window
        now = time.monotonic()
        if now - when >= LOOK_AHEAD_SECONDS:
            total, total_busy = sum(self._ended), sum(self._busy)
            if total > ended:
                mean = max((total_busy - busy) / (total - ended) / 1e6, 1e-6)
                self._ahead = min(int(LOOK_AHEAD_SECONDS / mean), LOOK_AHEAD_TASKS) * len(self._threads)
            elif not self.idle():
                # Nothing ended for a while although something runs: whatever was quick is so no more.
                self._ahead = 0
            self._window = (total, total_busy, now)
        return self._ahead

    def _serve(self, slot: int) -> None:
        while (work := self._queue.get()) is not None:
            claimed, handler = work
            self._running[slot] = claimed.received.task.task_id
            started = now_us()
            outcome = self._attempt(claimed, handler, started)
            self._running[slot] = None
            self._busy[slot] += outcome.finished_us - started
            self._on_end(claimed, outcome)
            self._ended[slot] += 1
            self._slot_free.set()

    def _attempt(self, claimed: Claimed, handler: Handler, started: int) -> Outcome:
        try:
            result = handler.run(claimed.received.task.payload)
        except InvalidPayload as error:
            return failed(claimed, TaskError(type="InvalidPayload", message=str(error)), started, now_us())
        except BaseException as error:
            # The frames of this method and of Handler.run are ours, not the handler's.
            return failed(claimed, describe(error, skip_frames=2), started, now_us())
        if len(result) > self._max_result_bytes:
            message = (
                f"expected the result to have at most {self._max_result_bytes // 1024} KiB as JSON "
                f"(NEXUSQ_MAX_RESULT_KIB), got {len(result) // 1024} KiB; store it and return where it is"
            )
            return failed(claimed, TaskError(type="ResultTooLarge", message=message), started, now_us())
        return completed(claimed, result, started, now_us())
