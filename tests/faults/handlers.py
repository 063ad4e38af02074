"""Handlers that show when they started and ended, and those that hurt the worker that runs them."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path

from nexusq_sdk.tasks import current_task, task


def note(path: str, line: str, what: str) -> None:
    """Append one line to a file that outlives whatever is killed."""
    with open(path, "a") as file:  # noqa: PTH123 - one append is atomic, which is all that is wanted
        file.write(f"{line} {what} {os.getpid()} {current_task().attempt}\n")


@task("TRACE")
def trace(path: str, line: str, seconds: float = 0.0, until: str = "") -> int:
    """Say that it starts, work (at most until the file `until` is there), say that it ends; give the process."""
    note(path, line, "start")
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and not (until and Path(until).exists()):
        time.sleep(min(left, 0.05) if until else left)
    note(path, line, "end")
    return os.getpid()


@task("HOLD_GIL")
def hold_gil(path: str, line: str, seconds: int, unless: str = "") -> int:
    """Let no other thread of the process run Python for so long; not at all once the file `unless` is there."""
    if not (unless and Path(unless).exists()):
        ctypes.PyDLL(None).sleep(seconds)
    note(path, line, "end")
    return os.getpid()


@task("POISON")
def poison(path: str, line: str) -> None:
    """Kill the process that runs it."""
    note(path, line, "start")
    os.kill(os.getpid(), signal.SIGKILL)


@task("FORK")
def fork(path: str, line: str, seconds: float, child_seconds: float) -> int:
    """Leave a process behind that holds all that its parent had open; in the next attempt, leave none."""
    if current_task().attempt == 1 and os.fork() == 0:
        time.sleep(child_seconds)
        os._exit(0)
    return trace(path, line, seconds)
