"""What runs while it is measured: NexusQ's embedded cluster, a Redis of their own for the others, clients and workers.

Used by one thread. Whatever is started here ends with this process, however that ends.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

import redis as redis_client

import nexusq_sdk
from benchmarks.parts import cluster_parts, own_cpu_seconds
from benchmarks.talk import ROOT, Remote
from nexusq_server.local import redis
from nexusq_server.local.cluster import free_ports
from nexusq_server.local.processes import Child, Children

THREADS = 8
READY_SECONDS = 60.0
STOP_SECONDS = 20.0


class Stage:
    """Everything, from ``with`` on. `processes` is how many CPU-bound tasks NexusQ's workers run at once."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._count = 0

    def __enter__(self) -> Stage:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _start(self) -> None:
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="nexusq-bench-")))
        self.logs = folder / "logs"
        self.children = self._stack.enter_context(Children(self.logs, remove=folder, hold=None))
        self.environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        port, dask_port = free_ports(2)
        self.redis_url = f"redis://127.0.0.1:{port}"
        self.dask = f"tcp://127.0.0.1:{dask_port}"
        self.environment |= {"BENCH_REDIS": self.redis_url, "BENCH_DASK": self.dask}
        # The same server with the same settings as NexusQ's own.
        self.children.start(
            "redis", redis.command(redis.find_redis(), folder / "redis", port), self.environment, folder
        )
        self.cluster = self._stack.enter_context(
            nexusq_sdk.local(workers=1, tasks="benchmarks.tasks", concurrency=THREADS)
        )
        self._wait_redis()

    def _wait_redis(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        with redis_client.Redis.from_url(self.redis_url) as client:
            while True:
                try:
                    client.ping()
                except redis_client.ConnectionError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.05)
                else:
                    return

    @contextlib.contextmanager
    def client(self, module: str, words: Sequence[str]) -> Iterator[Remote]:
        """Start a client."""
        log = self.logs / f"{module}-client.log"
        with Remote(module, words, self.environment, log) as remote:
            remote.ask("warm_up")
            yield remote

    def nexusq_client(self, queue: str) -> contextlib.AbstractContextManager[Remote]:
        """Start a client of NexusQ whose tasks go to a queue."""
        return self.client("benchmarks.nexusq", [self.cluster.url, self.cluster.redis_url, queue])

    @contextlib.contextmanager
    def running(
        self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> Iterator[Child]:
        """Run a worker or a server for a while."""
        self._count += 1
        # The programs of this Python's environment, whether that is activated or not.
        program = Path(sys.executable).parent / command[0]
        words = [str(program) if program.exists() else command[0], *command[1:]]
        child = self.children.start(f"{name}-{self._count}", words, {**self.environment, **(environment or {})}, ROOT)
        try:
            yield child
            if child.process.poll():
                raise child.failure()
        finally:
            child.stop(STOP_SECONDS)
            # What has ended is not to be looked after any more.
            self.children.all.remove(child)

    def nexusq_worker(self, queue: str, concurrency: int = THREADS, *more: str) -> list[str]:
        """Give the command that runs a worker on a queue."""
        return [
            *("python", "-m", "nexusq_server", "worker", "--tasks", "benchmarks.tasks"),
            *("--queues", queue, "--concurrency", str(concurrency), *more),
        ]

    @property
    def nexusq_environment(self) -> dict[str, str]:
        """Where the cluster's parts are, for workers."""
        return {"NEXUSQ_KAFKA": self.cluster.kafka, "NEXUSQ_REDIS": self.cluster.redis_url}

    def standing_by(self, seconds: float = 3.0) -> float:
        """Give how much of a core NexusQ's cluster uses while it has nothing to do, as when others are measured."""
        before = own_cpu_seconds()
        time.sleep(seconds)
        return (own_cpu_seconds() - before) / seconds

    def parts(self) -> dict[str, int]:
        """Give the ids of the cluster's processes by what they are: ``api``, ``kafka``, ``redis``."""
        return cluster_parts(urlsplit(self.cluster.redis_url).port or 0)
