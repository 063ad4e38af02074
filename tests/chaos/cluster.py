"""A cluster of real processes, each of which can be killed, frozen and started again on the same data and ports.

Used by the thread that runs the faults; the memory and the disk are watched by a thread each.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import httpx
import psutil
import redis as redis_client

from nexusq_server.local import kafka, redis
from nexusq_server.local.cluster import free_ports
from nexusq_server.local.processes import Child, Children
from nexusq_server.topics import START_TIMEOUT
from tests.chaos.facts import Memory
from tests.chaos.ledger import LEDGER, PART

ROOT = Path(__file__).parent.parent.parent
API_NAMES = ("api-1", "api-2")
WORKER_NAMES = ("worker-1", "worker-2", "worker-3")
READY_SECONDS = 90.0
#: A frozen worker sleeps beyond this. Parking and the grace of a stop are shortened: both happen in a short run.
LEASE_SECONDS = 10.0
SETTINGS = {
    "NEXUSQ_LEASE": f"{LEASE_SECONDS:g}s",
    "NEXUSQ_PARK_AFTER": "5s",
    "NEXUSQ_GRACE": "5s",
    "NEXUSQ_CONCURRENCY": "8",
    "NEXUSQ_PROCESSES": "2",
    "NEXUSQ_PARTITIONS": "4",
    # A task of a quarter of a minute loses its worker more often than ten times where one dies every few seconds.
    "NEXUSQ_MAX_DELIVERIES": "1000",
}
#: How often a process's memory is looked at.
LOOK_SECONDS = 1.0


class Part:
    """One part: the process that is it now, and how often it was started."""

    def __init__(
        self, name: str, command: list[str], environment: Mapping[str, str], children: Children, folder: Path = ROOT
    ) -> None:
        self.name = name
        self.incarnation = 0
        self.child: Child | None = None
        self.told_to_end = False
        self.began = 0.0
        self._command = command
        self._environment = environment
        self._children = children
        self._folder = folder

    @property
    def label(self) -> str:
        """What this incarnation calls itself in the ledger."""
        return f"{self.name}.{self.incarnation}"

    def start(self) -> None:
        """Start it (again). One that was told to end may still be about it: the new one does not wait for it."""
        self.incarnation += 1
        self.told_to_end = False
        self.began = time.monotonic()
        environment = {**self._environment, PART: self.label}
        self.child = self._children.start(self.name, self._command, environment, self._folder)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal. Whoever dies of it was told to."""
        if number in {signal.SIGKILL, signal.SIGTERM}:
            self.told_to_end = True
        if self.child is not None and not self.child.ended():
            self.child.process.send_signal(number)

    def kill(self) -> None:
        """Kill it and see it gone."""
        self.signal(signal.SIGKILL)
        if self.child is not None:
            self.child.process.wait(30)

    def kill_with_keeper(self) -> None:
        """Kill first whoever keeps its lease, then it: nobody is left who could say that it died."""
        assert self.child is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self.child.process.pid).children():
                if "nexusq_server.lease_keeper" in process.cmdline():
                    process.kill()
        self.kill()

    def ended(self) -> bool:
        """Whether it does not run."""
        return self.child is None or self.child.ended()


