"""The handlers of the chaos run: each writes down in the ledger that it ran, then does as its payload says."""

from __future__ import annotations

import asyncio
import time

from nexusq_sdk.tasks import current_task, task
from tests.chaos.ledger import written_down

#: A handler sleeps so long at a time: a cancel is raised in between.
NAP_SECONDS = 0.05


@task("CHAOS_THREAD")
def in_a_thread(number: int, seconds: float = 0.0, fails: int = 0) -> dict[str, int]:
    """Wait, fail in the first `fails` attempts (-1: in all), then give the number back."""
    with written_down(current_task()):
        _wait(seconds)
        return _outcome(number, fails)


@task("CHAOS_PROCESS", executor="process")
def in_a_process(number: int, seconds: float = 0.0, fails: int = 0) -> dict[str, int]:
    """Do the same in a process of its own."""
    with written_down(current_task()):
        _wait(seconds)
        return _outcome(number, fails)


@task("CHAOS_ASYNC")
async def on_the_loop(number: int, seconds: float = 0.0, fails: int = 0) -> dict[str, int]:
    """Do the same on the event loop."""
    with written_down(current_task()):
        await asyncio.sleep(seconds)
        return _outcome(number, fails)


def _wait(seconds: float) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, NAP_SECONDS))


def _outcome(number: int, fails: int) -> dict[str, int]:
    attempt = current_task().attempt
    if fails < 0 or attempt <= fails:
        raise ValueError(f"number {number} fails at attempt {attempt}")
    return {"number": number, "attempt": attempt}
