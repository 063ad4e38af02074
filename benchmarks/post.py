"""``POST /tasks`` one by one over 64 connections, beside an endpoint that only echoes. One generator for both."""

from __future__ import annotations

import json
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
    """Measure both once, one after the other; forget the tasks, which nobody will run."""
    # A queue that no worker serves: what is measured is how tasks are taken.
    task = {
        "taskType": "BENCH_NOOP",
        "payload": job.payload(1),
        "options": {"queue": f"{QUEUE}-post", "resultTtlSeconds": 60},
    }
    body = json.dumps(task).encode()
    (port,) = free_ports(1)
    with stage.running("echo", ["python", "-m", "benchmarks.echo", str(port)]):
        _wait(f"http://127.0.0.1:{port}/tasks", body)
        _load(ECHO, f"http://127.0.0.1:{port}/tasks", seconds, body, results)
    _wait(f"{stage.cluster.url}/tasks", body)
    _load(NEXUSQ, f"{stage.cluster.url}/tasks", seconds, body, results)
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


def _load(name: str, url: str, seconds: float, body: bytes, results: Results) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "benchmarks.load", url, str(CONNECTIONS), str(seconds)],
        input=body,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        check=True,
        timeout=60 + seconds,
    )
    said = json.loads(answer.stdout)
    results.add("post", name, said.pop("rate"), "requests/s", **said)
