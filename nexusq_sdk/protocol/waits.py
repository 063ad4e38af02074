"""How often who waits for an end looks, and whether it has come: for who asks the API, and for who asks Redis."""

from __future__ import annotations

from collections.abc import Iterator

from nexusq_sdk.protocol.words import TERMINAL

LONGEST_PAUSE = 0.5
#: The first pause, in seconds, of who asks over HTTP, and of who asks Redis, which costs a tenth of it.
ASK_API, ASK_REDIS = 0.002, 0.0004


def pauses(first: float) -> Iterator[float]:
    """Give the pauses of a wait, in seconds, without end: ever longer, so that whoever waits longer asks less."""
    pause = first
    while True:
        yield pause
        pause = min(1.2 * pause, LONGEST_PAUSE)


def goes_on(status: bytes | None) -> bool:
    """Whether a task of this status in Redis has yet to end. One that is not there is not waited for."""
    return status is not None and status.decode() not in TERMINAL
