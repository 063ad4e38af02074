"""How who waits for an end looks, and how often: who asks the API, and who asks Redis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.resources import files
from typing import Any

LONGEST_PAUSE = 0.5
#: The first pause, in seconds, of who asks over HTTP, and of who asks Redis, which costs a tenth of it.
ASK_API, ASK_REDIS = 0.002, 0.0001


def pauses(first: float) -> Iterator[float]:
    """Give the pauses of a wait, in seconds, without end: ever longer, so that whoever waits longer asks less."""
    pause = first
    while True:
        yield pause
        pause = min(1.2 * pause, LONGEST_PAUSE)


def read_task_script() -> str:
    """Give the script that reads a task, or says that it goes on."""
    return (files("nexusq_sdk.protocol") / "read_task.lua").read_text()


def read_task(answer: Sequence[Any]) -> tuple[dict[bytes, bytes], int]:
    """Read its answer: the task's hash, empty if it is not there, and when that expires (`views.expiry`)."""
    listed, expires = answer
    return dict(zip(listed[::2], listed[1::2], strict=True)), expires
