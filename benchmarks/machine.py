"""What a run was made on: the machine, and the versions of everything."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from nexusq_server.local import kafka, redis
from nexusq_server.local.downloads import kafka_lock

PACKAGES = (
    *("nexusq", "kafka-python", "redis", "hiredis", "msgspec", "starlette", "uvicorn", "uvloop", "pandas"),
    *("celery", "dramatiq", "huey", "taskiq", "taskiq-redis", "saq", "rq", "distributed", "arq", "streaq"),
)


def describe() -> dict[str, Any]:
    """Give the machine and the versions."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
        "commit": _commit(),
        "kafka": kafka_lock()[0],
        "redis": _redis(),
        "java": kafka.java_version(kafka.find_java()),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


def _cpu() -> str:
    match = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    return match[1] if match else platform.machine()


def _redis() -> str:
    text = subprocess.run([redis.find_redis(), "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"v=(\S+)", text)
    return match[1] if match else text.strip()


def _commit() -> str:
    said = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    return said.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
