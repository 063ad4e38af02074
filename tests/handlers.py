"""Handlers that the tests' workers serve."""

from __future__ import annotations

import os
import time
from typing import Any

from nexusq_sdk.tasks import task


@task("LEDGER")
def ledger(path: str, line: str, seconds: float = 0.0) -> dict[str, int]:
    """Wait, then write a line to a file that outlives whatever is killed: one line each time this ran."""
    time.sleep(seconds)
    with open(path, "a") as file:  # noqa: PTH123 - one append is atomic, which is all that is wanted
        file.write(line + "\n")
    return {"pid": os.getpid()}


@task("DIVIDE")
def divide(a: float, b: float) -> float:
    """Divide a by b."""
    return a / b


@task("FAIL")
def fail(message: str) -> None:
    """Raise a ValueError."""
    raise ValueError(message)


@task("EXIT")
def leave() -> None:
    """Try to end the worker's thread."""
    raise SystemExit("bye")


@task("BIG")
def big(kib: int) -> str:
    """Give a result of so many KiB."""
    return "x" * (kib * 1024)


@task("OBJECT")
def thing() -> Any:
    """Give a result that has no JSON form."""
    return object()
