"""What NexusQ's processes use: memory and CPU, of the API, its workers, Kafka, Redis. Read from outside, by psutil."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from types import TracebackType

import psutil

LOOK_SECONDS = 0.2
MIB = 2**20


def cluster_parts(redis_port: int) -> dict[str, int]:
    """Give the ids of the embedded cluster's processes: ``api``, ``kafka``, ``redis``."""
    found: dict[str, int] = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if words[-2:] == ["nexusq_server", "api"]:
                found["api"] = process.pid
            elif "kafka.Kafka" in words:
                found["kafka"] = process.pid
            elif words and words[0].endswith(f":{redis_port}"):  # Redis shows its address so
                found.setdefault("redis", process.pid)  # not its child's, which comes after it: that rewrites its file
    missing = {"api", "kafka", "redis"} - set(found)
    if missing:
        raise RuntimeError(f"expected the embedded cluster to have {', '.join(sorted(missing))} among its processes")
    return found


def cpu_seconds(parts: Mapping[str, int]) -> dict[str, float]:
    """Give how much CPU each part has used so far, with the processes that it has started."""
    used = {}
    for name, pid in parts.items():
        process = psutil.Process(pid)
        seconds = 0.0
        for one in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                times = one.cpu_times()
                seconds += times.user + times.system
        used[name] = seconds
    return used


def process_seconds(pid: int) -> float:
    """Give how much CPU a process has used so far, without those that it has started."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def own_cpu_seconds() -> float:
    """Give how much CPU this process and all that it has started have used so far: what ended meanwhile is missing."""
    return cpu_seconds({"all": psutil.Process().pid})["all"]


def memory_mib(parts: Mapping[str, int]) -> dict[str, float]:
    """Give how much memory each part's own process has resident."""
    return {name: psutil.Process(pid).memory_info().rss / MIB for name, pid in parts.items()}


class Peaks:
    """Watches the parts' memory within a ``with`` block, in a thread: `most` is the highest seen of each, in MiB."""

    def __init__(self, parts: Mapping[str, int]) -> None:
        self._parts = parts
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.most = dict.fromkeys(parts, 0.0)

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            for name, mib in memory_mib(self._parts).items():
                self.most[name] = max(self.most[name], mib)

    def __enter__(self) -> Peaks:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
