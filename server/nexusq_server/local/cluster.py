"""Puts the embedded cluster together: starts everything as early as it can, says when it is ready, stops it in order.

Used by one thread. The API and the workers are the same commands as anywhere else, told by environment variables.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import httpx

from nexusq_server.local import kafka, redis
from nexusq_server.local.errors import LocalError
from nexusq_server.local.processes import Child, Children

#: How long everything may take to start once all is downloaded; a slow machine takes a fraction of it.
START_SECONDS = 60


@dataclass(frozen=True)
class Plan:
    """What is asked of a cluster. ``port`` 0: a free one. ``data`` None: a temporary folder."""

    port: int = 8000
    workers: int = 2
    tasks: tuple[str, ...] = ()
    concurrency: int | None = None
    data: Path | None = None


class Cluster:
    """A running cluster, from ``with`` on."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._stack = contextlib.ExitStack()
        self._workers: list[Child] = []
        self._api: Child | None = None
        self._mail: Child | None = None
        self._redis: Child | None = None
        self._kafka: Child | None = None

    def __enter__(self) -> Cluster:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def check(self) -> None:
        """Raise `LocalError` if a part has ended by itself."""
        self.children.check()

    def _start(self) -> None:
        plan = self._plan
        # What may be missing is looked for first: nothing is started that would be stopped again.
        java, jars, redis_server = kafka.find_java(), kafka.find_jars(), redis.find_redis()
        port = plan.port or free_port()
        require_free(port)
        self.url = f"http://127.0.0.1:{port}"

        temporary = None if plan.data else Path(tempfile.mkdtemp(prefix="nexusq-"))
        self.data = (plan.data or temporary or Path()).resolve()
        self.logs = self.data / "logs"
        self.mail_file = self.data / "mails.jsonl"
        self.children = self._stack.enter_context(Children(self.logs, remove=temporary))

        redis_port, kafka_port, controller_port, mail_port = (free_port() for _ in range(4))
        self.redis_url = f"redis://127.0.0.1:{redis_port}/0"
        self.kafka = f"127.0.0.1:{kafka_port}"
        environment = os.environ | {
            "NEXUSQ_KAFKA": self.kafka,
            "NEXUSQ_REDIS": self.redis_url,
            "NEXUSQ_HOST": "127.0.0.1",
            "NEXUSQ_PORT": str(port),
            "NEXUSQ_SMTP_HOST": "127.0.0.1",
            "NEXUSQ_SMTP_PORT": str(mail_port),
            "NEXUSQ_SMTP_STARTTLS": "false",
            "NEXUSQ_TASKS": ",".join(plan.tasks),
            # Modules of handlers are found where the user stands, as with `python -m`.
            "PYTHONPATH": os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")])),
        }
        if plan.concurrency is not None:
            environment["NEXUSQ_CONCURRENCY"] = str(plan.concurrency)

        here = Path.cwd()
        python = [sys.executable, "-m"]
        command = redis.command(redis_server, self.data / "redis", redis_port)
        self._redis = self.children.start("redis", command, environment, self.data)
        # The Python processes load their modules while Kafka formats and starts: they wait for it by themselves.
        mail = [*python, "nexusq_server.local.mail", "--port", str(mail_port), "--file", str(self.mail_file)]
        self._mail = self.children.start("mail", mail, environment, here)
        command = kafka.prepare(self.data / "kafka", kafka_port, controller_port, java, jars)
        self._kafka = self.children.start("kafka", command, environment, self.data)
        self._api = self.children.start("api", [*python, "nexusq_server", "api"], environment, here)
        self._workers = [
            self.children.start(f"worker-{number}", [*python, "nexusq_server", "worker"], environment, here)
            for number in range(1, plan.workers + 1)
        ]
        self._wait_ready()

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        said = "nothing"
        with httpx.Client(base_url=self.url, timeout=5, trust_env=False) as client:
            while True:
                self.check()
                try:
                    ready = client.get("/readyz")
                    if ready.status_code == httpx.codes.OK:
                        workers = len(client.get("/workers").json()["workers"])
                        if workers >= self._plan.workers:
                            return
                        said = f"{workers} of {self._plan.workers} workers are there"
                    else:
                        said = ready.text
                except httpx.TransportError as error:
                    said = f"the API does not answer: {error}"
                if time.monotonic() > deadline:
                    raise LocalError(
                        f"the cluster was not ready after {START_SECONDS} s: {said}\nThe logs are in {self.logs}"
                    )
                time.sleep(0.05)

    def _stop(self) -> None:
        # Those that write stop before those that keep. All workers at once: each finishes what it runs.
        for worker in self._workers:
            if not worker.ended():
                worker.process.terminate()
        for child, seconds in [*((worker, 35.0) for worker in self._workers), (self._api, 10.0), (self._mail, 5.0)]:
            if child is not None:
                child.stop(seconds)
        keepers = [child for child in (self._kafka, self._redis) if child is not None]
        if self._plan.data is None:
            # Nothing of theirs is kept.
            for child in keepers:
                child.process.kill()
        for child in keepers:
            child.stop(20)
        self._stack.close()


def free_port() -> int:
    """Give a port of loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def require_free(port: int) -> None:
    """Raise `LocalError` if somebody listens on `port`."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise LocalError(
                f"expected port {port} to be free, but something listens there already ({error.strerror}); "
                f"is another `nexusq up` running? Give another one by --port, or --port 0 for any free one"
            ) from error
