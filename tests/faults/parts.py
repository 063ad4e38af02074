"""What the tests of faults are made of: workers that say what they run, and a cluster that can be broken."""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import httpx
import psutil
import redis
from kafka import KafkaConsumer, TopicPartition

import nexusq_sdk
from nexusq_server.local import kafka as local_kafka
from nexusq_server.local import redis as local_redis
from nexusq_server.local.cluster import free_ports
from nexusq_server.local.processes import Child, Children
from nexusq_server.settings import load_settings
from nexusq_server.topics import ensure_topics, group, topic
from tests.conftest import ROOT, Addresses, eventually

TASKS = "tests.faults.handlers"
#: A worker's lease in most of these tests: a dead one is known sooner.
SHORT = {"NEXUSQ_LEASE": "3s"}


class Run(NamedTuple):
    """One line of a ledger: which task, `start` or `end`, in which process, as which attempt."""

    line: str
    what: str
    pid: int
    attempt: int


class Ledger:
    """What the handlers have written: the truth about what ran, whatever was killed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def runs(self) -> list[Run]:
        """Give all lines, in their order."""
        rows = [row.split() for row in self.path.read_text().splitlines()]
        return [Run(line, what, int(pid), int(attempt)) for line, what, pid, attempt in rows]

    def count(self, what: str = "start", pid: int | None = None) -> collections.Counter[str]:
        """Give how often each task has started (or ended), in all or in one process."""
        return collections.Counter(run.line for run in self.runs() if run.what == what and pid in {None, run.pid})

    def has(self, count: int, what: str = "start", pid: int | None = None) -> None:
        """Assert that so many tasks have started (or ended)."""
        assert self.count(what, pid).total() >= count, self.path.read_text()

    def rows(self, count: int, seconds: float = 0.0) -> list[dict[str, object]]:
        """Make the payloads of a batch of `TRACE`."""
        return [{"path": str(self.path), "line": str(index), "seconds": seconds} for index in range(count)]


class Hand:
    """A worker process, its log and what can be done to it."""

    def __init__(self, cluster: Addresses, queue: str, log: Path, environment: dict[str, str]) -> None:
        self.log = log
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "nexusq_server", "worker", "--queues", queue, "--tasks", TASKS],
                cwd=ROOT,
                env=os.environ
                | {"NEXUSQ_REDIS": cluster.redis_url, "NEXUSQ_KAFKA": cluster.kafka, "PYTHONPATH": str(ROOT)}
                | environment,
                stderr=output,
            )
        self.pid = self.process.pid
        self.id = ""

    def send(self, number: signal.Signals) -> None:
        """Send a signal, and wait for nothing."""
        self.process.send_signal(number)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal and wait for the end; give the exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)

    def keeper(self) -> psutil.Process:
        """Give the process that renews its lease."""
        for child in psutil.Process(self.pid).children():
            with contextlib.suppress(psutil.Error):
                if any("lease_keeper" in word for word in child.cmdline()):
                    return child
        raise AssertionError(f"worker {self.pid} has no keeper now")


class Crew:
    """The workers of a test."""

    def __init__(self, cluster: Addresses, folder: Path) -> None:
        self._cluster = cluster
        self._folder = folder
        self._hands: list[Hand] = []

    def start(self, queue: str, *, count: int = 1, registered: bool = True, **environment: str) -> list[Hand]:
        """Start workers at once, give them when they have registered (and have been given their partitions)."""
        hands = [
            Hand(self._cluster, queue, self._folder / f"hand-{len(self._hands) + number}.log", environment)
            for number in range(count)
        ]
        self._hands += hands
        if registered:
            for hand in hands:
                eventually(lambda hand=hand: self._registered(hand), 60)  # type: ignore[misc]
        return hands

    def close(self) -> None:
        """Kill those that are left."""
        for hand in self._hands:
            if hand.process.poll() is None:
                with contextlib.suppress(psutil.NoSuchProcess):
                    for child in psutil.Process(hand.pid).children():
                        child.kill()
                hand.kill()

    def _registered(self, hand: Hand) -> None:
        assert hand.process.poll() is None, hand.log.read_text()
        try:
            workers = httpx.get(f"{self._cluster.url}/workers", timeout=20, trust_env=False).json()["workers"]
        except httpx.HTTPError as error:
            raise AssertionError(str(error)) from error
        found = [entry["worker"] for entry in workers if f"-{hand.pid}-" in entry["worker"]]
        assert found, hand.log.read_text()
        hand.id = found[0]
        assert "partitions more" in hand.log.read_text(), hand.log.read_text()


class Breakable:
    """A cluster whose Kafka, Redis and API can be killed and started again on the same data and ports."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Breakable:
        java, jars, server = local_kafka.find_java(), local_kafka.find_jars(), local_redis.find_redis()
        folder = Path(tempfile.mkdtemp(prefix="nexusq-faults-"))
        logs = Path(tempfile.mkdtemp(prefix="nexusq-faults-logs-"))
        children = self._stack.enter_context(Children(logs, remove=folder, hold=None))
        redis_port, kafka_port, controller_port, api_port = free_ports(4)
        self.addresses = Addresses(
            f"http://127.0.0.1:{api_port}", f"redis://127.0.0.1:{redis_port}/0", f"127.0.0.1:{kafka_port}"
        )
        environment = os.environ | {
            "NEXUSQ_KAFKA": self.addresses.kafka,
            "NEXUSQ_REDIS": self.addresses.redis_url,
            "NEXUSQ_PORT": str(api_port),
            "NEXUSQ_SUBMIT_TIMEOUT": "2s",
            "NEXUSQ_LEASE": "3s",
            "PYTHONPATH": str(ROOT),
        }
        self.redis = children.start(
            "redis", local_redis.command(server, folder / "redis", redis_port), environment, folder
        )
        command = local_kafka.prepare(folder / "kafka", kafka_port, controller_port, java, jars)
        self.kafka = children.start("kafka", command, environment, folder / "kafka")
        self.api = children.start("api", [sys.executable, "-m", "nexusq_server", "api"], environment, ROOT)
        self.settings = load_settings(kafka=self.addresses.kafka, redis=self.addresses.redis_url, lease="3s")
        self.client = self._stack.enter_context(nexusq_sdk.Client(self.addresses.url))
        self.redis_client = self._stack.enter_context(
            redis.Redis.from_url(self.addresses.redis_url, decode_responses=True)
        )
        eventually(lambda: self.is_ready(200), 60)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def is_ready(self, status: int) -> None:
        """Assert what the API says of its readiness."""
        assert_answers(f"{self.addresses.url}/readyz", status)

    def mend(self) -> None:
        """Start again what does not run, and wait until all of it answers."""
        for child in (self.redis, self.kafka, self.api):
            if child.ended():
                child.start()
        eventually(lambda: self.is_ready(200), 60)

    def make_queue(self, name: str) -> str:
        """Make a queue with topics of two partitions."""
        ensure_topics(self.settings.model_copy(update={"partitions": 2}), [name])
        return name