class ChaosCluster:
    """The whole cluster, from ``with`` on. `worker` is the command that runs a worker."""

    def __init__(self, folder: Path, worker: list[str]) -> None:
        self.folder = folder
        self.ledger = folder / "ledger.jsonl"
        self.parts: dict[str, Part] = {}
        self.memory: list[Memory] = []
        self.ended_alone: list[str] = []
        self._worker = worker
        self._ended = threading.Event()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> ChaosCluster:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        java, jars, server = kafka.find_java(), kafka.find_jars(), redis.find_redis()
        self._children = self._stack.enter_context(Children(self.folder / "logs", remove=None, hold=None))
        redis_port, kafka_port, controller_port, *api_ports = free_ports(5)
        self.redis_url = f"redis://127.0.0.1:{redis_port}/0"
        self.kafka = f"127.0.0.1:{kafka_port}"
        self._ports = {"kafka": kafka_port, "redis": redis_port}
        self.urls = {name: f"http://127.0.0.1:{port}" for name, port in zip(API_NAMES, api_ports, strict=True)}
        common = {
            **{name: value for name, value in os.environ.items() if not name.startswith("NEXUSQ_")},
            **SETTINGS,
            "NEXUSQ_KAFKA": self.kafka,
            "NEXUSQ_REDIS": self.redis_url,
            "NEXUSQ_TASKS": "tests.chaos.handlers",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "server")]),
            LEDGER: str(self.ledger),
        }
        python = [sys.executable, "-m"]
        self._add("redis", redis.command(server, self.folder / "redis", redis_port), common)
        command = kafka.prepare(self.folder / "kafka", kafka_port, controller_port, java, jars)
        self._add("kafka", command, common, self.folder / "kafka")
        for name, port in zip(API_NAMES, api_ports, strict=True):
            self._add(name, [*python, "nexusq_server", "api", "--port", str(port)], common)
        for name in WORKER_NAMES:
            self._add(name, self._worker, common)
        self.disk = Disk(self.folder / "redis", self.redis_url, self._ended)
        self.disk.start()
        self._watcher = threading.Thread(target=self._watch_memory, name="memory", daemon=True)
        self._watcher.start()
        self.wait_ready()

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        for part in self.parts.values():
            part.signal(signal.SIGCONT)
            part.signal(signal.SIGKILL)
        self._stack.close()

    def start(self, name: str) -> None:
        """Start a part that was killed or told to end. Two cannot listen on one port: only workers need not wait."""
        part = self.parts[name]
        if name not in WORKER_NAMES and part.child is not None:
            part.child.stop(30)
        part.start()

    def look(self) -> None:
        """Note the parts that do not run although nobody told them to end, with the end of their logs; start them."""
        for part in self.parts.values():
            if part.ended() and not part.told_to_end and part.child is not None:
                # Whoever starts waits for Kafka and Redis for half a minute, then leaves it to its supervisor.
                lived, kafka_lived = (time.monotonic() - began for began in (part.began, self.parts["kafka"].began))
                if lived < START_TIMEOUT.total_seconds() or kafka_lived > lived:
                    self.ended_alone.append(f"{part.label}: {part.child.failure()}")
                part.start()

    def wait_until_listening(self, name: str) -> float:
        """Wait until Kafka or Redis listens (again); give how many seconds that took. It is not hit while it starts."""
        began = time.monotonic()
        while time.monotonic() - began < READY_SECONDS:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._ports[name]), 1):
                break
            time.sleep(0.1)
        return time.monotonic() - began

    def calm(self) -> None:
        """Wake whoever is frozen, start whoever is down, and wait until all of it works again."""
        for part in self.parts.values():
            if part.child is not None:
                part.signal(signal.SIGCONT)
            if part.told_to_end:
                self.start(part.name)
        self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until both APIs say that they are ready and all workers have registered."""
        deadline = time.monotonic() + READY_SECONDS
        said = "nothing yet"
        while time.monotonic() < deadline:
            self.look()
            try:
                for url in self.urls.values():
                    said = httpx.get(f"{url}/readyz", timeout=5, trust_env=False).raise_for_status().text
                workers = httpx.get(f"{url}/workers", timeout=5, trust_env=False).raise_for_status().json()["workers"]
                present = {entry["worker"].rsplit("-", 2)[1] for entry in workers}
                wanted = {str(part.child.process.pid) for part in self._workers() if part.child is not None}
                if len(wanted) == len(WORKER_NAMES) and wanted <= present:
                    return
                said = f"of the workers {wanted} only {present} have registered"
            except httpx.HTTPError as error:
                said = str(error)
            time.sleep(0.2)
        raise TimeoutError(f"expected the cluster to be ready within {READY_SECONDS:g} s: {said}; logs: {self.folder}")

    def _workers(self) -> list[Part]:
        return [self.parts[name] for name in WORKER_NAMES]

    def _add(self, name: str, command: list[str], environment: Mapping[str, str], folder: Path = ROOT) -> None:
        self.parts[name] = Part(name, command, environment, self._children, folder)
        self.parts[name].start()

    def _watch_memory(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            for part in self.parts.values():
                label, began, child = part.label, part.began, part.child
                if child is not None and not child.ended():
                    with contextlib.suppress(psutil.Error):
                        resident = psutil.Process(child.process.pid).memory_info().rss / 2**20
                        self.memory.append(Memory(label, time.monotonic() - began, resident))


class Disk(threading.Thread):
    """Knows how much of Redis's append-only file is surely on its disk, so that a crash of the machine can be played.

    Killing Redis alone loses nothing that it has written: the system still holds it. A machine that loses power loses
    all that no fsync has covered. `WAITAOF` returns with each fsync, once a second; the file's size right after that is
    no less than what anybody was told to be on disk, and what comes later may be lost.
    """

    def __init__(self, folder: Path, url: str, ended: threading.Event) -> None:
        super().__init__(name="disk", daemon=True)
        self._folder = folder / "appendonlydir"
        self._client = redis_client.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=1)
        self._ended = ended
        self._proven: tuple[Path, int, float] | None = None

    def run(self) -> None:
        """Look until the cluster ends."""
        while not self._ended.is_set():
            try:
                # One round trip: no fsync that others were told of may fall in between.
                pipeline = self._client.pipeline(transaction=False)
                pipeline.set("chaos:disk", "", ex=60)
                pipeline.waitaof(1, 0, 3000)
                if pipeline.execute()[1][0] >= 1:
                    file = max(self._folder.glob("*.incr.aof"), key=lambda path: path.stat().st_mtime)
                    self._proven = file, file.stat().st_size, time.time()
            except (OSError, ValueError, redis_client.RedisError):
                self._ended.wait(0.1)  # it is down, or has just been cut off

    def lose(self) -> float | None:
        """Cut off what may not have been on disk, while Redis is down. Give since when writes are lost."""
        proven, self._proven = self._proven, None
        if proven is None or not proven[0].exists():
            return None
        file, size, at = proven
        if file.stat().st_size > size:
            os.truncate(file, size)
        return at
