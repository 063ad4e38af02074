"""Runs async handlers: one thread with an event loop, `async_concurrency` tasks at once.

Everything about a run happens in the loop's thread; `start`, `cancel` and `stop` send it there. A time limit and a
cancel reach the handler as `asyncio.CancelledError`. A handler that blocks the loop holds up the others here and nobody
else.
Must never touch Kafka or Redis.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from nexusq_sdk.tasks import CURRENT
from nexusq_server.clock import now_us
from nexusq_server.registry import InvalidPayload
from nexusq_server.runs import Executor, OnEnd, out_of_time, raised, returned, unfit
from nexusq_server.slots import Slots
from nexusq_server.work import Claimed, Ended, cancelled


class AsyncExecutor(Executor):
    """The loop, its places, and the tasks on them."""

    def __init__(
        self,
        async_concurrency: int,
        slots: Slots,
        first_slot: int,
        on_end: OnEnd,
        max_result_bytes: int,
        freed: threading.Event | None = None,
    ) -> None:
        super().__init__(async_concurrency, slots, first_slot, on_end, max_result_bytes, freed)
        self._places = list(range(async_concurrency))  # free ones; the loop's thread alone
        self._tasks: dict[Claimed, asyncio.Task[None]] = {}  # whose handlers have begun; the loop's thread alone
        self._unborn: set[asyncio.Task[None]] = set()  # a loop keeps only weak references to tasks
        self._called = False  # the loop has been told of queued runs and has not looked yet
        self._stopping = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="async-handlers", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Let the loop end after what is in hand; does not wait for it."""
        self._call(self._stop)

    def join(self, seconds: float) -> bool:
        """Wait for the loop's thread to end after `stop`, at most so long; whether it has."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _hand_over(self, run: Claimed) -> None:  # noqa: ARG002 - it is in the queue
        if not self._called:
            self._called = True
            self._call(self._begin)

    def _interrupt(self, run: Claimed) -> None:
        self._call(self._cancel, run)

    def _gone(self) -> None:
        self._call(self._stop_when_idle)

    def _call(self, function: Callable[..., None], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            if not self._loop.is_closed():
                raise

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    def _stop(self) -> None:
        self._stopping = True
        self._stop_when_idle()

    def _stop_when_idle(self) -> None:
        if self._stopping and not self._in_hand:
            self._loop.stop()

    def _begin(self) -> None:
        self._called = False  # before looking: what comes from here on calls again
        for run in list(self._queued):
            if not self._places:
                return  # the next end begins it
            if self._take(run):
                task = self._loop.create_task(self._run(run, self._places.pop()))
                self._unborn.add(task)
                task.add_done_callback(self._unborn.discard)

    def _cancel(self, run: Claimed) -> None:
        # A task that has not begun yet sees the flag; cancelled now, it would never begin and the run be lost.
        task = self._tasks.get(run)
        if task is not None:
            task.cancel()

    async def _run(self, run: Claimed, place: int) -> None:
        # Looked at again: many may have begun since it was taken, and the process may have been stopped meanwhile.
        if self._may_start(run):
            task = asyncio.current_task()
            assert task is not None
            self._began(place, run)
            self._tasks[run] = task
            CURRENT.set(run)
            ended = await self._attempt(run)
            # Nothing is awaited from here on: a late cancel finds nothing to interrupt.
            del self._tasks[run]
            self._ended(place, run, ended)
        self._places.append(place)
        if self._queued:
            self._begin()
        self._stop_when_idle()

    async def _attempt(self, run: Claimed) -> Ended:
        started = now_us()
        if run.cancelled:
            return cancelled(started)
        try:
            args, kwargs = run.handler.decode(run.received.record.payload)
        except InvalidPayload as error:
            return unfit(error, started)
        fault: BaseException | None = None
        seconds = None if run.limit is None else run.limit.total_seconds()
        try:
            async with asyncio.timeout(seconds) as limit:
                try:
                    result = await run.handler.function(*args, **kwargs)
                except BaseException as error:
                    fault = error
                    raise
        except BaseException as error:
            if limit.expired() and isinstance(fault, asyncio.CancelledError) and not run.cancelled:
                return out_of_time(run.limit, started)
            return raised(run, fault or error, started, run.limit)
        return returned(run, run.handler, result, started, self._max_result_bytes)