def kill(child: Child) -> None:
    """Kill a part of the cluster as a crash would, and see it gone."""
    child.process.kill()
    child.process.wait(30)


def assert_answers(url: str, status: int) -> None:
    """Assert what a probe is answered; 0: nothing."""
    try:
        said, body = (answer := httpx.get(url, timeout=10, trust_env=False)).status_code, answer.text
    except httpx.HTTPError as error:
        said, body = 0, repr(error)
    assert status == said, f"{url}: {body}"


def uncommitted(kafka: str, queue: str) -> dict[TopicPartition, int]:
    """Give how many records of each partition lie behind the committed offset; those with none are left out."""
    consumer = KafkaConsumer(
        bootstrap_servers=kafka, group_id=group(queue), enable_auto_commit=False, metrics_enabled=False
    )
    try:
        name = topic(queue)
        partitions = [TopicPartition(name, number) for number in consumer.partitions_for_topic(name) or ()]
        ends = consumer.end_offsets(partitions)
        left = {partition: end - (consumer.committed(partition) or 0) for partition, end in ends.items()}
    finally:
        consumer.close(autocommit=False)
    return {partition: count for partition, count in left.items() if count}


def all_is_committed(kafka: str, queue: str) -> Callable[[], None]:
    """Make the assertion that the offsets have reached the end."""

    def check() -> None:
        assert {} == uncommitted(kafka, queue)

    return check


def crew_of(cluster: Addresses, folder: Path) -> Iterator[Crew]:
    """Give a crew that is gone afterwards."""
    crew = Crew(cluster, folder)
    try:
        yield crew
    finally:
        crew.close()
