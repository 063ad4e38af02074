"""Taskiq. https://pypi.org/project/taskiq-redis/: of its brokers the one on streams acknowledges, once the result is
saved.
"""

from __future__ import annotations

import asyncio
from typing import Any

from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from benchmarks import job
from benchmarks.peers.common import BROKER, RESULTS, AsyncPeerClient

# A worker that starts after its tasks were sent is to find them: from the stream's beginning.
broker = RedisStreamBroker(BROKER, consumer_id="0").with_result_backend(RedisAsyncResultBackend(RESULTS))


@broker.task(task_name="noop")
async def noop(**payload: Any) -> dict[str, Any]:
    """Do nothing."""
    return job.noop(**payload)


class Client(AsyncPeerClient):
    """https://taskiq-python.github.io/guide/getting-started.html: ``kiq`` sends one; many are awaited together."""

    def warm_up(self) -> None:
        """Make the connections."""
        super().warm_up()
        self.run(broker.startup())

    def submit(self, count: int) -> None:
        """Send them all, so many at once as there are workers' places."""
        self.run(self._submit(count))

    async def _submit(self, count: int) -> None:
        rows = iter(self.rows[:count])

        async def send() -> None:
            for row in rows:
                await noop.kiq(**row)

        await asyncio.gather(*(send() for _ in range(32)))

    def ping(self) -> None:
        """Send one and wait for its result: that is polled for, as often as can be said."""
        self.run(self._ping())

    async def _ping(self) -> None:
        task = await noop.kiq(**job.payload(1))
        await task.wait_result(check_interval=0.001, timeout=30)
