"""Handlers that the tests' workers serve."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import ctypes
import os
import signal
import time
from typing import Any

from nexusq_sdk.tasks import Retry, WorkerLost, current_task, task


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


def _tell(steps: int, seconds: float) -> int:
    me = current_task()
    for step in range(steps):
        me.progress((step + 1) / (steps + 1), f"step {step + 1}/{steps}")
        me.log(f"loss {1 / (step + 1):.2f}")
        time.sleep(seconds)
    return steps


@task("TELL")
def tell(steps: int, seconds: float = 0.0) -> int:
    """Say how far it is at each step."""
    return _tell(steps, seconds)


@task("TELL_APART", executor="process")
def tell_apart(steps: int, seconds: float = 0.0) -> int:
    """Say so from a process of its own."""
    return _tell(steps, seconds)


@task("TELL_ASYNC")
async def tell_async() -> None:
    """Say so on the event loop."""
    current_task().progress(0.5, "halfway")


@task("OBJECT")
def thing() -> Any:
    """Give a result that has no JSON form."""
    return object()


@task("FLAKY")
def flaky(until: int, error: str = "ValueError") -> int:
    """Raise before attempt `until`; then give the attempt."""
    attempt = current_task().attempt
    if attempt < until:
        raise getattr(builtins, error)(f"not at attempt {attempt}")
    return attempt


@task("PICKY", max_attempts=3, backoff=0.01, retry_on=(LookupError, WorkerLost), no_retry_on=KeyError)
def picky(error: str) -> None:
    """Raise: its type's own rules say what follows."""
    raise getattr(builtins, error)("on purpose")


@task("ASKING")
def asking(until: int, delay: float) -> int:
    """Ask for another attempt until attempt `until`."""
    attempt = current_task().attempt
    if attempt < until:
        raise Retry("not yet", delay=delay)
    return attempt


@task("PIDS", executor="process")
def pids() -> int:
    """Give the process that this runs in."""
    return os.getpid()


@task("CRASH", executor="process")
def crash(how: str, until: int = 1000) -> str:
    """Take the process down before attempt `until`."""
    if current_task().attempt >= until:
        return "survived"
    if how == "exit":
        os._exit(7)
    elif how == "segfault":
        ctypes.string_at(0)
    os.kill(os.getpid(), signal.SIGKILL)
    return "never"


@task("POISON")
def poison(path: str) -> None:
    """Leave a line and take the whole process down."""
    note(path, f"{os.getpid()}")
    os.kill(os.getpid(), signal.SIGKILL)


@task("LINGER")
def linger(path: str) -> None:
    """Run on in a thread until something ends it; leave lines at the start and on the way out."""
    note(path, "started")
    try:
        while True:
            time.sleep(0.02)
    finally:
        note(path, f"left {'cancelled' if current_task().cancelled else 'otherwise'}")


@task("SPIN", executor="process")
def spin(path: str) -> None:
    """Keep a processor busy and listen to nobody."""
    note(path, "started")
    while True:
        with contextlib.suppress(BaseException):
            sum(range(100_000))


@task("DOZE")
async def doze(path: str, seconds: float = 600) -> float:
    """Wait on the event loop; leave lines at the start and on the way out."""
    note(path, "started")
    try:
        await asyncio.sleep(seconds)
    finally:
        note(path, "left")
    return seconds


def note(path: str, line: str) -> None:
    """Append a line to a file that outlives whatever is killed."""
    with open(path, "a") as file:  # noqa: PTH123 - as above
        file.write(line + "\n")


@task("BRISK", timeout=0.1)
def brisk(seconds: float) -> bool:
    """Take so long, though a tenth of a second is what it may."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.01)
    return True
