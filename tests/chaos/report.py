"""What a run came to: a table for people, JSON for whatever keeps it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.chaos.facts import Breach, Facts
from tests.chaos.ledger import Run
from tests.chaos.risk import at_risk, extra_runs, quiet_recoveries, recoveries

STATUSES = ("COMPLETED", "FAILED", "CANCELLED")


def summary(facts: Facts, breaches: list[Breach], seed: int, minutes: float) -> dict[str, Any]:
    """Put the numbers together."""
    runs: dict[str, list[Run]] = {}
    for run in facts.runs:
        runs.setdefault(run.task, []).append(run)
    kinds: dict[str, Counter[str]] = {}
    for task in facts.sent.values():
        counts = kinds.setdefault(task.kind, Counter())
        counts["sent"] += 1
        counts["accepted"] += task.accepted_at is not None
        counts[facts.states.get(task.task, {}).get("status", "unknown")] += 1
        counts["ran again"] += extra_runs(runs.get(task.task, []))
    slowest, quiet = recoveries(facts)[:1], quiet_recoveries(facts)[:1]
    broken = Counter(breach.rule for breach in breaches)
    return {
        "seed": seed,
        "minutes": minutes,
        "faults": dict(sorted(Counter(fault.kind for fault in facts.faults).items())),
        "tasks": {kind: dict(counts) for kind, counts in sorted(kinds.items())},
        "accepted": sum(counts["accepted"] for counts in kinds.values()),
        "batches": len(facts.batches),
        "runs": len(facts.runs),
        "lost": broken["lost"],
        "stuck": broken["stuck"],
        "ran_again": sum(counts["ran again"] for counts in kinds.values()),
        "ran_again_bound": len(at_risk(facts)),
        "slowest_recovery_seconds": round(slowest[0][0], 1) if slowest else None,
        "slowest_recovery_after": slowest[0][1] if slowest else None,
        "slowest_quiet_recovery_seconds": round(quiet[0][0], 1) if quiet else None,
        "breaches": dict(sorted(broken.items())),
    }


def show(numbers: dict[str, Any], breaches: list[Breach], console: Console) -> None:
    """Print the tables, then a line for each breach."""
    faults = Table("fault", "times", title=f"Faults, seed {numbers['seed']}, {numbers['minutes']:g} minutes")
    for kind, count in numbers["faults"].items():
        faults.add_row(kind, str(count))
    tasks = Table("tasks", "sent", "accepted", *STATUSES, "ran again")
    for kind, counts in numbers["tasks"].items():
        tasks.add_row(kind, *(str(counts.get(name, 0)) for name in ("sent", "accepted", *STATUSES, "ran again")))
    result = Table("promise", "found", "allowed")
    result.add_row("accepted tasks that are lost", str(numbers["lost"]), "0")
    result.add_row("tasks that are stuck", str(numbers["stuck"]), "0")
    result.add_row("runs to the end that were one too many", str(numbers["ran_again"]), str(numbers["ran_again_bound"]))
    result.add_row("all breaches", str(sum(numbers["breaches"].values())), "0")
    slowest, after = numbers["slowest_recovery_seconds"], numbers["slowest_recovery_after"]
    alone = numbers["slowest_quiet_recovery_seconds"]
    result.add_row("slowest recovery from a single kill", "none" if alone is None else f"{alone} s", "15 s")
    result.add_row("slowest recovery of all", "none" if slowest is None else f"{slowest} s after {after}", "")
    for table in (faults, tasks, result):
        console.print(table)
    for breach in breaches:
        console.print(f"BREACH {breach}", markup=False, highlight=False, soft_wrap=True)
