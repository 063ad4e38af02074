"""Says which offsets may be committed: those whose tasks' outcomes are on Redis's disk. A thread of its own.

An offset that is committed before its outcome is durable would lose the task if Redis crashed in between.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, cast

import redis
from kafka import TopicPartition

from nexusq_sdk.protocol.redis_layout import DURABLE
from nexusq_server.settler import Settler

log = logging.getLogger(__name__)

#: How often offsets are looked at. `WAITAOF` waits for Redis's next fsync, which comes once a second.
INTERVAL_SECONDS = 0.25
WAIT_MS = 5000
#: With Redis before 7.2 there is no `WAITAOF`: under ``appendfsync everysec`` data may wait two seconds for the disk.
OLD_REDIS_SECONDS = 2.0


class Durability(threading.Thread):
    """The thread. `durable` is replaced by it alone and read by the worker's loop.

    `restarted` is set when Redis is another process than before: what was decided about records that are not committed
    may be forgotten. The loop clears it.
    """

    def __init__(
        self, client: redis.Redis, committable: Callable[[], dict[TopicPartition, int]], settler: Settler
    ) -> None:
        super().__init__(name="durability", daemon=True)
        self._redis = client
        self._committable = committable
        self._settler = settler
        self._ended = threading.Event()
        self._run_id = ""
        self._wait_aof: bool | None = None  # whether Redis has WAITAOF; None: not known yet
        self._seen: dict[TopicPartition, int] = {}
        self.restarted = threading.Event()
        self.durable: dict[TopicPartition, int] = {}

    def begin(self) -> None:
        """Note which process Redis is, before anything is decided there. Raises `redis.RedisError` when it is away."""
        self._check_run(self._redis.info("server"))

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
        if self.restarted.is_set():
            return  # the offsets' books are from before
        offsets, mark = self._committable(), self._settler.mark()
        if offsets == self._seen and self._run_id and self._settler.sure():
            self._check_run(self._redis.info("server"))
            return
        if self._on_disk():
            self._settler.confirm(mark)
            self._seen = self.durable = offsets

    def _on_disk(self) -> bool:
        """Wait until everything written so far is on Redis's disk; False if that is not known, or Redis is another
        one.
        """
        if self._wait_aof is False and self._ended.wait(OLD_REDIS_SECONDS):
            return False
        # WAITAOF waits for the writes of its own connection. The append-only file is one sequence, so with a write
        # of ours all writes that came before it are on disk as well.
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.set(DURABLE, "", ex=60)
        if self._wait_aof is not False:
            pipeline.waitaof(1, 0, WAIT_MS)
        pipeline.info("server")
        answers = pipeline.execute(raise_on_error=False)
        for answer in answers:
            if isinstance(answer, redis.ResponseError) and self._wait_aof is not False and self._lacks_aof(answer):
                return self._on_disk()
            if isinstance(answer, Exception):
                raise answer
        if not self._check_run(cast(dict[str, Any], answers[-1])):
            return False
        return self._wait_aof is False or cast(list[int], answers[1])[0] >= 1

    def _lacks_aof(self, error: redis.ResponseError) -> bool:
        if "appendonly" in str(error):
            log.warning(
                "Redis keeps no append-only file: outcomes are lost if it crashes. Set appendonly yes; %s", error
            )
        elif "unknown command" in str(error):
            log.info("this Redis has no WAITAOF (it came with 7.2): offsets are committed two seconds behind")
        else:
            return False
        self._wait_aof = False
        return True

    def _check_run(self, info: Any) -> bool:
        """Whether Redis is the process that it was; if not, let everything be written and read again."""
        before, self._run_id = self._run_id, str(info["run_id"])
        if before == self._run_id:
            return True
        if before:
            log.warning("Redis was restarted: outcomes that may not have reached its disk are written again")
        elif not self._committable() and self._settler.sure():
            return True  # the first look, and nothing was decided before it: maybe by another Redis
        self._settler.write_again()
        self.restarted.set()
        return False
