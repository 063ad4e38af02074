"""Huey. It takes a task off its queue before it runs; there is no late acknowledgement to switch on."""

from __future__ import annotations

from typing import Any

from huey import RedisHuey

from benchmarks import job
from benchmarks.peers.common import BROKER, PeerClient

# https://huey.readthedocs.io/en/latest/api.html#RedisHuey: with notify_result a wait blocks in Redis, it does not poll.
huey = RedisHuey("bench", url=BROKER, notify_result=True)


@huey.task()
def noop(**payload: Any) -> dict[str, Any]:
    """Do nothing."""
    return job.noop(**payload)


class Client(PeerClient):
    """Huey sends one at a time."""

    def submit(self, count: int) -> None:
        """Send them all."""
        for row in self.rows[:count]:
            noop(**row)

    def finished(self) -> int:
        """Give how many results there are."""
        return int(huey.result_count())

    def ping(self) -> None:
        """Send one and wait for its result."""
        noop(**job.payload(1)).get(blocking=True, timeout=30)
