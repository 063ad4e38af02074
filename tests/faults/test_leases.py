"""Workers that are frozen, that let nothing else run, or whose keeper dies: nobody is taken for dead who lives."""

from __future__ import annotations

import collections
import signal

import nexusq_sdk
from tests.conftest import eventually
from tests.faults.parts import SHORT, Crew, Ledger


def test_a_frozen_workers_tasks_run_elsewhere_and_its_late_results_are_dropped(
    client: nexusq_sdk.Client, queue: str, crew: Crew, ledger: Ledger
) -> None:
    # given two workers, one of which runs tasks
    hands = crew.start(queue, count=2, **SHORT)
    batch = client.submit_batch("TRACE", ledger.rows(8, 1), queue=queue)
    eventually(lambda: ledger.has(8))
    frozen, other = hands if hands[0].pid == ledger.runs()[0].pid else hands[::-1]

    # when it is frozen for longer than its lease; then its tasks run elsewhere, as another attempt
    frozen.send(signal.SIGSTOP)
    mine = set(ledger.count(pid=frozen.pid) - ledger.count("end"))
    assert mine
    try:
        batch.wait(timeout=25)
        assert mine <= {run.line for run in ledger.runs() if run.pid == other.pid and run.attempt == 2}
    finally:
        frozen.send(signal.SIGCONT)

    # when it thaws; then what it says of these tasks changes nothing
    eventually(lambda: ledger.has(len(mine), "end", frozen.pid))
    eventually(lambda: dropped(frozen.log.read_text()))
    counts = batch.counts()
    assert 8 == counts["COMPLETED"] == sum(counts.values())
    for line in mine:
        info = client.task(f"{batch.id}-{line}").info()
        assert (other.id, 2) == (info.worker, info.attempt)

    # and it goes on working: alone, it runs what is submitted now
    other.kill(signal.SIGTERM)
    assert frozen.pid == client.submit("TRACE", ledger.rows(1)[0], queue=queue).result(timeout=20)


def test_what_a_frozen_worker_had_claimed_and_not_started_is_not_run_when_it_thaws(
    client: nexusq_sdk.Client, queue: str, crew: Crew, ledger: Ledger
) -> None:
    # given a worker with one thread, which claims a few tasks ahead since they have been quick
    [frozen] = crew.start(queue, **SHORT, NEXUSQ_CONCURRENCY="1")
    client.submit_batch("TRACE", ledger.rows(200), queue=queue).wait(timeout=20)
    before = ledger.count()
    rows = [row | {"line": f"slow-{row['line']}"} for row in ledger.rows(20, 0.5)]
    batch = client.submit_batch("TRACE", rows, queue=queue)
    eventually(lambda: started(ledger, before, 1))
    eventually(lambda: has_more_than_it_runs(batch))

    # when it is frozen for longer than its lease, and another one runs them all
    frozen.send(signal.SIGSTOP)
    crew.start(queue, **SHORT)
    try:
        batch.wait(timeout=40)
    finally:
        frozen.send(signal.SIGCONT)

    # then it runs none of them when it thaws, only what it claims anew
    def works_again() -> None:
        more = client.submit_batch("TRACE", [row | {"line": "more"} for row in ledger.rows(16)], queue=queue)
        more.wait(timeout=20)
        assert ledger.count(pid=frozen.pid)["more"] > 0

    eventually(works_again)
    again = {line: count for line, count in ledger.count().items() if line.startswith("slow-") and count > 1}
    assert 1 == len(again), "the one that had started"


def test_what_a_worker_without_a_lease_may_not_start_is_queued_again_at_once(
    client: nexusq_sdk.Client, queue: str, crew: Crew, ledger: Ledger
) -> None:
    # given a worker with one thread, which has claimed a few tasks ahead since they have been quick
    [hand] = crew.start(queue, **SHORT, NEXUSQ_CONCURRENCY="1")
    client.submit_batch("TRACE", ledger.rows(200), queue=queue).wait(timeout=20)
    before = ledger.count()
    rows = [row | {"line": f"slow-{row['line']}"} for row in ledger.rows(20, 0.5)]
    batch = client.submit_batch("TRACE", rows, queue=queue)
    eventually(lambda: started(ledger, before, 1))
    eventually(lambda: has_more_than_it_runs(batch))

    # when its lease runs out; then it has nothing in hand that others would wait for, alive as it is
    keeper = hand.keeper()
    keeper.suspend()
    try:
        eventually(lambda: holds_nothing(batch), 30)
    finally:
        keeper.resume()

    # and it runs all of them once it has a lease again: each once, as the first attempt
    batch.wait(timeout=30)
    ran = {run.line: run.attempt for run in ledger.runs() if run.line.startswith("slow-")}
    assert dict.fromkeys((row["line"] for row in rows), 1) == ran
    assert {1} == {count for line, count in ledger.count().items() if line.startswith("slow-")}


def has_more_than_it_runs(batch: nexusq_sdk.Batch) -> None:
    assert batch.counts()["IN_PROGRESS"] > 1


def holds_nothing(batch: nexusq_sdk.Batch) -> None:
    counts = batch.counts()
    assert counts["QUEUED"] > 0 == counts["IN_PROGRESS"], counts


def started(ledger: Ledger, before: collections.Counter[str], count: int) -> None:
    assert (ledger.count() - before).total() >= count


def dropped(log: str) -> None:
    assert "outcomes were dropped" in log, log


def test_a_handler_that_lets_nothing_else_run_is_neither_taken_for_dead_nor_run_twice(
    client: nexusq_sdk.Client, queue: str, crew: Crew, ledger: Ledger
) -> None:
    # given a handler that holds the interpreter's lock for longer than its worker's lease and its Kafka session
    hands = crew.start(queue, count=2, **SHORT)
    row = {"path": str(ledger.path), "line": "held", "seconds": 9}
    task = client.submit("HOLD_GIL", row, queue=queue)

    # when more is submitted meanwhile, to the partitions of both
    batch = client.submit_batch("TRACE", ledger.rows(40), queue=queue)
    task.wait(timeout=25)
    batch.wait(timeout=25)

    # then it ran once, under the worker that started it, and so did all else
    assert {"held": 1} | {str(index): 1 for index in range(40)} == ledger.count("end")
    assert 1 == task.info().attempt
    busy, other = hands if hands[0].pid == task.result() else hands[::-1]
    assert busy.pid == task.result()

    # and that worker goes on working
    other.kill(signal.SIGTERM)
    assert busy.pid == client.submit("TRACE", ledger.rows(1)[0], queue=queue).result(timeout=20)


def test_a_killed_keeper_is_replaced_and_nothing_is_lost(
    client: nexusq_sdk.Client, queue: str, crew: Crew, ledger: Ledger
) -> None:
    # given two workers with tasks of twice a lease in each
    hands = crew.start(queue, count=2, **SHORT, NEXUSQ_CONCURRENCY="4")
    batch = client.submit_batch("TRACE", ledger.rows(8, 6), queue=queue)
    eventually(lambda: ledger.has(8))

    # when the keepers of both are killed
    before = [hand.keeper() for hand in hands]
    for keeper in before:
        keeper.kill()

    def others_are_there() -> None:
        assert all(hand.keeper().pid != keeper.pid for hand, keeper in zip(hands, before, strict=True))

    # then others keep the leases, and every task runs once
    eventually(others_are_there)
    batch.wait(timeout=20)
    assert {str(index): 1 for index in range(8)} == ledger.count()
    assert {1} == set(batch.frame()["attempt"])
