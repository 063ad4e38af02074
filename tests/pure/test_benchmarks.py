"""The yardstick's judgement and its papers: goals, tables, the region of a page."""

from __future__ import annotations

import json

import msgspec
import pytest

from benchmarks import job, report, sizing
from benchmarks.cpu import POOL
from benchmarks.goals import verdicts
from benchmarks.results import Results
from benchmarks.systems import BARE, BARE_INLINE, BARE_THREADS, NEXUSQ
from tests.conftest import ROOT

MACHINE = {
    "cpu": "a CPU",
    "cores": 2,
    "memory_gib": 4,
    "system": "Linux",
    "load_before": 0.1,
    "load_after": 2.0,
    "standing_by": 0.02,
    "python": "3.11",
    "commit": "abc",
    "kafka": "4",
    "redis": "8",
    "java": 17,
    "packages": {"nexusq": "0.1.0"},
}


def a_run(**drained: float) -> Results:
    """Make a run that drained at these rates."""
    results = Results(MACHINE, {"rounds": 1, "tasks": 100_000})
    names = {"nexusq": NEXUSQ, "threads": BARE_THREADS, "inline": BARE_INLINE}
    for name, rate in drained.items():
        results.add("drain", names.get(name, name), rate, "tasks/s")
    return results


def judged(results: Results) -> dict[str, bool]:
    return {verdict.goal: verdict.met for verdict in verdicts(results)}


def test_a_goal_is_met_from_its_bound_on() -> None:
    at, below = a_run(nexusq=9000, threads=10_000), a_run(nexusq=8999, threads=10_000)

    assert {"≥ 0.9 × bare loop, 8 threads": True} == judged(at)
    assert {"≥ 0.9 × bare loop, 8 threads": False} == judged(below)


def test_what_a_round_measures_around_the_same_time_is_compared_within_the_round() -> None:
    # given a machine that is three times as fast in the last round
    results = a_run()
    for ours, pool in ((96, 100), (97, 100), (240, 300)):
        results.add("cpu", NEXUSQ, ours, "tasks/s")
        results.add("cpu", POOL, pool, "tasks/s")

    assert ["0.96 ×"] == [verdict.seen for verdict in verdicts(results)]


def test_the_best_peer_is_neither_nexusq_nor_a_bare_loop() -> None:
    results = a_run(nexusq=20_000, inline=50_000, Celery=700, Huey=2000)

    assert judged(results)["≥ 10 × the best peer (Huey)"]


def test_a_peer_that_keeps_tasks_in_memory_is_told_apart_where_tasks_are_submitted() -> None:
    results = a_run()
    for name, rate in {NEXUSQ: 20_000.0, BARE: 20_000.0, "RQ": 8000.0, "Dask (in memory)": 30_000.0}.items():
        results.add("submit", name, rate, "tasks/s")

    seen = judged(results)

    assert seen["≥ 1.5 × the best peer (RQ)"]
    assert not seen["≥ 1.5 × the best peer (Dask (in memory))"]


def test_what_was_not_measured_is_not_judged() -> None:
    assert [] == verdicts(a_run())


def test_the_median_of_the_rounds_counts() -> None:
    results = a_run(threads=100)
    for rate in (10, 95, 1000):
        results.add("drain", NEXUSQ, rate, "tasks/s")

    assert judged(results)["≥ 0.9 × bare loop, 8 threads"]
    assert (10, 1000) == results.rows["drain"][NEXUSQ].spread


def test_a_run_that_was_written_comes_back_as_it_was() -> None:
    results = a_run(nexusq=9000, threads=10_000)

    assert results == Results.from_json(json.loads(json.dumps(results.to_json())))


def test_a_pages_region_is_written_again_and_the_rest_of_the_page_stays() -> None:
    page = f"# Speed\n\n{report.BEGIN}\nold\n{report.END}\n\nThe end.\n"

    once = report.fill(page, report.markdown(a_run(nexusq=9000, threads=10_000), "a.svg"))
    twice = report.fill(once, report.markdown(a_run(nexusq=1000, threads=10_000), "a.svg"))

    assert once.startswith("# Speed\n")
    assert twice.endswith("\n\nThe end.\n")
    assert "0.90 ×" in once
    assert "old" not in once
    assert "0.10 ×" in twice
    assert "0.90 ×" not in twice


def test_a_page_without_a_region_is_refused() -> None:
    with pytest.raises(report.NoRegion, match="expected a document with the lines"):
        report.fill("# Speed", "tables")


def test_the_page_of_the_project_has_a_region() -> None:
    assert "tables" in report.fill((ROOT / "docs" / "performance.md").read_text(), "tables")


def test_a_tasks_payload_and_result_are_as_large_as_is_said() -> None:
    assert 90 <= len(msgspec.json.encode(job.payload(5))) <= 110
    assert 25 <= len(msgspec.json.encode(job.result(5))) <= 35


def test_a_cluster_is_sized_from_what_its_parts_were_seen_to_do() -> None:
    results = a_run(nexusq=10_000)
    results.add("memory", "Redis, a task", 500, "bytes")
    for part, used in {"submit: api": 50.0, "submit: redis": 10.0, "drain: redis": 15.0}.items():
        results.add("budget", part, used, "µs/task")

    table = sizing.sizing_table(results)

    assert table is not None
    billion = dict(zip(table.columns, next(line for line in table.cells if line[0] == "1,000,000,000"), strict=True))
    # 34,722 a second at the peak; 60 % of 10,000 a worker, of 20,000 an API, of 40,000 a Redis
    assert ("6", "3", "2") == (billion["worker processes"], billion["API processes"], billion["installations"])
    assert "466 GiB" == billion["Redis, kept 1 day"]
    assert sizing.sizing_table(a_run(nexusq=10_000)) is None


def a_soak(times: list[float], memory: list[float]) -> Results:
    results = a_run()
    for p99, mib in zip(times, memory, strict=True):
        results.add("soak-p99", "latency", p99, "ms")
        results.add("soak-memory", "worker", mib, "MiB")
    return results


@pytest.mark.parametrize(
    ("times", "memory", "latency_met", "memory_met"),
    [
        ([100, 190, 200, 900], [50, 100, 120, 101], True, True),  # one minute stands out
        ([100, 210, 190, 220], [50, 100, 106, 112], False, False),
        ([100, 201], [100, 111], False, False),
        ([100, 200], [100, 110], True, True),
    ],
)
def test_a_soak_is_judged_by_all_its_later_minutes(
    times: list[float], memory: list[float], latency_met: bool, memory_met: bool
) -> None:
    found = judged(a_soak(times, memory))

    assert {"p99 of the later minutes ≤ 2 × the first's": latency_met, "worker: flat memory": memory_met} == found
