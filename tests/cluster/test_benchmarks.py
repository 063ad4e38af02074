"""The yardstick works: a small run on a cluster of its own. What it measures is not looked at, only that it does."""

from __future__ import annotations

from urllib.parse import urlsplit

import redis

import nexusq_sdk
from benchmarks import tables
from benchmarks.parts import cluster_parts
from benchmarks.results import Results
from benchmarks.rows import Plan, run
from benchmarks.stage import Stage
from benchmarks.systems import BARE, BARE_INLINE, NEXUSQ, OWN
from benchmarks.turns import FRAME_HTTP, FRAME_REDIS
from tests.conftest import eventually


def test_a_small_run_measures_nexusq_beside_the_bare_loop() -> None:
    rows = frozenset({"drain", "submit", "latency", "frame", "budget", "post"})
    plan = Plan(rows, 1, 6000, 5, 0.5, 0, 0.0, 0)
    results = Results({}, {})
    systems = [system for system in OWN if system.name in {NEXUSQ, BARE_INLINE}]

    with Stage() as stage:
        run(stage, systems, plan, results)

    assert {} == results.failures
    assert {NEXUSQ, BARE_INLINE} == set(results.rows["drain"])
    assert {FRAME_HTTP, FRAME_REDIS} == set(results.rows["frame"])
    assert all(series.median > 0 for row in ("drain", "latency", "post") for series in results.rows[row].values())
    shown = tables.goal_table(results)
    assert shown is not None
    assert {"drain no-op tasks", "POST /tasks, one by one", "batch.frame()"} <= {line[0] for line in shown.cells}
    assert BARE not in results.rows["submit"]  # the other loop submits for both


def test_redis_is_not_taken_for_its_child_that_rewrites_its_file() -> None:
    with nexusq_sdk.local(workers=1) as cluster, redis.Redis.from_url(cluster.redis_url) as client:
        pid = client.info("server")["process_id"]
        client.mset({f"key:{number}": "" for number in range(100)})
        client.config_set("rdb-key-save-delay", 100_000)  # us: the child lives for ten seconds
        client.bgrewriteaof()

        def rewrites() -> None:
            assert client.info("persistence")["aof_rewrite_in_progress"]

        eventually(rewrites)
        assert cluster_parts(urlsplit(cluster.redis_url).port or 0)["redis"] == pid
        rewrites()  # still: it was there to be mistaken
