"""Dask: a scheduler, a worker of 8 threads; no Redis. Results stay in the worker's memory, as long as they are held."""

from __future__ import annotations

import os
from typing import Any

from distributed import Client as DaskClient
from distributed import Future

from benchmarks import job

SCHEDULER = os.environ.get("BENCH_DASK", "tcp://127.0.0.1:8786")


def noop(payload: dict[str, Any]) -> dict[str, Any]:
    """Do nothing."""
    return job.noop(**payload)


def _states(*states: str, dask_scheduler: Any) -> int:
    counts = [prefix.state_counts for name, prefix in dask_scheduler.task_prefixes.items() if name == "noop"]
    return sum(sum(count.values()) if not states else sum(count[state] for state in states) for count in counts)


class Client:
    """https://distributed.dask.org/en/stable/efficiency.html: many calls by `map`; not ``pure``: all are run."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._futures: list[Future] = []

    def warm_up(self) -> None:
        """Make the connections."""
        self._client = DaskClient(SCHEDULER)

    def prepare(self, count: int) -> None:
        """Make the rows."""
        self._rows = [job.payload(index) for index in range(count)]

    def submit(self, count: int) -> None:
        """Send them all, until the scheduler has them."""
        self._futures = self._client.map(noop, self._rows[:count], pure=False)
        while self._client.run_on_scheduler(_states) < count:
            pass

    def finished(self) -> int:
        """Give how many results the worker holds."""
        return int(self._client.run_on_scheduler(_states, "memory"))

    def ping(self) -> None:
        """Send one and wait for its result."""
        self._client.submit(noop, job.payload(1), pure=False).result(timeout=30)

    def clear(self) -> None:
        """Forget everything."""
        self._futures = []
        self._client.restart()
