"""Renews the worker's lease in Redis from a thread of its own, and says whether the lease is still held.

While the lease lasts no other worker takes this one's tasks over; when it has run out, nothing new is claimed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from datetime import timedelta

import redis

from nexusq_server.store import Store

log = logging.getLogger(__name__)


class Lease(threading.Thread):
    """The thread. `fields` tells what the lease shows of the worker, `running` the ids of started tasks."""

    def __init__(
        self,
        store: Store,
        worker: str,
        lease: timedelta,
        fields: Callable[[], Mapping[str, str | int]],
        running: Callable[[], list[str]],
    ) -> None:
        super().__init__(name="lease", daemon=True)
        self._store = store
        self._worker = worker
        self._lease = lease
        self._fields = fields
        self._running = running
        self._ended = threading.Event()
        self._renewed = float("-inf")  # written by whoever renews: the starter first, then this thread

    def renew(self) -> None:
        """Renew the lease now. Raises `redis.RedisError` when Redis is away."""
        # The clock is read before the call: the lease in Redis can only last longer than we believe.
        now = time.monotonic()
        self._store.renew_lease(self._worker, self._lease, self._fields(), self._running())
        self._renewed = now

    def held(self) -> bool:
        """Whether the lease will surely last a little longer."""
        return time.monotonic() - self._renewed < 0.8 * self._lease.total_seconds()

    def end(self) -> None:
        """Give the lease back: what this worker still held may be taken over at once."""
        self._ended.set()
        self.join()
        try:
            self._store.end_lease(self._worker)
        except redis.RedisError as error:
            log.warning("the lease could not be given back, it ends in %s: %s", self._lease, error)

    def run(self) -> None:
        """Renew three times a lease until `end`."""
        pause = self._lease.total_seconds() / 3
        while not self._ended.wait(pause):
            try:
                self.renew()
                pause = self._lease.total_seconds() / 3
            except redis.RedisError as error:
                pause = min(0.5, pause)
                log.warning("the lease could not be renewed: %s", error)
