"""The work that every system is given: a task that does nothing, its payload of ~100 bytes, its result of ~30."""

from __future__ import annotations

import time
from typing import Any

#: Tasks that are run before the clock starts: connections are made, scripts are loaded.
WARM_UP = 10
#: How many units of `burn` take about a millisecond; the same number is given to everyone that is compared.
PROBE = 20_000


def payload(index: int) -> dict[str, Any]:
    """Give a payload: 100 bytes as JSON, within a few."""
    return {"customer": f"customer-{index:08d}", "template": "monthly-statement", "month": "2026-01", "pages": 4}


def rows(count: int) -> dict[str, list[Any]]:
    """Give the payloads as columns: what a DataFrame is made of without a dict for each row."""
    columns: dict[str, list[Any]] = {name: [] for name in payload(0)}
    for index in range(count):
        for name, value in payload(index).items():
            columns[name].append(value)
    return columns


def result(index: int) -> dict[str, Any]:
    """Give a result: 30 bytes as JSON, within a few."""
    return {"status": "SENT", "pages": index % 10}


def noop(customer: str, template: str, month: str, pages: int) -> dict[str, Any]:  # noqa: ARG001 - what a task is given
    """Do nothing, as a task."""
    return result(pages)


def burn(units: int) -> int:
    """Keep a CPU busy, in Python."""
    total = 0
    for number in range(units):
        total += number * number % 7
    return total


def units_for(seconds: float) -> int:
    """Give how many units of `burn` take so long on this machine: the best of several looks."""
    best = min(_timed(PROBE) for _ in range(20))
    return max(1, round(PROBE * seconds / best))


def _timed(units: int) -> float:
    began = time.perf_counter()
    burn(units)
    return time.perf_counter() - began
