"""Priorities and queues: high goes first, low moves on, a worker takes only what it serves."""

from __future__ import annotations

import httpx
import pytest
from kafka import KafkaProducer

import nexusq_sdk
from tests.asking import StartWorker, ended, send, submit, view
from tests.conftest import eventually


def test_what_waits_is_shared_out_by_weight(client: nexusq_sdk.Client, queue: str, start_worker: StartWorker) -> None:
    # given as many tasks of each priority as wait before a worker comes
    batches = {
        priority: client.submit_batch("SLEEP", [{"seconds": 0.01}] * 1500, queue=queue, priority=priority)
        for priority in ("low", "normal", "high")
    }
    start_worker(queue, NEXUSQ_CONCURRENCY="4")

    # when a good part of the high ones have run
    def part_has_run() -> None:
        assert batches["high"].counts()["COMPLETED"] >= 700

    eventually(part_has_run, 60)

    # then there are about four times as many as of the normal ones, and low ones too
    counts = {priority: batch.counts()["COMPLETED"] for priority, batch in batches.items()}
    assert counts["low"] > 0
    assert counts["low"] < counts["normal"] < counts["high"]
    for batch in batches.values():
        batch.cancel()


@pytest.mark.parametrize("priority", ["high", "normal", "low"])
def test_a_task_says_its_priority_and_queue(http: httpx.Client, priority: str) -> None:
    task = ended(http, submit(http, "ECHO", 1, priority=priority))

    assert ("COMPLETED", priority, "default") == (task["status"], task["priority"], task["queue"])


def test_another_clients_record_has_the_priority_of_its_topic(http: httpx.Client, producer: KafkaProducer) -> None:
    task_id = send(producer, "task-queue.high", taskType="ECHO", payload=1, options={"priority": "low"})

    def there() -> None:
        assert 200 == http.get(f"/tasks/{task_id}").status_code

    eventually(there)
    assert "high" == ended(http, task_id)["priority"]


def test_a_worker_serves_its_queues_and_no_other(
    http: httpx.Client, queue: str, settings: object, start_worker: StartWorker
) -> None:
    # given two workers' queues, and one that nobody serves
    other, unserved = f"{queue}-b", f"{queue}-c"
    names = {name: submit(http, "PIDS", {}, queue=name) for name in (queue, other, unserved)}
    start_worker(f"{queue},{other}")

    # when the tasks of the served ones have run
    for name in (queue, other):
        task = ended(http, names[name])
        assert ("COMPLETED", name) == (task["status"], task["queue"])

    # then the other one waits
    assert "QUEUED" == view(http, names[unserved])["status"]
