"""Puts the embedded cluster together: starts everything as early as it can, says when it is ready, stops it in order.

Used by one thread. The API and the workers are the same commands as anywhere else, told by environment variables.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
import secrets
import socket
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

import httpx

from nexusq_sdk.protocol import blobs, keys
from nexusq_server.local import kafka, redis
from nexusq_server.local.errors import LocalError
from nexusq_server.local.processes import Child, Children

#: How long everything may take to start once all is downloaded; a slow machine takes a fraction of it.
START_SECONDS = 60
#: How long after another cluster's end its folder may still be in use.
FOLDER_SECONDS = 4
#: The ports to choose from. Not those that the kernel gives to outgoing connections: one of these could take the port,
#: or even reach itself, before the server that it is meant for listens.
PORTS = range(20_000, 32_000)
#: A part that dies younger than this is started again later and later.
SHORT_LIFE, LONGEST_PAUSE = 10.0, 30.0


@dataclass(frozen=True)
class Plan:
    """What is asked of a cluster. ``port`` 0: a free one. ``data`` None: a temporary folder."""

    port: int = 8000
    workers: int = 2
    tasks: tuple[str, ...] = ()
    concurrency: int | None = None
    data: Path | None = None
    grace: float = 30.0
    signing_key: str = ""


class Cluster:
    """A running cluster, from ``with`` on."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._stack = contextlib.ExitStack()
        self._children: Children | None = None
        self._short_lives: dict[str, int] = {}
        self._workers: list[Child] = []
        self._api: Child | None = None
        self._mail: Child | None = None
        self._redis: Child | None = None
        self._kafka: Child | None = None

    def __enter__(self) -> Cluster:
        try:
            self._start()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # An error names the logs: they are to be found where it says.
        if self._children is not None and isinstance(error, LocalError):
            self._children.keep_logs()
        try:
            self._stop()
        finally:
            self._stack.close()

    def tend(self) -> list[str]:
        """Start API and workers again that ended by themselves, and say so.

        A handler that crashes takes its worker with it, but not the cluster.

        Raises
        ------
        LocalError
            If Kafka, Redis or the mail sink has ended.
        """
        said = []
        for child in self._children.all if self._children is not None else ():
            if not child.ended():
                continue
            if child not in self._workers and child is not self._api:
                raise child.failure()
            lived = time.monotonic() - child.started
            short = self._short_lives.get(child.name, 0) if lived < SHORT_LIFE else 0
            if lived < min(2.0**short, LONGEST_PAUSE):
                continue
            said.append(f"{child.name} ended with {child.end()} and is started again; its log: {child.log}")
            self._short_lives[child.name] = short + 1
            child.start()
        return said

    def _start(self) -> None:
        plan = self._plan
        # What may be missing is looked for first: nothing is started that would be stopped again.
        java, jars, redis_server = kafka.find_java(), kafka.find_jars(), redis.find_redis()
        if plan.port:
            require_free(plan.port)
        free_port, redis_port, kafka_port, controller_port, mail_port = free_ports(5)
        port = plan.port or free_port
        self.url = f"http://127.0.0.1:{port}"
        children = self._children = self._stack.enter_context(self._make_folders())
        key = plan.signing_key or self._make_key()
        self._leave_key(port, key)
        self.mail_file = self.data / "mails.jsonl"
        self.redis_url = f"redis://127.0.0.1:{redis_port}/0"
        self.kafka = f"127.0.0.1:{kafka_port}"
        environment = os.environ | {
            "NEXUSQ_KAFKA": self.kafka,
            "NEXUSQ_KAFKA_SECURITY": "PLAINTEXT",
            **dict.fromkeys(("NEXUSQ_KAFKA_USER", "NEXUSQ_KAFKA_PASSWORD", "NEXUSQ_KAFKA_CA"), ""),
            **dict.fromkeys(("NEXUSQ_KAFKA_CERT", "NEXUSQ_KAFKA_KEY"), ""),
            "NEXUSQ_REDIS": self.redis_url,
            "NEXUSQ_HOST": "127.0.0.1",
            "NEXUSQ_PORT": str(port),
            "NEXUSQ_SMTP_HOST": "127.0.0.1",
            "NEXUSQ_SMTP_PORT": str(mail_port),
            "NEXUSQ_SMTP_STARTTLS": "false",
            "NEXUSQ_SMTP_USER": "",
            "NEXUSQ_REPLICATION": "1",
            "NEXUSQ_SIGNING_KEY": key,
            "NEXUSQ_TASKS": ",".join(plan.tasks),
            # Modules of handlers are found where the user stands, as with `python -m`.
            "PYTHONPATH": os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")])),
        }
        if plan.concurrency is not None:
            environment["NEXUSQ_CONCURRENCY"] = str(plan.concurrency)

        here = Path.cwd()
        python = [sys.executable, "-m"]
        command = redis.command(redis_server, self.data / "redis", redis_port)
        self._redis = children.start("redis", command, environment, self.data)
        # The Python processes load their modules while Kafka formats and starts: they wait for it by themselves.
        mail = [*python, "nexusq_server.local.mail", "--port", str(mail_port), "--file", str(self.mail_file)]
        self._mail = children.start("mail", mail, environment, here)
        command = kafka.prepare(self.data / "kafka", kafka_port, controller_port, java, jars)
        self._kafka = children.start("kafka", command, environment, self.data / "kafka")
        self._api = children.start("api", [*python, "nexusq_server", "api"], environment, here)
        self._workers = [
            children.start(f"worker-{number}", [*python, "nexusq_server", "worker"], environment, here)
            for number in range(1, plan.workers + 1)
        ]
        self._wait_ready(children)

    def _make_folders(self) -> Children:
        """Make the folders, and the watchdog that removes the temporary ones."""
        keep = self._plan.data
        if keep is None:
            self.data = Path(tempfile.mkdtemp(prefix="nexusq-")).resolve()
            # Beside it, not in it: a failure's logs outlive the rest.
            self.logs = Path(tempfile.mkdtemp(prefix="nexusq-logs-")).resolve()
            return Children(self.logs, remove=self.data, hold=None)
        self.data = keep.resolve()
        self.logs = self.data / "logs"
        try:
            self.data.mkdir(parents=True, exist_ok=True)
            with (self.data / "lock").open("w") as hold:
                _take(hold, self.data)
                return Children(self.logs, remove=None, hold=hold)
        except OSError as error:
            raise LocalError(f"expected --data to be a folder that can be written, got {keep}: {error}") from error

    def _make_key(self) -> str:
        """Make the key that signs functions; where the data is kept, so is the key: what it signed is there still."""
        kept = self.data / "signing-key"
        if self._plan.data is None:
            return secrets.token_hex(blobs.KEY_BYTES)
        if not kept.exists():
            with os.fdopen(os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secrets.token_hex(blobs.KEY_BYTES))
        return kept.read_text().strip()

    def _leave_key(self, port: int, key: str) -> None:
        """Leave the key where this user's clients on this machine find it."""
        try:
            file = keys.leave_key("127.0.0.1", port, key)
        except OSError as error:
            raise LocalError(
                f"expected the cache to be a folder that can be written, for the key that signs functions: {error}. "
                f"Name another by NEXUSQ_CACHE"
            ) from error
        self._stack.callback(file.unlink, missing_ok=True)

    def _wait_ready(self, children: Children) -> None:
        deadline = time.monotonic() + START_SECONDS
        said = "nothing"
        with httpx.Client(base_url=self.url, timeout=5, trust_env=False) as client:
            while True:
                children.check()
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
        grace = self._plan.grace + 15
        for child, seconds in [*((worker, grace) for worker in self._workers), (self._api, 15), (self._mail, 5)]:
            if child is not None:
                child.stop(seconds)
        keepers = [child for child in (self._kafka, self._redis) if child is not None]
        if self._plan.data is None:
            # Nothing of theirs is kept.
            for child in keepers:
                child.process.kill()
        for child in keepers:
            child.stop(20)


def _take(hold: IO[str], folder: Path) -> None:
    """Lock the open file, which the watchdog then holds: two Redis on the same files would ruin them."""
    deadline = time.monotonic() + FOLDER_SECONDS
    while True:
        try:
            return fcntl.flock(hold, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise LocalError(
                    f"expected --data to be a folder that no running cluster uses, got {folder}: "
                    f"another `nexusq up` has it"
                ) from None
        time.sleep(0.1)


def free_ports(count: int) -> list[int]:
    """Give ports of loopback that nobody uses now."""
    found: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        with contextlib.suppress(LocalError):
            require_free(port)
            found.append(port)
            if len(found) == count:
                return found
    raise LocalError(f"expected {count} free ports between {PORTS.start} and {PORTS.stop} on 127.0.0.1, found fewer")


def require_free(port: int) -> None:
    """Raise `LocalError` if somebody listens on `port`."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise LocalError(
                    f"expected --port to be one that may be used here, got {port}: {error.strerror}"
                ) from error
            raise LocalError(
                f"expected port {port} to be free, but something listens there already; "
                f"is another `nexusq up` running? Give another one by --port, or --port 0 for any free one"
            ) from error
