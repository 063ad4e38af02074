"""What really ran, written down outside of NexusQ: a line when a handler starts and a line when it ends.

Each line is one write to a file that is opened for appending, then synced: it outlives whatever is killed.
Handlers write, in any process and thread; the oracle reads.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nexusq_sdk.tasks import CurrentTask

#: Where a process finds the ledger, and which part of the cluster it is: ``worker-2.3`` is worker 2, started 3 times.
LEDGER = "CHAOS_LEDGER"
PART = "CHAOS_PART"


@dataclass(frozen=True, slots=True)
class Run:
    """One time that a handler was called. `how`: ``ok``, ``fail``, ``cancelled``; None: it never came to its end."""

    run: str
    task: str
    attempt: int
    part: str
    start: float
    end: float | None = None
    how: str | None = None

    @property
    def ended(self) -> bool:
        """Whether the handler did its work to the end: it returned, or raised what it was to raise."""
        return self.how in {"ok", "fail"}


@contextmanager
def written_down(task: CurrentTask) -> Iterator[None]:
    """Write the start and the end of a handler's run, however it ends."""
    run = secrets.token_hex(6)
    _write({"run": run, "what": "start", "task": task.id, "attempt": task.attempt})
    how = "ok"
    try:
        yield
    except Exception:
        how = "fail"
        raise
    except BaseException:
        how = "cancelled"
        raise
    finally:
        _write({"run": run, "what": how, "task": task.id, "attempt": task.attempt})


def _write(line: dict[str, object]) -> None:
    line |= {"part": os.environ[PART], "pid": os.getpid(), "at": time.time()}
    file = os.open(os.environ[LEDGER], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, json.dumps(line).encode() + b"\n")
        os.fsync(file)
    finally:
        os.close(file)


def read_runs(path: Path) -> list[Run]:
    """Read all runs, in the order in which they started."""
    runs: dict[str, Run] = {}
    for text in path.read_text().splitlines() if path.exists() else []:
        line = json.loads(text)
        run, at, what = line["run"], line["at"], line["what"]
        if what == "start":
            runs[run] = Run(run, line["task"], line["attempt"], line["part"], at)
        else:
            begun = runs[run]
            runs[run] = Run(run, begun.task, begun.attempt, begun.part, begun.start, at, what)
    return sorted(runs.values(), key=lambda run: run.start)
