"""ECHO and SLEEP: for trying NexusQ out, and for its own tests and measurements."""

from __future__ import annotations

import time
from typing import Annotated, Any

from msgspec import Meta

from nexusq_sdk.tasks import task

#: SLEEP sleeps so long at a time: a limit or a cancel is raised in between.
NAP_SECONDS = 0.1


@task("ECHO")
def echo(payload: Any, /) -> Any:
    """Give the payload back as the result."""
    return payload


@task("SLEEP")
def sleep(seconds: Annotated[float, Meta(ge=0, le=86400)]) -> dict[str, float]:
    """Wait for so many seconds."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, NAP_SECONDS))
    return {"slept": seconds}
