"""streaQ. A task is acknowledged on its stream when it has finished: https://streaq.readthedocs.io/."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

from streaq import Worker

from benchmarks import job
from benchmarks.peers.common import BROKER, AsyncPeerClient

# 32 at once, as in its own benchmarks: https://github.com/tastyware/streaq/tree/master/benchmarks.
worker: Worker[None] = Worker(redis_url=BROKER, concurrency=32, anyio_kwargs={"use_uvloop": True})


# A task that is silent writes no two lines of log each.
@worker.task(name="noop", silent=True)
async def noop(**payload: Any) -> dict[str, Any]:
    """Do nothing."""
    return job.noop(**payload)


class Client(AsyncPeerClient):
    """Many tasks go out by `enqueue_many`, a pipeline."""

    def open(self) -> AbstractAsyncContextManager[Any]:
        """Give what is to be open while the client lives."""
        opened: AbstractAsyncContextManager[Any] = worker
        return opened

    def submit(self, count: int) -> None:
        """Send them all."""
        self.count = count
        self.run(self._submit(count))

    async def _submit(self, count: int) -> None:
        for start in range(0, count, 5000):
            rows = self.rows[start : min(count, start + 5000)]
            await worker.enqueue_many([noop.enqueue(**row) for row in rows])

    def finished(self) -> int:
        """Give how many are no longer on the stream."""
        left: Any = self.queues.xlen(worker.stream_key + worker.priorities[-1])
        return self.count - int(left)

    def ping(self) -> None:
        """Send one and wait for its result."""
        self.run(self._ping())

    async def _ping(self) -> None:
        task = await noop.enqueue(**job.payload(1))
        await task.result(timeout=30)
