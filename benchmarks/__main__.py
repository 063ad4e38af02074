"""The command: plans a run, measures in rounds whose order rotates, prints and writes what came out."""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback

from benchmarks import machine, report
from benchmarks.peers.catalogue import PEERS
from benchmarks.post import measure_post
from benchmarks.results import Results
from benchmarks.stage import Stage
from benchmarks.systems import OWN, System
from benchmarks.talk import ROOT
from benchmarks.turns import TurnPlan, take_turn

ROWS = ("drain", "submit", "post", "latency")
TURN_ROWS = frozenset({"drain", "submit", "latency"})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="nox -s bench --", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer tasks and rounds: three minutes at the most")
    parser.add_argument("--only", default=",".join(ROWS), help=f"rows to measure, of {', '.join(ROWS)}")
    parser.add_argument("--peers", default="all", help="peers to compare with: all, none, or some")
    parser.add_argument("--rounds", type=int, help="how many rounds")
    parser.add_argument("--tasks", type=int, help="how many tasks NexusQ and the bare loop drain")
    return parser.parse_args()


def main() -> int:
    """Run it."""
    arguments = _arguments()
    os.chdir(ROOT)  # where the workers find their handlers
    rows = frozenset(arguments.only.split(","))
    tasks = arguments.tasks or (30_000 if arguments.quick else 100_000)
    rounds = arguments.rounds or (2 if arguments.quick else 5)
    results = Results(machine.describe(), {"tasks": tasks, "rounds": rounds, "quick": arguments.quick})
    chosen = {"all": PEERS, "none": {}}.get(arguments.peers) or {
        name: PEERS[name] for name in arguments.peers.split(",") if name != "none"
    }
    systems = [*OWN, *chosen.values()]
    turn = TurnPlan(rows & TURN_ROWS, tasks, 50 if arguments.quick else 100)
    began = time.monotonic()
    with Stage() as stage:
        for number in range(rounds):
            order = systems[number % len(systems) :] + systems[: number % len(systems)]
            for system in order if turn.rows else []:
                _try(system, stage, turn, results)
            if "post" in rows:
                measure_post(stage, 3.0 if arguments.quick else 6.0, results)
            print(f"round {number + 1} of {rounds}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    print(report.text(results))
    return 1 if results.failures else 0


def _try(system: System, stage: Stage, plan: TurnPlan, results: Results) -> None:
    try:
        take_turn(stage, system, plan, results)
    except Exception:
        results.failures[system.name] = traceback.format_exc()
        print(f"{system.name} failed:\n{results.failures[system.name]}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
