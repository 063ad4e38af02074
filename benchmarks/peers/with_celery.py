"""Celery."""

from __future__ import annotations

from typing import Any

from celery import Celery

from benchmarks import job
from benchmarks.peers.common import BROKER, RESULTS, PeerClient

app = Celery("bench", broker=BROKER, backend=RESULTS)
app.conf.update(
    # https://docs.celeryq.dev/en/stable/userguide/optimizing.html#prefetch-limits: many short tasks want a large
    # multiplier, "say 64 or 128".
    worker_prefetch_multiplier=128,
    # https://docs.celeryq.dev/en/stable/userguide/configuration.html#task-acks-late
    task_acks_late=True,
    broker_connection_retry_on_startup=True,
)


@app.task(name="noop")
def noop(**payload: Any) -> dict[str, Any]:
    """Do nothing."""
    return job.noop(**payload)


class Client(PeerClient):
    """Celery sends one at a time; a group of many was measured to be slower still."""

    def warm_up(self) -> None:
        """Make the connections."""
        super().warm_up()
        with app.producer_or_acquire() as producer:
            producer.connection.ensure_connection()

    def submit(self, count: int) -> None:
        """Send them all."""
        for row in self.rows[:count]:
            noop.delay(**row)

    def ping(self) -> None:
        """Send one and wait for its result: Redis tells of it by publish and subscribe."""
        noop.delay(**job.payload(1)).get(timeout=30)
