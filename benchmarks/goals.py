"""The goals, and what a run says of each: met, not met, or not measured in this run."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.cpu import POOL
from benchmarks.million import SMALL
from benchmarks.peers.catalogue import PEERS
from benchmarks.post import BUSY, ECHO
from benchmarks.results import Results
from benchmarks.scaling import PROCESSES, THREADS
from benchmarks.systems import BARE, BARE_INLINE, BARE_THREADS, NEXUSQ, OWN
from benchmarks.turns import FRAME_HTTP, FRAME_REDIS

OURS = frozenset({BARE, *(system.name for system in OWN)})
LOSES = frozenset(system.name for system in PEERS.values() if not system.keeps)
#: With more of the machine's CPU in use than this, its cores are full.
FULL = 0.9
#: "Flat" and "bounded by" with what a measurement may be off by.
FLAT, BOUNDED = 1.1, 2.0


@dataclass(frozen=True)
class Verdict:
    """What a run says of one goal."""

    work: str
    goal: str
    seen: str
    met: bool


def verdicts(results: Results) -> list[Verdict]:
    """Judge what was measured."""
    return [verdict for judge in _JUDGES for verdict in judge(results)]


def best_peer(
    results: Results, row: str, *, least: bool = False, keeps: bool | None = None
) -> tuple[str, float] | None:
    """Give the peer with the highest (or least) median of a row; of those that keep their tasks, or do not, or all."""
    peers = {
        name: series.median
        for name, series in results.rows.get(row, {}).items()
        if name not in OURS and keeps in {None, name not in LOSES}
    }
    if not peers:
        return None
    name = min(peers, key=peers.__getitem__) if least else max(peers, key=peers.__getitem__)
    return name, peers[name]


def _ratio(results: Results, row: str, name: str, other: str) -> float | None:
    ours, theirs = results.median(row, name), results.median(row, other)
    return None if ours is None or theirs is None else ours / theirs


def _paired(results: Results, row: str, name: str, other: str) -> float | None:
    """Give the median of the rounds' ratios, where a round measures both around the same time."""
    both = [results.rows.get(row, {}).get(one) for one in (name, other)]
    if both[0] is None or both[1] is None:
        return None
    return statistics.median(ours / theirs for ours, theirs in zip(both[0].values, both[1].values, strict=True))


def _at_least(work: str, what: str, ratio: float | None, goal: float) -> Iterator[Verdict]:
    if ratio is not None:
        yield Verdict(work, f"≥ {goal:g} × {what}", f"{ratio:.2f} ×", ratio >= goal)


def _drain(results: Results) -> Iterator[Verdict]:
    work, ours = "drain no-op tasks", results.median("drain", NEXUSQ)
    peer = best_peer(results, "drain")
    if ours is not None and peer is not None:
        yield from _at_least(work, f"the best peer ({peer[0]})", ours / peer[1], 10)
    yield from _at_least(work, BARE_THREADS, _ratio(results, "drain", NEXUSQ, BARE_THREADS), 0.9)
    yield from _at_least(work, BARE_INLINE, _ratio(results, "drain", NEXUSQ, BARE_INLINE), 0.6)


def _submit(results: Results) -> Iterator[Verdict]:
    work, ours = "submit a batch", results.median("submit", NEXUSQ)
    yield from _at_least(work, "the bare loop", _ratio(results, "submit", NEXUSQ, BARE), 0.7)
    # What is only in a scheduler's memory is not kept: it is told apart.
    for keeps in (True, False):
        peer = best_peer(results, "submit", keeps=keeps)
        if ours is not None and peer is not None:
            yield from _at_least(work, f"the best peer ({peer[0]})", ours / peer[1], 1.5)


def _post(results: Results) -> Iterator[Verdict]:
    yield from _at_least("POST /tasks, one by one", f"an {ECHO}", _paired(results, "post", NEXUSQ, ECHO), 0.5)
    series = results.rows.get("post", {}).get(ECHO)
    if series is not None:
        busy = max(more["generator_cpu"] for more in series.more)
        seen = f"{busy:.0%} of a core"
        yield Verdict("POST /tasks, one by one", "the generator is not the limit", seen, busy < BUSY)


