"""A system's turn: submit with no worker, then drain, then one task at a time. The same for everyone.

Rules: what a system submits is timed around its client's own call, in the client's process, connections made. Then its
worker is started, and the client asks every 20 ms how many tasks have ended. The rate is that between the first look
that sees an end and the look that sees the last one: what a program needs to start counts for nobody.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass

from benchmarks.results import Results
from benchmarks.stage import Stage
from benchmarks.systems import System
from benchmarks.talk import Remote

LOOK_SECONDS = 0.02
#: Before tasks come one at a time, what was drained gets a moment to come to rest.
REST_SECONDS = 1.0
PING_REST_SECONDS = 0.02
DRAIN_SECONDS = 300.0
WARM_PINGS = 5


@dataclass(frozen=True)
class TurnPlan:
    """What a turn has."""

    rows: frozenset[str]
    tasks: int
    pings: int


def take_turn(stage: Stage, system: System, plan: TurnPlan, results: Results) -> None:
    """Measure one system once."""
    count = max(200, int(plan.tasks * system.share))
    with contextlib.ExitStack() as stack:
        if system.server is not None:
            stack.enter_context(stage.running(f"{system.name}-server", system.server(stage)))
        client = stack.enter_context(stage.client(system.module, system.words(stage)))
        try:
            if plan.rows & {"drain", "submit"}:
                client.ask("prepare", count)
                client.ask("submit", count)
                if "submit" in plan.rows:
                    results.add("submit", system.name, count / client.seconds, "tasks/s", tasks=count)
            if plan.rows & {"drain", "latency"}:
                environment = {**system.environment, **(stage.nexusq_environment if system.kind == "nexusq" else {})}
                with stage.running(system.module, system.worker(stage), environment) as worker:
                    if "drain" in plan.rows or "submit" in plan.rows:
                        rate = drain(client, count, worker.ended)
                        if "drain" in plan.rows:
                            results.add("drain", system.name, rate, "tasks/s", tasks=count)
                    if "latency" in plan.rows and system.pings:
                        times = ping(client, plan.pings)
                        results.add("latency", system.name, percentile(times, 0.5), "ms", p99=percentile(times, 0.99))
                        results.add("latency-p99", system.name, percentile(times, 0.99), "ms", tasks=len(times))
        finally:
            client.ask("clear")


def drain(client: Remote, count: int, worker_ended: object) -> float:
    """Wait until all have ended; give the rate."""
    deadline = time.monotonic() + DRAIN_SECONDS
    first: tuple[float, int] | None = None
    while True:
        done, now = client.ask("finished"), time.perf_counter()
        if first is None and done:
            first = (now, done)
        if done >= count:
            break
        if callable(worker_ended) and worker_ended():
            raise RuntimeError(f"the worker has ended after {done} of {count} tasks")
        if time.monotonic() > deadline:
            raise RuntimeError(f"after {DRAIN_SECONDS:g} s {done} of {count} tasks have ended")
        time.sleep(LOOK_SECONDS)
    assert first is not None
    if first[1] >= count:
        raise RuntimeError(f"all {count} tasks ended within one look: too few to measure a rate")
    return (count - first[1]) / (now - first[0])


def ping(client: Remote, count: int) -> list[float]:
    """Submit one task at a time and wait for its result, as the library's users do; give the times in ms, sorted."""
    time.sleep(REST_SECONDS)
    times = []
    for number in range(count + WARM_PINGS):
        client.ask("ping")
        if number >= WARM_PINGS:
            times.append(1000 * client.seconds)
        time.sleep(PING_REST_SECONDS)
    return sorted(times)


def percentile(values: list[float], share: float) -> float:
    """Give the nearest-rank percentile of sorted values."""
    return values[min(len(values) - 1, int(len(values) * share))]
