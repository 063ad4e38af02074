"""The oracle of the chaos run sees every breach: facts of a good run are spoilt in one way each.

The last test is a real one: workers that lack a rule, and a few seconds of faults.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos import faults, oracle, risk
from tests.chaos.facts import (
    CRASH_REDIS,
    FREEZE_WORKER,
    KILL_API,
    KILL_KAFKA,
    KILL_WORKER,
    Facts,
    Fault,
    Memory,
    Seen,
    Sent,
    SentBatch,
)
from tests.chaos.ledger import Run

QUICK, RETRIED, FAILING, DELAYED, CANCELLED = "quick", "retried", "failing", "delayed", "cancelled"
BATCH = "batch"


def sent(name: str, fails: int = 0, **others: object) -> Sent:
    payload = {"number": 7, "seconds": 0.1, "fails": fails}
    task = Sent(name, name, "CHAOS_THREAD", payload, tried_at=100.0, accepted_at=100.1)
    return replace(task, **others)  # type: ignore[arg-type]


def state(status: str, attempt: int = 1, failed: int = 0) -> dict[str, str]:
    made = {"status": status, "attempt": str(attempt), "finishedUs": "110000000"}
    if status == "COMPLETED":
        made["result"] = json.dumps({"number": 7, "attempt": attempt})
    if failed:
        made["history"] = json.dumps([{"attempt": number} for number in range(1, failed + 1)])
    return made


def run(task: str, attempt: int = 1, how: str | None = "ok", start: float = 101.0, part: str = "worker-1.1") -> Run:
    end = None if how is None else start + 0.1
    return Run(f"{task}/{attempt}/{start}/{part}", task, attempt, part, start, end, how)


def good() -> Facts:
    """Make the facts of a run in which every promise was kept."""
    letter = {"payload": sent(FAILING, -1).payload, "error": {"type": "ValueError"}, "history": [{"attempt": 1}]}
    members = [f"{BATCH}-0", f"{BATCH}-1"]
    tasks = [
        sent(QUICK),
        sent(RETRIED, 1, max_attempts=2),
        sent(FAILING, -1, max_attempts=2),
        sent(DELAYED, delay=5.0),
        sent(CANCELLED, to_cancel=True, cancel_answer="CANCELLED", cancelled_at=100.5),
        *(sent(member, batch=BATCH) for member in members),
    ]
    return Facts(
        sent={task.task: task for task in tasks},
        batches={BATCH: SentBatch(BATCH, 2, accepted=2, closed=True)},
        runs=[
            run(QUICK),
            run(RETRIED, 1, "fail"),
            run(RETRIED, 2, start=102.0),
            run(FAILING, 1, "fail"),
            run(FAILING, 2, "fail", 102.0),
            run(DELAYED, start=105.2),
            *(run(member) for member in members),
        ],
        states={
            QUICK: state("COMPLETED"),
            RETRIED: state("COMPLETED", 2, failed=1),
            FAILING: state("FAILED", 2, failed=2),
            DELAYED: state("COMPLETED"),
            CANCELLED: state("CANCELLED", 0),
            **{member: state("COMPLETED") for member in members},
        },
        batch_states={BATCH: {"COMPLETED": "2", "size": "2", "closed": "1", "finishedUs": "1"}},
        dead={FAILING},
        letters={FAILING: [letter]},
        records={task.task: 1 for task in tasks},
        lags={"task-queue/0": (9, 9)},
        memory=[Memory("redis.1", 30.0, 50.0), Memory("redis.1", 90.0, 60.0)],
    )


def rules(facts: Facts) -> set[str]:
    return {breach.rule for breach in oracle.judge(facts)}


def test_a_run_that_kept_every_promise_has_no_breach() -> None:
    assert [] == oracle.judge(good())


def forget_a_task(facts: Facts) -> None:
    del facts.states[QUICK]


def lose_a_record(facts: Facts) -> None:
    facts.records[QUICK] = 0


def leave_a_task_queued(facts: Facts) -> None:
    facts.states[QUICK]["status"] = "QUEUED"


def leave_a_task_in_the_due_set(facts: Facts) -> None:
    facts.due.add(RETRIED)


def fail_a_good_task(facts: Facts) -> None:
    facts.states[QUICK] = state("FAILED")


def complete_a_failing_task(facts: Facts) -> None:
    facts.states[FAILING] = state("COMPLETED", 2)


def cancel_what_nobody_cancelled(facts: Facts) -> None:
    facts.states[QUICK]["status"] = "CANCELLED"


def overwrite_a_result_by_a_zombies(facts: Facts) -> None:
    facts.states[RETRIED]["result"] = json.dumps({"number": 7, "attempt": 1})


def complete_a_task_that_never_ran(facts: Facts) -> None:
    facts.runs = [entry for entry in facts.runs if entry.task != QUICK]


def try_too_seldom(facts: Facts) -> None:
    facts.states[FAILING] = state("FAILED", 1, failed=1)


def try_too_often(facts: Facts) -> None:
    facts.states[FAILING] = state("FAILED", 3, failed=3)
    facts.runs.append(run(FAILING, 3, "fail", 103.0))


def count_an_attempt_that_never_was(facts: Facts) -> None:
    facts.runs = [entry for entry in facts.runs if (entry.task, entry.attempt) != (RETRIED, 1)]


def forget_a_failure(facts: Facts) -> None:
    del facts.states[RETRIED]["history"]


def list_a_failure_twice(facts: Facts) -> None:
    facts.states[RETRIED]["history"] = json.dumps([{"attempt": 1}, {"attempt": 1}])


def lose_a_dead_letter(facts: Facts) -> None:
    facts.letters.clear()


def lose_it_from_the_list(facts: Facts) -> None:
    facts.dead.clear()


def put_another_payload_into_it(facts: Facts) -> None:
    facts.letters[FAILING][0]["payload"] = {"number": 8}


def bury_a_living_task(facts: Facts) -> None:
    facts.dead.add(QUICK)


def bury_a_living_task_on_the_topic(facts: Facts) -> None:
    facts.letters[QUICK] = facts.letters[FAILING]


def run_a_task_twice(facts: Facts) -> None:
    facts.runs.append(run(QUICK, start=103.0, part="worker-2.1"))


def run_a_delayed_task_at_once(facts: Facts) -> None:
    facts.runs = [entry for entry in facts.runs if entry.task != DELAYED] + [run(DELAYED, start=101.0)]


def run_a_cancelled_task(facts: Facts) -> None:
    facts.runs.append(run(CANCELLED, start=103.0))


def forget_a_cancel(facts: Facts) -> None:
    facts.states[CANCELLED] = state("COMPLETED")
    facts.runs.append(run(CANCELLED))


def count_an_outcome_twice(facts: Facts) -> None:
    facts.batch_states[BATCH] |= {"COMPLETED": "3", "IN_PROGRESS": "-1"}


def leave_a_batch_open(facts: Facts) -> None:
    del facts.batch_states[BATCH]["closed"]


def leave_a_batch_unfinished(facts: Facts) -> None:
    del facts.batch_states[BATCH]["finishedUs"]


def stop_committing(facts: Facts) -> None:
    facts.lags["task-queue/0"] = (8, 9)


def make_a_task_up(facts: Facts) -> None:
    facts.states["another"] = state("COMPLETED")


def grow(facts: Facts) -> None:
    facts.memory.append(Memory("redis.1", 120.0, 201.0))


def write_an_end_again(facts: Facts) -> None:
    facts.witnessed[QUICK] = Seen(103.0, "COMPLETED", 1, 109000000)


def lose_a_handler(facts: Facts) -> None:
    facts.runs.append(run(QUICK, how=None, start=100.5))


def take_over_late(facts: Facts) -> None:
    facts.faults.append(Fault(101.05, KILL_WORKER, "worker-1.1"))
    facts.runs = [entry for entry in facts.runs if entry.task != QUICK]
    facts.runs += [run(QUICK, how=None), run(QUICK, start=117.0, part="worker-2.1")]


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (forget_a_task, "lost"),
        (lose_a_record, "lost"),
        (leave_a_task_queued, "stuck"),
        (leave_a_task_in_the_due_set, "stuck"),
        (fail_a_good_task, "wrong end"),
        (complete_a_failing_task, "wrong end"),
        (cancel_what_nobody_cancelled, "wrong end"),
        (overwrite_a_result_by_a_zombies, "wrong result"),
        (complete_a_task_that_never_ran, "wrong result"),
        (try_too_seldom, "wrong count"),
        (try_too_often, "wrong count"),
        (count_an_attempt_that_never_was, "wrong count"),
        (forget_a_failure, "wrong history"),
        (list_a_failure_twice, "wrong history"),
        (lose_a_dead_letter, "wrong dead letter"),
        (lose_it_from_the_list, "wrong dead letter"),
        (put_another_payload_into_it, "wrong dead letter"),
        (bury_a_living_task, "wrong dead letter"),
        (bury_a_living_task_on_the_topic, "wrong dead letter"),
        (run_a_task_twice, "ran again"),
        (run_a_delayed_task_at_once, "too early"),
        (run_a_cancelled_task, "cancel forgotten"),
        (forget_a_cancel, "cancel forgotten"),
        (count_an_outcome_twice, "wrong counters"),
        (leave_a_batch_open, "not closed"),
        (leave_a_batch_unfinished, "not finished"),
        (stop_committing, "not committed"),
        (make_a_task_up, "invented"),
        (grow, "grows"),
        (write_an_end_again, "ended twice"),
        (lose_a_handler, "vanished"),
        (take_over_late, "late"),
    ],
)
def test_a_broken_promise_is_seen(spoil: Callable[[Facts], None], rule: str) -> None:
    # given a good run
    facts = good()

    # when it is spoilt in one way
    spoil(facts)

    # then that is what is found
    assert rule in rules(facts)


@pytest.mark.parametrize(
    ("kind", "at", "part", "explained"),
    [
        (KILL_WORKER, 101.05, "worker-1.1", True),  # while it ran
        (KILL_WORKER, 102.0, "worker-1.1", True),  # a second after its end
        (KILL_WORKER, 104.0, "worker-1.1", False),  # long after its end
        (KILL_WORKER, 101.05, "worker-2.1", False),  # of another worker
        (FREEZE_WORKER, 101.05, "worker-1.1", True),
        (CRASH_REDIS, 102.0, "redis.1", True),
        (CRASH_REDIS, 104.0, "redis.1", False),
        (KILL_KAFKA, 101.05, "kafka.1", False),
        (KILL_API, 101.05, "api-1.1", False),
    ],
)
def test_a_second_run_is_explained_by_a_fault_that_put_the_first_at_risk(
    kind: str, at: float, part: str, explained: bool
) -> None:
    facts = good()
    run_a_task_twice(facts)

    facts.faults.append(Fault(at, kind, part))

    assert ("ran again" not in rules(facts)) == explained


def test_an_end_that_redis_may_have_lost_may_be_written_again() -> None:
    facts = good()
    write_an_end_again(facts)

    facts.faults.append(Fault(104.0, CRASH_REDIS, "redis.1"))

    assert "ended twice" not in rules(facts)


def test_an_outcome_that_waited_for_redis_is_at_risk_when_its_worker_dies() -> None:
    waited = run(QUICK)
    died = Fault(105.0, KILL_WORKER, "worker-1.1")

    assert not risk.endangers(died, waited, [died])
    assert risk.endangers(died, waited, [died, Fault(100.5, CRASH_REDIS, "redis.1")])


def test_a_recovery_is_the_time_from_a_kill_to_the_next_start_elsewhere() -> None:
    facts = good()
    facts.runs = [run(QUICK, how=None), run(QUICK, 2, start=109.0, part="worker-2.1")]
    facts.faults = [Fault(102.0, KILL_WORKER, "worker-1.1")]

    assert [(7.0, KILL_WORKER, QUICK)] == risk.recoveries(facts)


def test_a_seed_gives_the_same_plan_which_makes_up_for_every_fault() -> None:
    plan = faults.plan(5, 600)

    assert plan == faults.plan(5, 600)
    assert plan != faults.plan(6, 600)
    assert set(faults.DECK) == {step.kind for step in plan}
    harmed = [(step.kind, step.part) for step in plan if not step.ends and step.part and step.kind != faults.CUT_REDIS]
    assert sorted(harmed) == sorted((step.kind, step.part) for step in plan if step.ends)


def test_workers_that_forget_retries_are_caught(tmp_path: Path) -> None:
    # given workers that call a failed task SCHEDULED and put it nowhere
    words = ("--break", "forget-retry", "--minutes", "0.1", "--rest", "5", "--seed", "1")

    # when they run for some seconds
    command = [sys.executable, "-m", "tests.chaos", *words, "--json", str(tmp_path / "numbers.json")]
    ended = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )

    # then the run fails, and names the tasks that are stuck
    assert 1 == ended.returncode, ended.stdout + ended.stderr
    assert "BREACH stuck: " in ended.stdout
    assert "is SCHEDULED" in ended.stdout
    assert {"stuck"} <= set(json.loads((tmp_path / "numbers.json").read_text())["breaches"])
