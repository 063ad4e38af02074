"""A soak: half of what the cluster can take, for minutes. Memory and latency are to stay as they were at first.

The most is found by submitting batches as fast as they come to their end, with few open. Then batches come at half of
that rate, ten a second, whatever becomes of them; results are kept for a minute. Beside them one task at a time is
submitted and waited for: that is the latency.
"""

from __future__ import annotations

import sys
import time

from benchmarks.parts import cpu_seconds, memory_mib
from benchmarks.results import Results
from benchmarks.stage import Stage
from benchmarks.talk import Remote
from benchmarks.turns import percentile

#: Results are kept so long: after as much time Redis forgets as much as it is given.
KEPT_SECONDS = 60
QUEUE = "bench-soak"
MOST_SECONDS = 20.0
MINUTE = 60.0


def measure_soak(stage: Stage, minutes: float, results: Results) -> None:
    """Run it; a value for each minute."""
    with (
        stage.running("soak", stage.nexusq_worker(QUEUE), stage.nexusq_environment) as worker,
        stage.nexusq_client(QUEUE) as load,
        stage.nexusq_client(QUEUE) as probe,
    ):
        probe.ask("ping")
        most = load.ask("flood", MOST_SECONDS)
        results.add("soak", "the most", most, "tasks/s")
        load.ask("pour", most / 2, KEPT_SECONDS)
        parts = {**stage.parts(), "worker": worker.process.pid}
        for minute in range(max(1, round(minutes))):
            _watch(minute + 1, load, probe, parts, results)
        load.ask("stop_pouring")


def _watch(minute: int, load: Remote, probe: Remote, parts: dict[str, int], results: Results) -> None:
    began, times = time.monotonic(), []
    poured, used = load.ask("poured"), cpu_seconds(parts)
    while time.monotonic() < began + MINUTE:
        probe.ask("ping")
        times.append(1000 * probe.seconds)
        time.sleep(0.1)
    took = time.monotonic() - began
    times.sort()
    results.add("soak-p99", "latency", percentile(times, 0.99), "ms", minute=minute, p50=percentile(times, 0.5))
    for part, mib in memory_mib(parts).items():
        if part != "redis":
            results.add("soak-memory", part, mib, "MiB", minute=minute)
    results.add("soak-memory", "redis", probe.ask("redis_bytes") / 2**20, "MiB", minute=minute)
    rate = (load.ask("poured") - poured) / took
    results.add("soak-rate", "submitted", rate, "tasks/s", minute=minute, open=load.ask("open"))
    cores = sum(cpu_seconds(parts).values()) - sum(used.values())
    print(
        f"minute {minute}: {rate:,.0f} tasks/s, p50 {percentile(times, 0.5):.1f} ms, "
        f"p99 {percentile(times, 0.99):.1f} ms, {cores / took:.2f} cores busy",
        file=sys.stderr,
    )
