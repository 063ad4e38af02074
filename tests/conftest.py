"""One cluster for the whole run, a queue of its own for each test that starts workers.

``--cluster local`` (the embedded one) or ``--cluster URL`` of an API that runs already; Redis and Kafka are then
taken from ``NEXUSQ_REDIS`` and ``NEXUSQ_KAFKA``.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import hypothesis
import pytest
import redis
from kafka import KafkaProducer

import nexusq_sdk
from nexusq_server.settings import Settings, load_settings
from nexusq_server.store import Store
from nexusq_server.topics import connect_producer, ensure_topics

# How long an example takes says how busy the machine is, nothing else.
hypothesis.settings.register_profile("nexusq", deadline=None)
hypothesis.settings.load_profile("nexusq")

ROOT = Path(__file__).parent.parent
HANDLERS = "tests.handlers"


class Addresses(NamedTuple):
    """Where a cluster answers."""

    url: str
    redis_url: str
    kafka: str


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cluster", default="local", help="local (default), or the URL of an API that runs already")


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Addresses]:
    where = request.config.getoption("--cluster")
    if where != "local":
        settings = load_settings()
        yield Addresses(where, settings.redis, ",".join(settings.kafka))
        return
    with nexusq_sdk.local(workers=1, tasks=HANDLERS) as running:
        yield Addresses(running.url, running.redis_url, running.kafka)
        # Whatever the tests asked for, the API never failed at it: it answered or refused.
        log = (running.logs / "api.log").read_text()
        assert "ERROR nexusq_server.problems" not in log, log[-20_000:]


@pytest.fixture(scope="session")
def settings(cluster: Addresses) -> Settings:
    return load_settings(kafka=cluster.kafka, redis=cluster.redis_url)


@pytest.fixture(scope="session")
def redis_client(cluster: Addresses) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(cluster.redis_url, decode_responses=True) as client:
        yield client


@pytest.fixture(scope="session")
def store(settings: Settings) -> Iterator[Store]:
    with redis.Redis.from_url(settings.redis) as client:
        yield Store(client, settings)


@pytest.fixture(scope="session")
def producer(settings: Settings) -> Iterator[KafkaProducer]:
    """Any other Kafka client: it knows the wire and nothing of NexusQ."""
    client = connect_producer(settings)
    yield client
    client.close()


@pytest.fixture
def client(cluster: Addresses) -> Iterator[nexusq_sdk.Client]:
    with nexusq_sdk.Client(cluster.url) as client:
        yield client


@pytest.fixture(scope="session")
def http(cluster: Addresses) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=cluster.url, timeout=20) as client:
        yield client


@pytest.fixture
def queue(settings: Settings) -> str:
    """Name a queue that is this test's alone; its topic is there already."""
    name = f"t{secrets.token_hex(5)}"
    ensure_topics(settings, [name])
    return name


class WorkerProcess:
    """A real worker process that a test may kill."""

    def __init__(self, cluster: Addresses, queue: str, log: Path, **environment: str) -> None:
        self.log = log
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "nexusq_server", "worker", "--queues", queue],
                cwd=ROOT,
                env=os.environ
                | {"NEXUSQ_REDIS": cluster.redis_url, "NEXUSQ_KAFKA": cluster.kafka, "NEXUSQ_TASKS": HANDLERS}
                | {"PYTHONPATH": str(ROOT)}
                | environment,
                stderr=output,
            )

    def kill(self, how: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal and wait for the end; give the exit code."""
        self.process.send_signal(how)
        return self.process.wait(60)


@pytest.fixture
def start_worker(cluster: Addresses, tmp_path: Path, http: httpx.Client) -> Iterator[Callable[..., WorkerProcess]]:
    """Start workers that are gone after the test; each has registered when it is given."""
    started: list[WorkerProcess] = []

    def start(queue: str, **environment: str) -> WorkerProcess:
        worker = WorkerProcess(cluster, queue, tmp_path / f"worker-{len(started)}.log", **environment)
        started.append(worker)

        def registered() -> None:
            assert worker.process.poll() is None, worker.log.read_text()
            names = [entry["worker"] for entry in http.get("/workers").json()["workers"]]
            assert any(f"-{worker.process.pid}-" in name for name in names), worker.log.read_text()

        eventually(registered)
        return worker

    yield start
    for worker in started:
        if worker.process.poll() is None:
            worker.kill()


def eventually(assertion: Callable[[], None], seconds: float = 30) -> None:
    """Wait until an assertion about public state holds; raise its last real failure if it never does."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return assertion()
        except AssertionError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)
