"""A batch of a million tasks from start to frame, beside batches of ten thousand: time, memory, Redis's bytes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.parts import Peaks, memory_mib
from benchmarks.results import Results
from benchmarks.stage import Stage
from benchmarks.talk import Remote

QUEUE = "bench-million"
SMALL = 10_000
SMALL_RUNS = 3


@dataclass(frozen=True)
class _Run:
    seconds: float
    redis_bytes: float
    frame_mib: float
    most: dict[str, float]  # memory of each part at its most, in MiB
    grown_mib: float  # the client's, at its most, above what it had with the rows to submit


def measure_million(stage: Stage, large: int, results: Results) -> None:
    """Measure both sizes with one worker, the small one several times."""
    with stage.running("million", stage.nexusq_worker(QUEUE), stage.nexusq_environment) as worker:
        for size, runs in ((SMALL, SMALL_RUNS), (large, 1)):
            for _ in range(runs):
                with stage.nexusq_client(QUEUE) as client:
                    run = _run(client, {**stage.parts(), "worker": worker.process.pid, "client": client.pid}, size)
                results.add("million", f"{size:,} tasks", 1_000_000 * run.seconds / size, "µs/task", tasks=size)
        for part in ("api", "worker"):
            results.add("memory", part, run.most[part], "MiB", tasks=large)
        results.add("memory", "client, above its rows", run.grown_mib, "MiB", tasks=large)
        results.add("memory", "the frame", run.frame_mib, "MiB", tasks=large)
        results.add("memory", "Redis, a task", run.redis_bytes / large, "bytes", tasks=large)


def _run(client: Remote, parts: Mapping[str, int], size: int) -> _Run:
    client.ask("prepare", size)
    # The worker and the API have made their connections.
    client.ask("ping")
    redis_before, before = client.ask("redis_bytes"), memory_mib(parts)["client"]
    with Peaks(parts) as peaks:
        began = time.perf_counter()
        client.ask("submit", size)
        client.ask("wait")
        client.ask("frame")
        seconds = time.perf_counter() - began
        seen = client.ask("frame_sizes")
    if seen["completed"] != size:
        raise RuntimeError(f"expected a frame of {size} completed tasks, got {seen}")
    redis_bytes = client.ask("redis_bytes") - redis_before
    client.ask("clear")
    return _Run(seconds, redis_bytes, seen["mib"], peaks.most, peaks.most["client"] - before)
