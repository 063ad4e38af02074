"""What can be measured: the rows by name, how much of each a run has, and the rounds."""

from __future__ import annotations

import functools
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.cpu import measure_cpu
from benchmarks.million import measure_million
from benchmarks.partitions import measure_partitions
from benchmarks.post import measure_post
from benchmarks.results import Results
from benchmarks.scaling import measure_scaling
from benchmarks.soak import measure_soak
from benchmarks.stage import Stage
from benchmarks.systems import System
from benchmarks.turns import TURN_ROWS, TurnPlan, take_turn, takes_part

#: Measured round by round, beside each other; and those measured once, after the rounds.
IN_ROUNDS = ("drain", "submit", "latency", "frame", "budget", "post", "cpu")
ONCE = ("million", "scaling", "partitions")
ROWS = (*IN_ROUNDS, *ONCE)


@dataclass(frozen=True)
class Plan:
    """How much of each row."""

    rows: frozenset[str]
    rounds: int
    tasks: int
    pings: int
    post_seconds: float
    cpu_turns: int
    scaling_seconds: float
    million: int
    soak_minutes: float = 0.0


def run(stage: Stage, systems: Sequence[System], plan: Plan, results: Results) -> None:
    """Measure what the plan says. What fails is told and noted, and the rest goes on."""
    began = time.monotonic()
    turn = TurnPlan(plan.rows & TURN_ROWS, plan.tasks, plan.pings)
    taking_part = [system for system in systems if takes_part(system, turn.rows)]
    for number in range(plan.rounds if plan.rows & set(IN_ROUNDS) else 0):
        # Nobody is always first, or always behind the same one.
        at = number % len(taking_part) if taking_part else 0
        for system in taking_part[at:] + taking_part[:at]:
            _try(system.name, results, functools.partial(take_turn, stage, system, turn, results))
        if "post" in plan.rows:
            _try("post", results, lambda: measure_post(stage, plan.post_seconds, results))
        if "cpu" in plan.rows:
            _try("cpu", results, lambda: measure_cpu(stage, plan.cpu_turns, results))
        _say(f"round {number + 1} of {plan.rounds}", began)
    if "scaling" in plan.rows:
        _try("scaling", results, lambda: measure_scaling(stage, plan.scaling_seconds, results))
        _say("scaling", began)
    if "partitions" in plan.rows:
        _try("partitions", results, lambda: measure_partitions(stage, plan.tasks, results))
        _say("partitions", began)
    if "million" in plan.rows:
        _try("million", results, lambda: measure_million(stage, plan.million, results))
        _say("million", began)
    if plan.soak_minutes:
        _try("soak", results, lambda: measure_soak(stage, plan.soak_minutes, results))


def _say(what: str, began: float) -> None:
    print(f"{what}: {time.monotonic() - began:.0f} s", file=sys.stderr)


def _try(name: str, results: Results, measure: Callable[[], None]) -> None:
    try:
        measure()
    except Exception as error:
        results.failures[name] = f"{type(error).__name__}: {error}"
        print(f"{name} failed:\n{traceback.format_exc()}", file=sys.stderr)
