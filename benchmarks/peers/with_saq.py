"""SAQ. A job stays in Redis until it has finished; those of a dead worker are swept:
https://saq-py.readthedocs.io/en/latest/.
"""

from __future__ import annotations

import asyncio
from typing import Any

from saq import Queue

from benchmarks import job
from benchmarks.peers.common import BROKER, AsyncPeerClient

queue = Queue.from_url(BROKER)


async def noop(_: Any, **payload: Any) -> dict[str, Any]:
    """Do nothing."""
    return job.noop(**payload)


# https://saq-py.readthedocs.io/en/latest/getting_started.html; 32 at once, as in the benchmarks that compare it.
settings = {"queue": queue, "functions": [("noop", noop)], "concurrency": 32}


class Client(AsyncPeerClient):
    """Jobs are enqueued one by one, 20 at once (``max_concurrent_ops``, the library's own limit)."""

    def warm_up(self) -> None:
        """Make the connections."""
        super().warm_up()
        self.run(queue.connect())

    def submit(self, count: int) -> None:
        """Enqueue them all."""
        self.count = count
        self.run(self._submit(count))

    async def _submit(self, count: int) -> None:
        rows = iter(self.rows[:count])

        async def send() -> None:
            for row in rows:
                await queue.enqueue("noop", **row)

        await asyncio.gather(*(send() for _ in range(20)))

    def finished(self) -> int:
        """Give how many are no longer incomplete."""
        left: Any = self.queues.zcard("saq:default:incomplete")
        return self.count - int(left)

    def ping(self) -> None:
        """Enqueue one and wait for its result: that is polled for, as often as can be said."""
        self.run(queue.apply("noop", timeout=30, poll_interval=0.001, **job.payload(1)))
