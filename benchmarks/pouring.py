"""Batches that come again and again: as fast as they end, or at a rate. Part of NexusQ's client in a soak."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any

import pandas as pd
import redis

import nexusq_sdk
from benchmarks import job
from nexusq_sdk.protocol import redis_layout

FLOOD_ROWS, FLOOD_OPEN = 2000, 8
POURS_A_SECOND = 10


def flood(client: nexusq_sdk.Client, queue: str, seconds: float) -> float:
    """Submit batches, a few open at a time, for so long; give how many tasks ended a second."""
    rows = pd.DataFrame(job.rows(FLOOD_ROWS))
    waiting: deque[nexusq_sdk.Batch] = deque()
    began, count = time.perf_counter(), 0
    while time.perf_counter() < began + seconds:
        if len(waiting) >= FLOOD_OPEN:
            waiting.popleft().wait()
        waiting.append(client.submit_batch("BENCH_NOOP", rows, queue=queue, result_ttl=60))
        count += FLOOD_ROWS
    for batch in waiting:
        batch.wait()
    return count / (time.perf_counter() - began)


class Pourer(threading.Thread):
    """Submits batches at a rate until `end`, by a client of its own. `poured` is written by this thread alone."""

    def __init__(self, url: str, redis_url: str, queue: str, rate: float, kept_seconds: float) -> None:
        super().__init__(daemon=True)
        self._client = nexusq_sdk.Client(url)
        self._redis = redis.Redis.from_url(redis_url)
        self._queue = queue
        self._size = max(1, round(rate / POURS_A_SECOND))
        self._kept = kept_seconds
        self._ended = threading.Event()
        self._batches: deque[str] = deque()
        self.poured = 0

    def run(self) -> None:
        """Submit, at the times that the rate says."""
        rows = pd.DataFrame(job.rows(self._size))
        due = time.monotonic()
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            batch = self._client.submit_batch("BENCH_NOOP", rows, queue=self._queue, result_ttl=self._kept)
            self._batches.append(batch.id)
            self.poured += self._size
            due += 1 / POURS_A_SECOND

    def open(self) -> int:
        """Give how many tasks have not ended."""
        while self._batches and self._ended_of(self._batches[0]) >= self._size:
            self._batches.popleft()
        return sum(self._size - self._ended_of(name) for name in list(self._batches))

    def end(self) -> None:
        """Stop, and see that what was submitted ends."""
        self._ended.set()
        self.join()
        deadline = time.monotonic() + 60
        while self.open():
            if time.monotonic() > deadline:
                raise RuntimeError(f"a minute after the last batch {self.open()} tasks have not ended")
            time.sleep(0.1)

    def _ended_of(self, batch_id: str) -> int:
        seen: Any = self._redis.hget(redis_layout.batch_key(batch_id), "COMPLETED")
        return int(seen or 0)
