"""A system's turn: submit with no worker, then drain, then one task at a time. The same for everyone.

Rules: what a system submits is timed around its client's own call, in the client's process, connections made. Then its
worker is started, and the client asks every 20 ms how many tasks have ended. The rate is that between the first look
that sees an end and the look that sees the last one: what a program needs to start counts for nobody.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.parts import cpu_seconds
from benchmarks.results import Results
from benchmarks.stage import READY_SECONDS, Stage
from benchmarks.systems import BARE, BARE_INLINE, NEXUSQ, System
from benchmarks.talk import Remote

LOOK_SECONDS = 0.02
#: Before tasks come one at a time, what was drained gets a moment to come to rest.
REST_SECONDS = 1.0
PING_REST_SECONDS = 0.02
#: Without an end for so long, nothing will come any more.
SILENT_SECONDS = 30.0
WARM_PINGS = 5
#: What a turn measures: the rows' names.
TURN_ROWS = frozenset({"drain", "submit", "latency", "frame", "budget"})
FRAME_HTTP, FRAME_REDIS = "over HTTP", "straight from Redis"


@dataclass(frozen=True)
class TurnPlan:
    """What a turn has."""

    rows: frozenset[str]
    tasks: int
    pings: int


def takes_part(system: System, rows: frozenset[str]) -> bool:
    """Whether a system has anything to show of the rows."""
    if system.kind == "nexusq":
        return bool(rows & TURN_ROWS)
    return bool(rows & {"drain", "submit"}) or ("latency" in rows and system.pings)


def take_turn(stage: Stage, system: System, plan: TurnPlan, results: Results) -> None:
    """Measure one system once."""
    count = max(200, int(plan.tasks * system.share))
    own = system.kind == "nexusq"
    filled = bool(plan.rows & {"drain", "submit", "frame", "budget"})
    with contextlib.ExitStack() as stack:
        if system.server is not None:
            stack.enter_context(stage.running(f"{system.name}-server", system.server(stage)))
        client = stack.enter_context(stage.client(system.module, system.words(stage)))
        stack.callback(client.ask, "clear")
        budget = Budget(stage, client) if own and "budget" in plan.rows else None
        if filled:
            client.ask("prepare", count)
            if budget is not None:
                budget.begin()
            client.ask("submit", count)
            if budget is not None:
                budget.end("submit", count, results)
            if "submit" in plan.rows and system.name != BARE_INLINE:
                name = BARE if system.kind == "bare" else system.name
                results.add("submit", name, count / client.seconds, "tasks/s", tasks=count)
        if not filled or plan.rows & {"drain", "latency", "frame", "budget"}:
            environment = {**system.environment, **(stage.nexusq_environment if own else {})}
            with stage.running(system.module, system.worker(stage), environment) as worker:
                if filled:
                    if budget is not None:
                        budget.begin(worker.process.pid)
                    rate = drain(client, count, worker.ended)
                    if budget is not None:
                        budget.end("drain", count, results)
                    if "drain" in plan.rows:
                        results.add("drain", system.name, rate, "tasks/s", tasks=count)
                if own and "frame" in plan.rows:
                    read_frames(client, count, results)
                if "latency" in plan.rows and system.pings:
                    times = ping(client, plan.pings)
                    results.add("latency", system.name, percentile(times, 0.5), "ms", tasks=len(times))
                    results.add("latency-p99", system.name, percentile(times, 0.99), "ms", tasks=len(times))


def drain(
    client: Remote, count: int, worker_ended: Callable[[], bool], window: tuple[float, float] = (0.0, 1.0)
) -> float:
    """Wait until all have ended; give the rate. A window is the share of the tasks between which it is taken."""
    seen, deadline = 0, time.monotonic() + READY_SECONDS
    first: tuple[float, int] | None = None
    last: tuple[float, int] | None = None
    while True:
        done, now = client.ask("finished"), time.perf_counter()
        if first is None and done and done >= window[0] * count:
            first = (now, done)
        if last is None and done >= window[1] * count:
            last = (now, done)
        if done >= count:
            break
        if worker_ended():
            raise RuntimeError(f"the worker has ended after {done} of {count} tasks")
        if done > seen:
            seen, deadline = done, time.monotonic() + SILENT_SECONDS
        if time.monotonic() > deadline:
            raise RuntimeError(f"{done} of {count} tasks have ended, and no more for long")
        time.sleep(LOOK_SECONDS)
    assert first is not None
    assert last is not None
    if first[1] >= last[1]:
        raise RuntimeError(f"all {count} tasks ended within one look: too few to measure a rate")
    return (last[1] - first[1]) / (last[0] - first[0])


def read_frames(client: Remote, count: int, results: Results) -> None:
    """Read the batch that was drained, both ways."""
    for name, method in ((FRAME_HTTP, "frame"), (FRAME_REDIS, "frame_from_redis")):
        client.ask(method)
        seconds, seen = client.seconds, client.ask("frame_sizes")
        if seen["completed"] != count:
            raise RuntimeError(f"expected a frame of {count} completed tasks, got {seen}")
        results.add("frame", name, count / seconds, "rows/s", rows=count)


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


class Budget:
    """How much CPU each of NexusQ's parts uses for a task: what a process used between `begin` and `end`."""

    def __init__(self, stage: Stage, client: Remote) -> None:
        self._parts = {**stage.parts(), "client": client.pid}
        self._before: dict[str, float] = {}

    def begin(self, worker: int | None = None) -> None:
        """Start."""
        if worker is not None:
            self._parts["worker"] = worker
        self._before = cpu_seconds(self._parts)

    def end(self, phase: str, count: int, results: Results) -> None:
        """Add a value for each part, in µs a task."""
        for part, seconds in cpu_seconds(self._parts).items():
            used = 1_000_000 * (seconds - self._before[part]) / count
            results.add("budget", f"{phase}: {part}", used, "µs/task", system=NEXUSQ)
