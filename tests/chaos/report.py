"""What a run came to: a table for people, JSON for whatever keeps it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.chaos.facts import Breach, Facts
from tests.chaos.ledger import Run
from tests.chaos.risk import at_risk, extra_runs, quiet_recoveries, recoveries

#: Stands before the tables in the documentation.
INTRODUCTION = """\
Two APIs, three workers, a Kafka broker and a Redis with an append-only file (`everysec`) on one machine. A
submitter sends tasks of all kinds, again with the same ids until a 202 comes; handlers write each run into a ledger
outside of NexusQ; what the first table names is done at random. Then everything comes to rest and is judged: each
accepted task by its state, its runs, its records and its dead letter; each batch by its counters; the offsets; the
memory of each process.

A run is *at risk* if its worker was killed, stopped or frozen, or Redis died, while it went on or within two
seconds after its end (or while its outcome waited for Redis or Kafka to come back). A task may run again only if a
run of its own was at risk before. "Redis loses what is not on its disk" plays a machine that loses power: the file
is cut back to what an fsync has covered.

`python -m nox -s chaos -- --minutes 10 --markdown docs/chaos.md` writes this page."""
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
    for title, head, rows in _tables(numbers):
        table = Table(*head, title=title)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for breach in breaches:
        console.print(f"BREACH {breach}", markup=False, highlight=False, soft_wrap=True)


def markdown(numbers: dict[str, Any]) -> str:
    """Give the tables as a page of the documentation."""
    parts = ["# A run of the chaos session", INTRODUCTION]
    for title, head, rows in _tables(numbers):
        lines = [f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows]]
        parts.append("\n".join([f"## {title}", "", *lines]))
    return "\n\n".join(parts) + "\n"


def _tables(numbers: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Give title, head and rows of each table."""
    columns = ("sent", "accepted", *STATUSES, "ran again")
    alone, slowest = numbers["slowest_quiet_recovery_seconds"], numbers["slowest_recovery_seconds"]
    found = [
        ["accepted tasks that are lost", str(numbers["lost"]), "0"],
        ["tasks that are stuck", str(numbers["stuck"]), "0"],
        ["runs that were one too many", str(numbers["ran_again"]), f"{numbers['ran_again_bound']}: those at risk"],
        ["all breaches", str(sum(numbers["breaches"].values())), "0"],
        ["slowest recovery from a single kill", "none" if alone is None else f"{alone} s", "15 s"],
        ["slowest recovery among many faults", "none" if slowest is None else f"{slowest} s", ""],
    ]
    return [
        (
            f"Faults, seed {numbers['seed']}, {numbers['minutes']:g} minutes",
            ["fault", "times"],
            [[kind, str(count)] for kind, count in numbers["faults"].items()],
        ),
        (
            "Tasks",
            ["tasks", *columns],
            [[kind, *(str(counts.get(name, 0)) for name in columns)] for kind, counts in numbers["tasks"].items()],
        ),
        ("Promises", ["promise", "found", "allowed"], found),
    ]
