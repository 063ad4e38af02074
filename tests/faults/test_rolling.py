"""Workers that come and go under load: what was started is not started again."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import nexusq_sdk
from tests.conftest import Addresses, eventually
from tests.faults.parts import Crew, Hand, Ledger, all_is_committed


def submit(client: nexusq_sdk.Client, queue: str, ledger: Ledger, count: int, seconds: float) -> nexusq_sdk.Batch:
    return client.submit_batch("TRACE", ledger.rows(count, seconds), queue=queue)


def test_workers_that_join_and_leave_run_nothing_twice(
    client: nexusq_sdk.Client, cluster: Addresses, queue: str, crew: Crew, ledger: Ledger, tmp_path: Path
) -> None:
    # given a worker in the midst of tasks that take as long as is needed, and more of them waiting
    crew.start(queue, NEXUSQ_CONCURRENCY="16")
    enough = tmp_path / "enough"
    rows = [row | {"until": str(enough)} for row in ledger.rows(240, 60)]
    batch = client.submit_batch("TRACE", rows, queue=queue)
    eventually(lambda: ledger.has(16))

    # when two more join, which takes partitions from it, and one of them leaves
    second, third = crew.start(queue, count=2, NEXUSQ_CONCURRENCY="16")
    eventually(lambda: ledger.has(1, pid=second.pid))
    eventually(lambda: ledger.has(1, pid=third.pid))
    second.send(signal.SIGTERM)
    enough.touch()
    assert 0 == second.process.wait(60)
    batch.wait(timeout=90)

    # then each task has run once
    assert {str(index): 1 for index in range(240)} == ledger.count()
    assert {1} == set(batch.frame()["attempt"])
    assert 240 == batch.counts()["COMPLETED"]
    eventually(all_is_committed(cluster.kafka, queue))


def test_a_rolling_restart_under_load_runs_nothing_twice(
    client: nexusq_sdk.Client, cluster: Addresses, queue: str, crew: Crew, ledger: Ledger
) -> None:
    # given two workers under load
    hands = crew.start(queue, count=2)
    batch = submit(client, queue, ledger, 1600, 0.2)
    eventually(lambda: ledger.has(50))

    # when each is replaced by a new one, as a deployment does: the old one is told to end once the new one is there
    for old in hands:
        [new] = crew.start(queue)
        assert 0 == old.kill(signal.SIGTERM)
        eventually(lambda new=new: ledger.has(1, pid=new.pid))  # type: ignore[misc]
    batch.wait(timeout=90)

    # then each task has run once
    assert {str(index): 1 for index in range(1600)} == ledger.count()
    assert 1600 == batch.counts()["COMPLETED"]
    eventually(all_is_committed(cluster.kafka, queue))


def test_what_outlasts_the_grace_is_handed_back_uncharged_and_runs_elsewhere_at_once(
    client: nexusq_sdk.Client, queue: str, crew: Crew, ledger: Ledger, tmp_path: Path
) -> None:
    # given a worker with a minute's lease that runs tasks longer than its grace
    calm = tmp_path / "calm"
    [leaving] = crew.start(queue, NEXUSQ_GRACE="1s", NEXUSQ_LEASE="60s")
    rows = [row | {"until": str(calm)} for row in ledger.rows(4, 60)]
    batch = client.submit_batch("TRACE", rows, queue=queue)
    eventually(lambda: ledger.has(4))
    [staying] = crew.start(queue, NEXUSQ_LEASE="60s")

    # when it is told to end; then it does
    told = time.monotonic()
    assert 0 == leaving.kill(signal.SIGTERM)

    # then its tasks run elsewhere long before its lease would have ended, as the same attempt
    eventually(lambda: ledger.has(4, pid=staying.pid), 40)
    assert time.monotonic() - told < 25
    calm.touch()
    batch.wait(timeout=30)
    assert {1} == set(batch.frame()["attempt"])
    assert {f"{batch.id}-{index}" for index in range(4)} == set(batch.frame()["task_id"])
    assert {str(index): 2 for index in range(4)} == ledger.count()
    assert {str(index): 1 for index in range(4)} == ledger.count("end")


def test_a_worker_with_a_name_in_its_group_is_awaited_by_the_others_and_has_its_partitions_again(
    client: nexusq_sdk.Client, queue: str, crew: Crew, ledger: Ledger
) -> None:
    # given two workers with names in their Kafka group
    def start(name: str) -> Hand:
        [hand] = crew.start(queue, NEXUSQ_GROUP_INSTANCE=name, NEXUSQ_LEASE="30s")
        return hand

    staying, leaving = start("one"), start("two")
    first = submit(client, queue, ledger, 40, 0)
    first.wait(timeout=30)
    moved = staying.log.read_text().count("partitions more")

    # when one of them is stopped and started again within the session
    assert 0 == leaving.kill(signal.SIGTERM)
    back = start("two")
    again = [client.submit("TRACE", ledger.rows(1)[0], queue=queue) for _ in range(40)]
    for task in again:
        task.wait(timeout=30)

    # then it has partitions at once, and nothing has moved at the other one
    assert ledger.count(pid=back.pid)
    assert moved == staying.log.read_text().count("partitions more")
