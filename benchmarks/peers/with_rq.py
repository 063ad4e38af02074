"""RQ. https://github.com/rq/rq/blob/master/docs/benchmark.md: for jobs that are extremely short, `SimpleWorker`, which
runs them in its own process instead of one of their own each.
"""

from __future__ import annotations

from typing import Any

from rq import Queue

from benchmarks import job
from benchmarks.peers.common import PeerClient


class Client(PeerClient):
    """https://python-rq.org/docs/#bulk-job-enqueueing."""

    def warm_up(self) -> None:
        """Make the connections."""
        super().warm_up()
        self.queue = Queue(connection=self.queues)

    def submit(self, count: int) -> None:
        """Enqueue them all, by pipelines."""
        self.queue.enqueue_many([Queue.prepare_data(job.noop, kwargs=row) for row in self.rows[:count]])

    def finished(self) -> int:
        """Give how many are in the registry of finished jobs."""
        seen: Any = self.queues.zcard("rq:finished:default")
        return int(seen)

    def ping(self) -> None:
        """Enqueue one and wait for its result: Redis blocks until it is there."""
        self.queue.enqueue(job.noop, kwargs=job.payload(1)).latest_result(timeout=30)