def _latency(results: Results) -> Iterator[Verdict]:
    work = "submit → COMPLETED, idle"
    for row, name, most in (("latency", "p50", 10.0), ("latency-p99", "p99", 30.0)):
        ours = results.median(row, NEXUSQ)
        if ours is None:
            continue
        yield Verdict(work, f"{name} ≤ {most:g} ms", f"{ours:.1f} ms", ours <= most)
        peer = best_peer(results, row, least=True)
        if peer is not None:
            seen = f"{ours:.1f} ms, {peer[0]} {peer[1]:.1f} ms"
            yield Verdict(work, f"{name} below every peer's", seen, ours < peer[1])


def _frame(results: Results) -> Iterator[Verdict]:
    for name, goal in ((FRAME_HTTP, 100_000), (FRAME_REDIS, 150_000)):
        ours = results.median("frame", name)
        if ours is not None:
            yield Verdict("batch.frame()", f"≥ {goal:,} rows/s {name}", f"{ours:,.0f} rows/s", ours >= goal)


def _million(results: Results) -> Iterator[Verdict]:
    sizes = [series.more[0]["tasks"] for series in results.rows.get("million", {}).values()]
    if not sizes:
        return
    work = f"{max(sizes):,} tasks, start to frame"
    ratio = _ratio(results, "million", f"{max(sizes):,} tasks", f"{SMALL:,} tasks")
    if ratio is not None:
        yield Verdict(work, f"cost a task ≤ 1.2 × that of {SMALL:,}", f"{ratio:.2f} ×", ratio <= 1.2)
    for part in ("api", "worker"):
        mib = results.median("memory", part)
        if mib is not None:
            yield Verdict(work, f"{part} ≤ 300 MiB resident", f"{mib:,.0f} MiB", mib <= 300)
    growth = _ratio(results, "memory", "client, above its rows", "the frame")
    if growth is not None:
        yield Verdict(work, "SDK bounded by the frame", f"{growth:.2f} × the frame", growth <= BOUNDED)
    size = results.median("memory", "Redis, a task")
    if size is not None:
        yield Verdict(work, "Redis ≤ 600 bytes a finished task", f"{size:,.0f} bytes", size <= 600)


def _scaling(results: Results) -> Iterator[Verdict]:
    for processes in PROCESSES:
        series = results.rows.get("scaling", {}).get(f"{processes} x {THREADS} threads")
        if series is None:
            continue
        busy = max(more["cpu"] for more in series.more)
        seen = f"{series.median:.2f} of ideal, {busy:.0%} of the machine's CPU used"
        met = series.median >= 0.9 or busy >= FULL
        yield Verdict(f"10 ms tasks, {processes} × {THREADS} threads", "≥ 0.9 of ideal until cores are full", seen, met)


def _cpu(results: Results) -> Iterator[Verdict]:
    yield from _at_least("5 ms of CPU, processes executor", POOL, _paired(results, "cpu", NEXUSQ, POOL), 0.95)


def _soak(results: Results) -> Iterator[Verdict]:
    times = results.rows.get("soak-p99", {}).get("latency")
    if times is None or len(times.values) < 2:
        return
    work = f"{len(times.values)} minutes at half of the most"
    # One minute's hangs on its few slowest samples: the later ones' median says whether it stays.
    ratio = statistics.median(times.values[1:]) / times.values[0]
    yield Verdict(work, "p99 of the later minutes ≤ 2 × the first's", f"{ratio:.2f} ×", ratio <= 2)
    for part, series in results.rows["soak-memory"].items():
        # In the first minute it fills: caches, and what Redis keeps. Later a worker's goes up and down: the line
        # through all minutes says by how much it grew.
        steady = series.values[min(1, len(series.values) - 2) :]
        slope, start = statistics.linear_regression(range(len(steady)), steady)
        growth = 1 + slope * (len(steady) - 1) / start
        seen = f"{growth:.2f} ×, {series.values[-1]:,.0f} MiB at the end"
        yield Verdict(work, f"{part}: flat memory", seen, growth <= FLAT)


_JUDGES: tuple[Callable[[Results], Iterator[Verdict]], ...] = (
    *(_drain, _submit, _post, _latency, _frame, _million, _scaling, _cpu, _soak),
)
