"""Which runs a fault may have made in vain, and how soon others took over. Pure.

A task may run again only if a run of its own was at risk, and each such run explains one more:

- A worker that is killed, stopped or frozen: what it ran then, and what had ended within the last two seconds. An
  outcome is settled within milliseconds, but it waits where Redis (or, for a final failure, Kafka) is away, and dies
  with its worker: what has ended since that outage began is at risk too.
- Redis that dies: what ran anywhere then, and what had ended since its last proven write to the disk, or within the
  last two seconds: `appendfsync everysec` syncs once a second, and may be a second late. Workers write such outcomes
  again, so little of it does run again.
- Kafka, an API, or a connection that is cut: nothing. Kafka's records and the claims in Redis are all there.
"""

from __future__ import annotations

from tests.chaos.facts import FREEZE_WORKER, KILL_KAFKA, REDIS_DEATHS, STOP_WORKER, WORKER_FAULTS, Facts, Fault
from tests.chaos.ledger import Run

#: What has ended within this time before a death may not have reached Redis's disk.
UNSURE_SECONDS = 2.0
#: A fault is noted just before it is done; on a busy machine it strikes so much later.
STRIKE_SECONDS = 1.0
#: How long after Redis or Kafka died outcomes may still wait for it: until it is up, and its clients have noticed.
REDIS_AWAY_SECONDS = 8.0
KAFKA_AWAY_SECONDS = 25.0
#: A fault is alone if there is no other one within this time.
QUIET_SECONDS = 15.0


def at_risk(facts: Facts) -> dict[str, float]:
    """Name the runs that faults may have made in vain, each with the time of the first such fault."""
    risk: dict[str, float] = {}
    for run in facts.runs:
        times = [fault.at for fault in facts.faults if endangers(fault, run, facts.faults)]
        if times:
            risk[run.run] = min(times)
    return risk


def endangers(fault: Fault, run: Run, faults: list[Fault]) -> bool:
    """Whether a fault may have made a run in vain."""
    struck = fault.at + STRIKE_SECONDS
    if fault.kind in WORKER_FAULTS:
        return run.part == fault.part and run.start <= struck and _ends_after(run, _unsettled_since(fault, run, faults))
    if fault.kind in REDIS_DEATHS:
        since = fault.at - UNSURE_SECONDS if fault.since is None else min(fault.since, fault.at - UNSURE_SECONDS)
        return run.start <= struck and _ends_after(run, since)
    return False


def _unsettled_since(fault: Fault, run: Run, faults: list[Fault]) -> float:
    """Give from when on the outcomes of a worker may not be settled."""
    since = fault.at - UNSURE_SECONDS
    for other in faults:
        away = REDIS_AWAY_SECONDS if other.kind in REDIS_DEATHS else 0.0
        if other.kind == KILL_KAFKA and run.how == "fail":
            away = KAFKA_AWAY_SECONDS
        if other.at <= fault.at <= other.at + away:
            since = min(since, other.at - UNSURE_SECONDS)
    return since


def _ends_after(run: Run, since: float) -> bool:
    return run.end is None or run.end >= since


def extra_runs(runs: list[Run]) -> int:
    """Count the runs of one task that its retries do not explain: an attempt to its end again, a second success."""
    ended = [run for run in runs if run.ended]
    attempts = {run.attempt for run in ended}
    successes = {run.attempt for run in ended if run.how == "ok"}
    return len(ended) - len(attempts) + max(0, len(successes) - 1)


def explained_runs(runs: list[Run], risk: dict[str, float]) -> int:
    """Count the runs of one task that were at risk before another one was started."""
    last = max((run.start for run in runs), default=0.0)
    return sum(run.run in risk and risk[run.run] <= last and run.start < last for run in runs)


def quiet_recoveries(facts: Facts) -> list[tuple[float, str, str]]:
    """Give those after kills with no other fault around them."""
    quiet = [
        fault
        for fault in facts.faults
        if not any(abs(other.at - fault.at) < QUIET_SECONDS for other in facts.faults if other is not fault)
    ]
    return _recoveries(facts, quiet)


def recoveries(facts: Facts) -> list[tuple[float, str, str]]:
    """Give those after all kills, the slowest first."""
    return _recoveries(facts, facts.faults)


def _recoveries(facts: Facts, faults: list[Fault]) -> list[tuple[float, str, str]]:
    """Give how long each task that a worker ran when it was killed or frozen waited until another one started it."""
    by_task: dict[str, list[Run]] = {}
    for run in facts.runs:
        by_task.setdefault(run.task, []).append(run)
    found = []
    for fault in faults:
        if fault.kind not in WORKER_FAULTS or fault.kind == STOP_WORKER:
            continue
        until = fault.until if fault.kind == FREEZE_WORKER and fault.until is not None else float("inf")
        for run in facts.runs:
            if run.part == fault.part and run.start <= fault.at and (run.end is None or run.end > fault.at):
                later = [
                    other.start
                    for other in by_task[run.task]
                    if other.part != fault.part and fault.at < other.start < until
                ]
                if later:
                    found.append((min(later) - fault.at, fault.kind, run.task))
    return sorted(found, reverse=True)
