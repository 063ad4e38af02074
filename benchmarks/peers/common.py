"""What the peers' clients share. Nothing here is timed."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

import redis
import uvloop

from benchmarks import job

#: Redis's URL without a database: queues go to 0, results to 1 where the library lets one choose.
REDIS = os.environ.get("BENCH_REDIS", "redis://127.0.0.1:6379")
BROKER, RESULTS = f"{REDIS}/0", f"{REDIS}/1"


class PeerClient:
    """A client without what is its library's own: `submit`, `ping`, and how many have `finished`."""

    def __init__(self) -> None:
        self.queues = redis.Redis.from_url(BROKER)
        self.results = redis.Redis.from_url(RESULTS)
        self.rows: list[dict[str, Any]] = []

    def warm_up(self) -> None:
        """Make the connections."""
        self.queues.ping()

    def prepare(self, count: int) -> None:
        """Make the rows."""
        self.rows = [job.payload(index) for index in range(count)]

    def finished(self) -> int:
        """Give how many results there are: a key each in a database of their own."""
        seen: Any = self.results.dbsize()
        return int(seen)

    def clear(self) -> None:
        """Forget everything."""
        self.queues.flushall()


class AsyncPeerClient(PeerClient):
    """A client whose library lives on an event loop: one that always runs, uvloop, in a thread of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = uvloop.new_event_loop()
        self._up = threading.Event()
        threading.Thread(target=self._loop.run_until_complete, args=(self._live(),), daemon=True).start()
        self._up.wait()

    def open(self) -> AbstractAsyncContextManager[Any]:
        """Give what is to be open while the client lives."""
        return AsyncExitStack()

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine to its end."""
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _live(self) -> None:
        async with self.open():
            self._up.set()
            await asyncio.Event().wait()
