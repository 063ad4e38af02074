"""Handlers that the tests of the executors run, in threads, on the loop and in child processes."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from nexusq_sdk.tasks import Cancelled, Retry, TimeLimitExceeded, current_task, task

#: By name: what a handler in a thread sets or waits for.
events: dict[str, threading.Event] = {}


def spin(seconds: float = 30.0) -> None:
    """Work in Python, so that an exception can be raised in between."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.001)


@task("WHO")
def who(print_this: str = "") -> dict[str, Any]:
    print(print_this)
    current = current_task()
    return {
        "id": current.id,
        "type": current.task_type,
        "attempt": current.attempt,
        "cancelled": current.cancelled,
        "pid": os.getpid(),
        "stdin": sys.stdin.read() if not threading.current_thread().name.startswith("handler") else "",
    }


@task("WHO_ASYNC")
async def who_async() -> dict[str, Any]:
    await asyncio.sleep(0)
    current = current_task()
    return {"id": current.id, "type": current.task_type, "attempt": current.attempt, "pid": os.getpid()}


@task("SPIN")
def spinning(mark: str = "", started: str = "") -> str:
    if started in events:
        events[started].set()
    if mark:
        Path(mark).write_text(str(os.getpid()))
    spin()
    return "to the end"


@task("STUBBORN")
def stubborn(started: str, go_on: str) -> str:
    """Swallow whatever is raised, then go on to the end."""
    try:
        events[started].set()
        spin()
    except BaseException as error:
        name = type(error).__name__
    events[go_on].wait(30)
    return f"went on after {name}"


@task("TIDY")
def tidy(started: str) -> str:
    """Stop when asked to."""
    events[started].set()
    try:
        spin()
    except TimeLimitExceeded:
        return "in time"
    return "to the end"


@task("CLUMSY")
def clumsy(started: str) -> None:
    """Fail on the way out."""
    events[started].set()
    try:
        spin()
    except Cancelled:
        raise ValueError("while tidying up") from None


@task("WAIT")
def wait(started: str, go_on: str) -> str:
    events[started].set()
    events[go_on].wait(30)
    return "waited"


@task("WATCHFUL")
def watchful(started: str) -> str:
    """Look at the flag; a wait outside of Python in small pieces."""
    current = current_task()
    events[started].set()
    try:
        spin()
    except Cancelled:
        return f"cancelled={current.cancelled}"
    return "to the end"


@task("AGAIN")
def again(delay: float | None = None) -> None:
    raise Retry("not yet", delay=delay)


@task("RAISE")
def raising(message: str) -> None:
    raise FileNotFoundError(message)


@task("BIG")
def big(kib: int) -> str:
    return "x" * (kib * 1024)


@task("NAP_ASYNC")
async def nap(started: str = "", swallow: bool = False) -> str:
    if started:
        events[started].set()
    try:
        await asyncio.sleep(30)
    except asyncio.CancelledError:
        if not swallow:
            raise
    return "to the end"


@task("BLOCK_ASYNC")
async def block(started: str, go_on: str) -> None:
    """Hold the whole loop up."""
    events[started].set()
    events[go_on].wait(30)


@task("OWN_TIMEOUT")
async def own_timeout() -> None:
    raise TimeoutError("mine")


@task("EXIT_NOW")
def exit_now(code: int) -> None:
    os._exit(code)


@task("SEGFAULT")
def segfault() -> None:
    ctypes.string_at(0)


@task("KILLED")
def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@task("LEAVE_ONE_BEHIND")
def leave_one_behind(mark: str) -> None:
    """Die with a process behind that holds the pipe to the parent open."""
    if os.fork() == 0:
        Path(mark).write_text(str(os.getpid()))
        time.sleep(60)
    while not Path(mark).exists():
        time.sleep(0.001)
    os._exit(3)


@task("GROW")
def grow(mib: int) -> int:
    kept.append(b"x" * (mib * 1024 * 1024))
    return os.getpid()


kept: list[bytes] = []


@task("FORK_AND_STOP")
def fork_and_stop() -> int:
    """Stop a forked process by SIGTERM, as multiprocessing does."""
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    os.kill(child, signal.SIGTERM)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@task("GO_ON_AFTER")
def go_on_after(mark: str) -> str:
    """Start another program and wait for it."""
    program = f"import os, time; open({mark!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    subprocess.run([sys.executable, "-c", program], check=False)
    return "to the end"


@task("JOT")
def jot(path: str, word: str, seconds: float = 0.0, pad: str = "") -> str:
    """Write a line when it begins."""
    with Path(path).open("a") as file:
        file.write(f"{word}\n")
    time.sleep(seconds)
    return word


@task("JOT_AND_WAIT")
def jot_and_wait(path: str, word: str, until: str) -> str:
    """Write a line, then wait until a file is there."""
    jot(path, word)
    while not Path(until).exists():
        time.sleep(0.001)
    return word


@task("JOT_AND_DIE")
def jot_and_die(path: str, word: str) -> None:
    jot(path, word)
    os.kill(os.getpid(), signal.SIGKILL)
