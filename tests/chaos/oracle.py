"""Judges a run: every promise as a function from the facts to its breaches. Pure: nothing here asks anyone.

What faults may do to a task's runs stands in `risk`; what each function promises, in its name and its docstring.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

from nexusq_sdk.protocol.words import TERMINAL, Status
from tests.chaos.facts import REDIS_DEATHS, WORKER_FAULTS, Breach, Facts, Sent
from tests.chaos.ledger import Run
from tests.chaos.risk import UNSURE_SECONDS, at_risk, explained_runs, extra_runs, quiet_recoveries

#: A process is looked at from this age on; it may then double, and grow by so much more.
WARM_SECONDS, GROWTH, GROWTH_MIB = 20.0, 2.0, 100.0
#: The clocks of two processes on one machine are the same; what lies between reading one and acting is not.
SLACK_SECONDS = 0.1
#: What is promised at the default lease of ten seconds.
RECOVERY_SECONDS = 15.0


def judge(facts: Facts) -> list[Breach]:
    """Give every breach of every promise."""
    runs: dict[str, list[Run]] = {}
    for run in sorted(facts.runs, key=lambda run: run.start):
        runs.setdefault(run.task, []).append(run)  # in the order in which they started
    risk = at_risk(facts)
    breaches = list(_nothing_is_left_over(facts))
    for task in facts.sent.values():
        own = runs.get(task.task, [])
        found = list(_it_has_ended_right(task, facts))
        if not found:
            found += _its_result_is_that_of_its_attempt(task, facts, own)
            found += _its_attempts_are_counted_right(task, facts, own)
            found += _its_history_is_right(task, facts, own, risk)
            found += _its_dead_letter_is_right(task, facts)
            found += _its_handler_comes_to_an_end(task, facts, own)
        found += _it_ran_again_only_where_a_fault_explains_it(task, own, risk)
        found += _it_did_not_run_too_early(task, own)
        found += _what_was_answered_to_a_cancel_holds(task, facts, own)
        found += _its_end_stays(task, facts)
        known = _known(task, facts, own)
        breaches += [Breach(rule, f"{task.task} ({task.kind})" + what, known) for rule, what in found]
    for batch in facts.batches:
        breaches += _the_batch_adds_up(batch, facts)
    breaches += _others_take_over_in_time(facts)
    breaches += _no_process_grows_without_bound(facts)
    return breaches


Found = Iterator[tuple[str, str]]


def _nothing_is_left_over(facts: Facts) -> Iterator[Breach]:
    """Nothing waits, nothing is there that nobody sent, offsets are at the end, nobody ended or refused by itself."""
    for name in sorted(facts.due):
        yield Breach("stuck", f"{name} is still in the due set", json.dumps(facts.states.get(name, {})))
    for name in sorted(set(facts.states) - set(facts.sent)):
        yield Breach("invented", f"{name} was never sent", json.dumps(facts.states[name]))
    for name, (committed, end) in sorted(facts.lags.items()):
        if committed != end:
            yield Breach("not committed", f"{name}: committed up to {committed}, its end is {end}")
    for what in facts.refusals:
        yield Breach("refused", what)
    for what in facts.ended_alone:
        yield Breach("ended by itself", what)
    for name in sorted(set(facts.letters) - set(facts.sent)):
        yield Breach("invented", f"there is a dead letter of {name}", json.dumps(facts.letters[name])[:500])


def _it_has_ended_right(task: Sent, facts: Facts) -> Found:
    """A task that was answered with 202 is there, in Kafka and in Redis, and has the end that its kind demands."""
    state = facts.states.get(task.task)
    if task.accepted_at is not None and not facts.records.get(task.task):
        yield "lost", ": it was accepted and is on no topic"
    if state is None:
        if task.accepted_at is not None:
            yield "lost", ": it was accepted and Redis does not know it"
        return
    status = state.get("status", "none")
    wanted = {Status.FAILED} if task.fails < 0 else {Status.COMPLETED}
    if task.to_cancel:
        wanted.add(Status.CANCELLED)
    if status not in TERMINAL:
        yield "stuck", f" is {status}"
    elif status not in wanted:
        yield "wrong end", f" is {status}, expected {' or '.join(sorted(wanted))}"


def _its_result_is_that_of_its_attempt(task: Sent, facts: Facts, runs: list[Run]) -> Found:
    """The result of a completed task is what its handler returned in the attempt that the state names."""
    state = facts.states.get(task.task, {})
    if state.get("status") != Status.COMPLETED:
        return
    attempt = int(state.get("attempt", 0))
    wanted = {"number": task.payload["number"], "attempt": attempt}
    if json.loads(state.get("result", "null")) != wanted:
        yield "wrong result", f": expected {wanted}, got {state.get('result')}"
    if not any(run.how == "ok" and run.attempt == attempt for run in runs):
        yield "wrong result", f": attempt {attempt} has completed, and the ledger knows of no such run"


def _its_attempts_are_counted_right(task: Sent, facts: Facts, runs: list[Run]) -> Found:
    """It was tried as often as it was to be; an attempt without an end is one that the death of a worker cut short."""
    state = facts.states.get(task.task, {})
    status, attempt = state.get("status"), int(state.get("attempt", 0))
    if status not in {Status.COMPLETED, Status.FAILED}:
        return
    life = task.tried_at, int(state.get("finishedUs", 0)) / 1e6
    deaths = sum(fault.kind in WORKER_FAULTS and life[0] <= fault.at <= life[1] for fault in facts.faults)
    needed = task.max_attempts if status == Status.FAILED else task.fails + 1
    if not needed <= attempt <= needed + deaths:
        yield (
            "wrong count",
            f" ended at attempt {attempt}, expected {needed}, or up to {deaths} more by workers' deaths",
        )
    cut_short = set(range(1, attempt + 1)) - {run.attempt for run in runs if run.ended}
    if len(cut_short) > deaths:
        yield "wrong count", f": attempts {sorted(cut_short)} have no end in the ledger, and {deaths} workers died"


def _its_history_is_right(task: Sent, facts: Facts, runs: list[Run], risk: dict[str, float]) -> Found:
    """Its history holds each attempt that failed, once."""
    state = facts.states.get(task.task, {})
    listed = Counter(entry["attempt"] for entry in json.loads(state.get("history", "[]")))
    failed = [run for run in runs if run.how == "fail"]
    for attempt, count in listed.items():
        if count > 1:
            yield "wrong history", f": attempt {attempt} is in its history {count} times"
        if not any(run.attempt == attempt for run in failed):
            yield "wrong history", f": attempt {attempt} is in its history, and the ledger knows of no such failure"
    for run in failed:
        if run.attempt not in listed and run.run not in risk and state.get("status") != Status.CANCELLED:
            yield "wrong history", f": attempt {run.attempt} failed and is not in its history"


def _its_dead_letter_is_right(task: Sent, facts: Facts) -> Found:
    """A task that failed for good has a dead letter, in the list and on the topic, with all that is known of it."""
    state = facts.states.get(task.task, {})
    letters = facts.letters.get(task.task, [])
    if state.get("status") != Status.FAILED:
        if task.task in facts.dead:
            yield "wrong dead letter", f" is in the list of dead letters and {state.get('status')}"
        if letters and task.fails >= 0:
            yield "wrong dead letter", f" has a dead letter on the topic and is {state.get('status')}"
        return
    if task.task not in facts.dead:
        yield "wrong dead letter", " has failed and is not in the list of dead letters"
    if not letters:
        yield "wrong dead letter", " has failed and has no dead letter on the topic"
    for letter in letters:
        if letter.get("payload") != task.payload:
            yield "wrong dead letter", f": its letter has the payload {letter.get('payload')}"
        if letter.get("error", {}).get("type") != "ValueError":
            yield "wrong dead letter", f": its letter has the error {letter.get('error')}"
        if not letter.get("history"):
            yield "wrong dead letter", ": its letter has no history"


def _it_ran_again_only_where_a_fault_explains_it(task: Sent, runs: list[Run], risk: dict[str, float]) -> Found:
    """Each run that is one too many is explained by an earlier run of the same task that a fault put at risk."""
    extra, explained = extra_runs(runs), explained_runs(runs, risk)
    if extra > explained:
        yield "ran again", f": {extra} runs are too many, and faults explain {explained}"


def _it_did_not_run_too_early(task: Sent, runs: list[Run]) -> Found:
    """A delayed task waits for its time."""
    if runs and task.delay and runs[0].start < task.tried_at + task.delay - SLACK_SECONDS:
        yield "too early", f": it was to wait {task.delay:g} s and started after {runs[0].start - task.tried_at:.2f} s"


def _what_was_answered_to_a_cancel_holds(task: Sent, facts: Facts, runs: list[Run]) -> Found:
    """A task that was answered to be CANCELLED stays that and never starts: the answer comes once it is on disk."""
    if task.cancel_answer != Status.CANCELLED or task.cancelled_at is None:
        return
    status = facts.states.get(task.task, {}).get("status")
    if status != Status.CANCELLED:
        yield "cancel forgotten", f": it was answered to be CANCELLED and is {status}"
    if any(run.start > task.cancelled_at + SLACK_SECONDS for run in runs):
        yield "cancel forgotten", ": it was answered to be CANCELLED and started after that"


def _its_end_stays(task: Sent, facts: Facts) -> Found:
    """An end that was seen is never changed, unless Redis died before it had it on disk."""
    seen, state = facts.witnessed.get(task.task), facts.states.get(task.task)
    if seen is None or state is None:
        return
    times = (fault.at for fault in facts.faults if fault.kind in REDIS_DEATHS)
    if any(seen.at - SLACK_SECONDS <= at <= seen.at + UNSURE_SECONDS for at in times):
        return
    now = state.get("status"), int(state.get("attempt", 0)), int(state.get("finishedUs", 0))
    if now != (seen.status, seen.attempt, seen.finished_us):
        yield "ended twice", f": {seen} was seen, and now there is {now}"


def _its_handler_comes_to_an_end(task: Sent, facts: Facts, runs: list[Run]) -> Found:
    """A handler that has started ends, unless its worker was killed or stopped, or its task cancelled."""
    for run in runs:
        if run.end is None and not task.to_cancel:
            harmed = any(fault.kind in WORKER_FAULTS and fault.part == run.part for fault in facts.faults)
            if not harmed:
                yield "vanished", f": attempt {run.attempt} started in {run.part} and never ended"


def _others_take_over_in_time(facts: Facts) -> Iterator[Breach]:
    """What a killed worker ran is started elsewhere within 15 seconds, where nothing else was amiss."""
    for seconds, kind, name in quiet_recoveries(facts):
        if seconds > RECOVERY_SECONDS:
            yield Breach("late", f"{name} was started elsewhere {seconds:.1f} s after {kind}")


def _the_batch_adds_up(name: str, facts: Facts) -> Iterator[Breach]:
    """A batch's counters are its tasks' states; once all its chunks were accepted it is closed, and finished."""
    batch, state = facts.batches[name], facts.batch_states.get(name)
    if state is None:
        if batch.accepted:
            yield Breach(
                "lost", f"batch {name}: {batch.accepted} of its tasks were accepted and Redis does not know it"
            )
        return
    members = [task.task for task in facts.sent.values() if task.batch == name]
    real = Counter(facts.states[member]["status"] for member in members if member in facts.states)
    counted = {status.value: int(state.get(status.value, 0)) for status in Status}
    if any(counted[status] != real.get(status, 0) for status in counted):
        said = {status: count for status, count in counted.items() if count}
        yield Breach("wrong counters", f"batch {name} counts {said}, its tasks are {dict(real)}", json.dumps(state))
    if batch.closed:
        if state.get("closed") != "1" or int(state.get("size", 0)) != batch.size:
            yield Breach("not closed", f"batch {name}: all its {batch.size} tasks were accepted", json.dumps(state))
        elif "finishedUs" not in state:
            yield Breach("not finished", f"batch {name}: it is closed and its tasks have ended", json.dumps(state))


def _no_process_grows_without_bound(facts: Facts) -> Iterator[Breach]:
    """Whoever lives on holds at its end no more than twice what it held once it was warm, and 100 MiB."""
    first: dict[str, float] = {}
    last: dict[str, float] = {}
    for entry in facts.memory:
        if entry.age >= WARM_SECONDS:
            first.setdefault(entry.part, entry.rss_mib)
            last[entry.part] = entry.rss_mib
    for part, end in last.items():
        if end > first[part] * GROWTH + GROWTH_MIB:
            yield Breach("grows", f"{part} held {first[part]:.0f} MiB once it was warm, and {end:.0f} MiB at the end")


def _known(task: Sent, facts: Facts, runs: list[Run]) -> str:
    """Tell what is known of a task, for whoever has to find out why."""
    state = {field: value[:300] for field, value in facts.states.get(task.task, {}).items()}
    lines = [f"sent {task.tried_at:.3f}, accepted {task.accepted_at}, max_attempts {task.max_attempts}"]
    lines += [f"cancelled {task.cancelled_at}: {task.cancel_answer}"] if task.to_cancel else []
    lines += [f"records {facts.records.get(task.task, 0)}, letters {len(facts.letters.get(task.task, []))}"]
    lines += [f"state {json.dumps(state)}"]
    lines += [f"run {r.attempt} in {r.part}: {r.start:.3f} to {r.end and round(r.end, 3)}: {r.how}" for r in runs]
    first = task.tried_at - UNSURE_SECONDS
    until = max([run.end or run.start for run in runs], default=task.tried_at) + 30
    near = [f for f in facts.faults if first <= f.at <= until and (f.kind in REDIS_DEATHS | WORKER_FAULTS)]
    lines += [f"fault {fault.at:.3f} {fault.kind} {fault.part}" for fault in near]
    return "\n    ".join(lines)
