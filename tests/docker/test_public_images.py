"""The server against the public images of Kafka and Redis, as sandbox/.env names them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import nexusq_sdk
from nexusq_server.local.cluster import free_ports
from tests.conftest import HANDLERS, ROOT, Addresses, eventually

# What cleans up after testcontainers is an image of its own; the blocks below do it as well.
os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")

pytestmark = [pytest.mark.docker, pytest.mark.timeout(400)]


def why_no_docker() -> str:
    """Say why no engine answers; empty where one does."""
    if shutil.which("docker") is None:
        return "docker is not installed"
    answer = subprocess.run(["docker", "info"], capture_output=True, text=True, check=False)
    return "" if answer.returncode == 0 else (answer.stderr or answer.stdout).strip().splitlines()[-1]


def image(name: str) -> str:
    told = dict(
        line.split("=", 1) for line in (ROOT / "sandbox" / ".env").read_text().splitlines() if "_IMAGE=" in line
    )
    return told[f"{name}_IMAGE"]


@pytest.fixture(scope="module")
def stores() -> Iterator[tuple[str, str]]:
    """Give the addresses of Kafka and Redis, each in a container."""
    why = why_no_docker()
    if why:
        pytest.skip(f"no Docker engine answers: {why}")
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy

    [port] = free_ports(1)
    kafka = (
        DockerContainer(image("KAFKA"))
        .with_bind_ports(9094, port)
        .with_env("CLUSTER_ID", "TmV4dXNRLXNhbmRib3gtMQ")
        .with_env("KAFKA_NODE_ID", "1")
        .with_env("KAFKA_PROCESS_ROLES", "broker,controller")
        .with_env("KAFKA_CONTROLLER_QUORUM_VOTERS", "1@localhost:9093")
        .with_env("KAFKA_LISTENERS", "PLAINTEXT://:9092,CONTROLLER://:9093,HOST://:9094")
        .with_env("KAFKA_ADVERTISED_LISTENERS", f"PLAINTEXT://localhost:9092,HOST://127.0.0.1:{port}")
        .with_env("KAFKA_LISTENER_SECURITY_PROTOCOL_MAP", "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,HOST:PLAINTEXT")
        .with_env("KAFKA_CONTROLLER_LISTENER_NAMES", "CONTROLLER")
        .with_env("KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR", "1")
        .with_env("KAFKA_HEAP_OPTS", "-Xmx384m")
        .waiting_for(LogMessageWaitStrategy("Kafka Server started").with_startup_timeout(180))
    )
    redis = (
        DockerContainer(image("REDIS"))
        .with_command("redis-server --appendonly yes --maxmemory-policy noeviction")
        .with_exposed_ports(6379)
        .waiting_for(LogMessageWaitStrategy("Ready to accept connections").with_startup_timeout(120))
    )
    with kafka, redis:
        at = redis.get_exposed_port(6379)
        yield f"127.0.0.1:{port}", f"redis://{redis.get_container_host_ip()}:{at}/0"


@pytest.fixture(scope="module")
def server(stores: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Addresses]:
    """Give an API with a worker that use them."""
    folder: Path = tmp_path_factory.mktemp("server")
    kafka, redis_url = stores
    [port] = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    told = {"NEXUSQ_KAFKA": kafka, "NEXUSQ_REDIS": redis_url, "NEXUSQ_PORT": str(port), "NEXUSQ_TASKS": HANDLERS}
    environment = os.environ | told | {"PYTHONPATH": str(ROOT)}
    logs = [folder / "api.log", folder / "worker.log"]
    processes = []
    try:
        for name, log in zip(("api", "worker"), logs, strict=True):
            with log.open("w") as output:
                command = [sys.executable, "-m", "nexusq_server", name]
                processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, stderr=output))

        def ready() -> None:
            said = "\n".join(log.read_text() for log in logs)
            try:
                assert httpx.get(f"{url}/readyz", timeout=5).is_success, said
                assert httpx.get(f"{url}/workers", timeout=5).json()["workers"], said
            except httpx.TransportError as error:
                raise AssertionError(said) from error

        eventually(ready, 90)
        yield Addresses(url, redis_url, kafka)
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(60)


def test_a_batch_runs_its_failures_are_tried_again_and_what_is_late_waits(server: Addresses) -> None:
    with nexusq_sdk.Client(server.url) as client:
        # when tasks are submitted that succeed, that fail, and that are not due yet
        rows = [{"a": row, "b": row % 10} for row in range(1000)]
        batch = client.submit_batch("DIVIDE", rows, max_attempts=2, backoff=0.1)
        late = client.submit("ECHO", "late", delay=2)

        # then each ends as it is to: a tenth of them, which divide by zero, after a second attempt
        frame = batch.wait(timeout=120).frame()
        assert {"COMPLETED": 900, "FAILED": 100} == frame["status"].astype("str").value_counts().to_dict()
        assert {2} == set(frame.loc[frame["status"] == "FAILED", "attempt"])
        assert "late" == late.result(timeout=60)
        assert 100 == len(client.dead_letters(batch=batch.id))


def test_what_is_on_redis_disk_is_known_so_commits_need_no_pause(server: Addresses) -> None:
    # given a Redis with WAITAOF; when a task is done; then Kafka soon has nothing left of it
    with nexusq_sdk.Client(server.url) as client:
        client.submit("ECHO", 1).wait(timeout=60)

        def nothing_left() -> None:
            assert 0 == client.queues()["lag"].sum()

        eventually(nothing_left, 30)
