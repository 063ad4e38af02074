"""Dramatiq. Messages are acknowledged when they have been processed: https://dramatiq.io/guide.html#message-brokers."""

from __future__ import annotations

from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from benchmarks import job
from benchmarks.peers.common import BROKER, RESULTS, PeerClient

broker = RedisBroker(url=BROKER)
# https://dramatiq.io/cookbook.html#results
broker.add_middleware(Results(backend=RedisBackend(url=RESULTS)))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def noop(**payload: Any) -> dict[str, Any]:
    """Do nothing."""
    return job.noop(**payload)


class Client(PeerClient):
    """https://dramatiq.io/cookbook.html#groups: many messages go out as a group."""

    def submit(self, count: int) -> None:
        """Send them all."""
        dramatiq.group(noop.message(**row) for row in self.rows[:count]).run()

    def ping(self) -> None:
        """Send one and wait for its result: Redis blocks until it is there."""
        noop.send(**job.payload(1)).get_result(block=True, timeout=30_000)
