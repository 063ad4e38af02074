"""How fast a large batch becomes a DataFrame, over HTTP and straight from Redis, and how much memory that takes.

``python benchmarks/frames.py`` starts a cluster, runs a million ECHO tasks and reads their frame;
``--batch NAME --url URL --redis URL`` reads one that is there. Each reading is a process of its own, so that its peak
of memory is its own, too.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import resource
import subprocess
import sys
import time
from typing import Any

import psutil

import nexusq_sdk


def rows(count: int) -> Any:
    """Give rows as people have them: a text and two numbers."""
    return ({"to": f"user{row}@example.com", "n": row, "x": row / 2} for row in range(count))


def cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def servers(url: str, redis_url: str) -> dict[str, psutil.Process]:
    """Find the API and Redis by the ports that they listen on, where they are on this machine."""
    ports = {int(url.rpartition(":")[2]): "api", int(redis_url.rpartition(":")[2].partition("/")[0]): "redis"}
    found: dict[str, psutil.Process] = {}
    for process in psutil.process_iter():
        try:
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port in ports:
                    found[ports[connection.laddr.port]] = process
        except psutil.Error:
            continue
    return found


def read(way: str, url: str, redis_url: str, batch: str) -> dict[str, Any]:
    """Read the frame once, in this process."""
    others = servers(url, redis_url)
    reads: Any = nexusq_sdk.Client(url)._connection if way == "http" else nexusq_sdk.RedisView(redis_url)
    importlib.import_module("nexusq_sdk.frames")  # pandas is not what is measured

    batch_id = nexusq_sdk.Client(url).batch(batch).id
    handle = nexusq_sdk.Batch(batch_id, reads)
    gc.collect()
    me = psutil.Process()
    before = {name: cpu(process) for name, process in others.items()}
    rss, own, began = me.memory_info().rss, cpu(me), time.perf_counter()
    frame = handle.frame()
    seconds, own = time.perf_counter() - began, cpu(me) - own
    gc.collect()
    held = me.memory_info().rss - rss
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - rss
    return {
        "way": way,
        "rows": len(frame),
        "seconds": round(seconds, 2),
        "rows/s": round(len(frame) / seconds),
        "client CPU": round(own, 2),
        **{f"{name} CPU": round(cpu(process) - before[name], 2) for name, process in others.items()},
        "frame MiB": round(held / 2**20),
        "peak MiB": round(peak / 2**20),
        **{f"{name} MiB": round(process.memory_info().rss / 2**20) for name, process in others.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--url")
    parser.add_argument("--redis")
    parser.add_argument("--batch")
    parser.add_argument("--way", choices=["http", "redis"], help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.way:
        print(json.dumps(read(asked.way, asked.url, asked.redis, asked.batch)))
        return
    cluster = None if asked.url else nexusq_sdk.local()
    url, redis_url, batch = asked.url, asked.redis, asked.batch
    if cluster is not None:
        url, redis_url = cluster.url, cluster.redis_url
        batch = nexusq_sdk.Client(url).submit_batch("ECHO", rows(asked.rows)).wait().id
    for _ in range(asked.turns):
        for way in ("http", "redis"):
            command = [sys.executable, __file__, "--way", way, "--url", url, "--redis", redis_url, "--batch", batch]
            print(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout, end="", flush=True)
    if cluster is not None:
        cluster.close()


if __name__ == "__main__":
    main()
