"""``POST /tasks`` one by one over 64 connections, between two halves of an endpoint that only echoes.

One generator for both. A machine's speed changes within seconds, so what is compared surrounds the other.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

import httpx
import redis

from benchmarks import job
from benchmarks.results import Results
from benchmarks.stage import Stage
from benchmarks.systems import NEXUSQ, QUEUE
from benchmarks.talk import ROOT
from nexusq_sdk.protocol import redis_layout
from nexusq_server.local.cluster import free_ports

ECHO = "echo endpoint"
CONNECTIONS = 64
#: A generator that needs more of its CPU may itself be what is measured.
BUSY = 0.9


def measure_post(stage: Stage, seconds: float, results: Results) -> None:
    """Measure both once; forget the tasks, which nobody will run."""
    # A queue that no worker serves: what is measured is how tasks are taken.
    task = {
        "taskType": "BENCH_NOOP",
        "payload": job.payload(1),
        "options": {"queue": f"{QUEUE}-post", "resultTtlSeconds": 60},
    }
    body = json.dumps(task).encode()
    (port,) = free_ports(1)
    echo, ours = f"http://127.0.0.1:{port}/tasks", f"{stage.cluster.url}/tasks"
    with stage.running("echo", ["python", "-m", "benchmarks.echo", str(port)]):
        _wait(echo, body)
        _wait(ours, body)
        halves = [_load(echo, seconds / 2, body)]
        said = _load(ours, seconds, body)
        halves.append(_load(echo, seconds / 2, body))
    rate, busy = (statistics.mean(half[name] for half in halves) for name in ("rate", "generator_cpu"))
    results.add("post", ECHO, rate, "requests/s", generator_cpu=busy, halves=halves)
    results.add("post", NEXUSQ, said.pop("rate"), "requests/s", **said)
    with redis.Redis.from_url(stage.cluster.redis_url) as client:
        keys = list(client.scan_iter(f"{redis_layout.TASK}*", count=5000))
        for start in range(0, len(keys), 5000):
            client.unlink(*keys[start : start + 5000])
        client.unlink(redis_layout.RECENT)


def _wait(url: str, body: bytes) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            httpx.post(url, content=body, headers={"content-type": "application/json"}).raise_for_status()
        except httpx.TransportError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def _load(url: str, seconds: float, body: bytes) -> dict[str, float]:
    answer = subprocess.run(
        [sys.executable, "-m", "benchmarks.load", url, str(CONNECTIONS), str(seconds)],
        input=body,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        check=True,
        timeout=60 + seconds,
    )
    said: dict[str, float] = json.loads(answer.stdout)
    return said
