"""NexusQ's client, as a user has it: `nexusq_sdk`. ``python -m benchmarks.nexusq URL REDIS_URL QUEUE``."""

from __future__ import annotations

import sys
import time
from typing import Any

import pandas as pd
import redis

import nexusq_sdk
from benchmarks import job, pouring, talk
from nexusq_sdk import frames
from nexusq_sdk.protocol import ids, redis_layout


class Client:
    """What the parent may ask for."""

    def __init__(self, url: str, redis_url: str, queue: str) -> None:
        self._client = nexusq_sdk.Client(url)
        self._redis_url = redis_url
        self._redis = redis.Redis.from_url(redis_url)  # only for what a user would not do: looking and tidying up
        self._queue = queue
        self._url = url
        self._pourer: pouring.Pourer | None = None
        self._batches: dict[str, int] = {}
        self._batch: nexusq_sdk.Batch | None = None
        self._frame = pd.DataFrame()

    def warm_up(self) -> None:
        """Make the connections."""
        self._client.task_types()

    def prepare(self, count: int) -> None:
        """Make the rows: they are the user's own, and no part of submitting."""
        self._rows = pd.DataFrame(job.rows(count))

    def submit(self, count: int) -> str:
        """Submit the rows as a batch, through HTTP, to acked."""
        return self._submit("BENCH_NOOP", self._rows, count)

    def submit_waits(self, count: int, seconds: float) -> str:
        """Submit tasks that wait."""
        return self._submit("BENCH_WAIT", pd.DataFrame({"seconds": [seconds] * count}), count)

    def submit_burns(self, count: int, units: int) -> str:
        """Submit tasks that keep a CPU busy."""
        return self._submit("BENCH_BURN", pd.DataFrame({"units": [units] * count}), count)

    def _submit(self, task_type: str, rows: pd.DataFrame, count: int) -> str:
        self._batch = self._client.submit_batch(task_type, rows, queue=self._queue)
        self._batches[self._batch.id] = count
        return self._batch.id

    def finished(self) -> int:
        """Give how many tasks of the last batch have ended: one small read."""
        assert self._batch is not None
        seen: Any = self._redis.hget(redis_layout.batch_key(self._batch.id), "COMPLETED")
        return int(seen or 0)

    def ping(self) -> None:
        """Submit one task and wait for its result."""
        self._client.submit("BENCH_NOOP", job.payload(1), queue=self._queue).result(30)

    def wait(self) -> float:
        """Wait for the last batch's end; give for how long that was waited."""
        assert self._batch is not None
        began = time.perf_counter()
        self._batch.wait()
        return time.perf_counter() - began

    def frame(self) -> None:
        """Read the last batch as a frame, by HTTP."""
        assert self._batch is not None
        self._frame = self._batch.frame()

    def frame_from_redis(self) -> None:
        """Read the last batch as a frame, straight from Redis."""
        assert self._batch is not None
        self._frame = frames.from_redis(self._redis_url, batch=self._batch.id)

    def frame_sizes(self) -> dict[str, float]:
        """Give how large the last frame is: a call of its own, since pandas counts its bytes as long as we read."""
        frame, self._frame = self._frame, pd.DataFrame()
        done = int((frame["status"] == "COMPLETED").sum())
        return {"rows": len(frame), "completed": done, "mib": float(frame.memory_usage(deep=True).sum()) / 2**20}

    def clear(self) -> None:
        """Forget what has ended, so that the next measurement finds Redis as this one did."""
        for batch_id, count in self._batches.items():
            for start in range(0, count, 5000):
                names = [ids.task_id(batch_id, index) for index in range(start, min(count, start + 5000))]
                self._redis.unlink(*map(redis_layout.task_key, names))
        self._batches.clear()

    def flood(self, seconds: float) -> float:
        """Submit batches as fast as they end; give how many tasks ended a second."""
        return pouring.flood(self._client, self._queue, seconds)

    def pour(self, rate: float, kept_seconds: float) -> None:
        """Begin to submit batches at a rate."""
        self._pourer = pouring.Pourer(self._url, self._redis_url, self._queue, rate, kept_seconds)
        self._pourer.start()

    def poured(self) -> int:
        """Give how many tasks were submitted so."""
        return self._pourer.poured if self._pourer is not None else 0

    def open(self) -> int:
        """Give how many of them have not ended."""
        return self._pourer.open() if self._pourer is not None else 0

    def stop_pouring(self) -> None:
        """Submit no more, and wait for the last end."""
        if self._pourer is not None:
            self._pourer.end()

    def redis_bytes(self) -> int:
        """Give how much memory Redis uses for its data."""
        seen: Any = self._redis.info("memory")
        return int(seen["used_memory"])


if __name__ == "__main__":
    talk.serve(Client(*sys.argv[1:]))
