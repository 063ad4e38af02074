"""A queue with a hundred thousand tasks in it: what is urgent passes them, and cancelled they are in nobody's way."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

import httpx
import pytest

import nexusq_sdk
from nexusq_server.settings import Settings
from nexusq_server.topics import ensure_topics
from tests.asking import ended, submit
from tests.conftest import Addresses, WorkerProcess, eventually


class Crowd(NamedTuple):
    """The queue, and its batches, of which a few tasks have run."""

    queue: str
    normal: nexusq_sdk.Batch
    low: nexusq_sdk.Batch


@pytest.fixture(scope="module")
def crowd(cluster: Addresses, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crowd]:
    queue = f"t{secrets.token_hex(5)}"
    ensure_topics(settings, [queue])
    with nexusq_sdk.Client(cluster.url) as client:
        low = client.submit_batch("SLEEP", [{"seconds": 0.02}] * 2000, queue=queue, priority="low")
        normal = client.submit_batch("SLEEP", [{"seconds": 0.02}] * 100_000, queue=queue)
        log = tmp_path_factory.mktemp("crowd") / "worker.log"
        worker = WorkerProcess(cluster, queue, log, NEXUSQ_CONCURRENCY="4")

        def begun() -> None:
            assert normal.counts()["COMPLETED"] >= 50, log.read_text()

        try:
            eventually(begun, 60)
            yield Crowd(queue, normal, low)
        finally:
            worker.kill()


def test_a_high_task_behind_a_hundred_thousand_normal_ones_starts_within_about_a_second_and_low_moves_on(
    http: httpx.Client, crowd: Crowd
) -> None:
    # when high tasks are submitted, one after another
    highs = [ended(http, submit(http, "ECHO", row, queue=crowd.queue, priority="high")) for row in range(5)]

    # then each started within about a second, though nearly all others still wait
    waits = [
        (datetime.fromisoformat(task["startedAt"]) - datetime.fromisoformat(task["submittedAt"])).total_seconds()
        for task in highs
    ]
    assert sorted(waits)[2] < 1.0
    assert max(waits) < 3.0
    assert crowd.normal.counts()["QUEUED"] > 90_000

    # and low ones are among those that have run, but a small part of them
    def low_moves() -> None:
        assert crowd.low.counts()["COMPLETED"] > 0

    eventually(low_moves)
    assert crowd.low.counts()["COMPLETED"] < crowd.normal.counts()["COMPLETED"]


def test_a_hundred_thousand_queued_tasks_of_a_cancelled_batch_are_passed_over_in_seconds(
    http: httpx.Client, crowd: Crowd
) -> None:
    # given tasks behind those that wait, some in every partition
    behind = [submit(http, "ECHO", number, queue=crowd.queue) for number in range(24)]

    # when those are cancelled
    crowd.low.cancel()
    crowd.normal.cancel()

    # then they have ended at once but for what had run, and what is behind them runs soon
    crowd.normal.wait(timeout=30)
    counts = crowd.normal.counts()
    assert 100_000 == counts["CANCELLED"] + counts["COMPLETED"]
    assert counts["CANCELLED"] > 80_000
    for number, task_id in enumerate(behind):
        assert number == ended(http, task_id, 30)["result"]
