"""Says which offsets may be committed: those whose tasks' outcomes are on Redis's disk. A thread of its own.

An offset that is committed before its outcome is durable would lose the task if Redis crashed in between.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import cast

import redis
from kafka import TopicPartition

from nexusq_sdk.protocol.redis_layout import DURABLE

log = logging.getLogger(__name__)

#: How often offsets are looked at. `WAITAOF` waits for Redis's next fsync, which comes once a second.
INTERVAL_SECONDS = 0.25
WAIT_MS = 5000
#: With Redis before 7.2 there is no `WAITAOF`: under ``appendfsync everysec`` data may wait two seconds for the disk.
OLD_REDIS_SECONDS = 2.0


class Durability(threading.Thread):
    """The thread. `durable` is replaced by it alone and read by the worker's loop."""

    def __init__(self, client: redis.Redis, committable: Callable[[], dict[TopicPartition, int]]) -> None:
        super().__init__(name="durability", daemon=True)
        self._redis = client
        self._committable = committable
        self._ended = threading.Event()
        self._wait: Callable[[], bool] = self._wait_aof
        self.durable: dict[TopicPartition, int] = {}

    def end(self) -> None:
        """Stop looking."""
        self._ended.set()
        self.join()

    def run(self) -> None:
        """Look until `end`."""
        while not self._ended.wait(INTERVAL_SECONDS):
            try:
                self.refresh()
            except redis.RedisError as error:
                log.warning("nothing is committed while Redis can't say what is on its disk: %s", error)

    def refresh(self) -> None:
        """Take the offsets whose tasks are settled, wait until that is on disk, and offer them for commit."""
        offsets = self._committable()
        if offsets != self.durable and self._wait():
            self.durable = offsets

    def _wait_aof(self) -> bool:
        # WAITAOF waits for the writes of its own connection. The append-only file is one sequence, so with a write
        # of ours all writes that came before it are on disk as well.
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.set(DURABLE, "", ex=60)
        pipeline.waitaof(1, 0, WAIT_MS)
        try:
            _, answer = pipeline.execute()
        except redis.ResponseError as error:
            if "appendonly" in str(error):
                log.warning(
                    "Redis keeps no append-only file: outcomes are lost if it crashes. Set appendonly yes; %s",
                    error,
                )
                self._wait = lambda: True
            elif "unknown command" in str(error):
                log.info("this Redis has no WAITAOF (it came with 7.2): offsets are committed two seconds behind")
                self._wait = self._wait_two_seconds
            else:
                raise
            return self._wait()
        return cast(list[int], answer)[0] >= 1

    def _wait_two_seconds(self) -> bool:
        return not self._ended.wait(OLD_REDIS_SECONDS)
