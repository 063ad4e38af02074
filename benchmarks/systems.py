"""Who is measured: how each one's client and worker are started."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from benchmarks.stage import THREADS, Stage

QUEUE = "bench"
NEXUSQ, BARE_THREADS, BARE_INLINE = "NexusQ", "bare loop, 8 threads", "bare loop, inline"
#: Both bare loops submit in the same way.
BARE = "bare loop"


@dataclass(frozen=True)
class System:
    """One of those that are compared.

    ``share``: of the tasks that NexusQ is given, how many it gets; what counts is the rate. ``keeps``: its tasks
    outlive its processes. ``server``: what it needs beside Redis. ``environment``: what its worker is told.
    """

    name: str
    kind: Literal["nexusq", "bare", "peer"]
    module: str
    words: Callable[[Stage], list[str]]
    worker: Callable[[Stage], list[str]]
    share: float = 1.0
    pings: bool = True
    keeps: bool = True
    server: Callable[[Stage], list[str]] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


def _bare(name: str, threads: int) -> System:
    return System(
        name,
        "bare",
        "benchmarks.bare",
        lambda stage: ["client", stage.cluster.kafka, stage.redis_url],
        lambda stage: [
            *("python", "-m", "benchmarks.bare", "worker"),
            *(stage.cluster.kafka, stage.redis_url, str(threads)),
        ],
        pings=not threads,  # one at a time, threads would only add to it
    )


OWN = (
    System(
        NEXUSQ,
        "nexusq",
        "benchmarks.nexusq",
        lambda stage: [stage.cluster.url, stage.cluster.redis_url, QUEUE],
        lambda stage: stage.nexusq_worker(QUEUE),
    ),
    _bare(BARE_THREADS, THREADS),
    _bare(BARE_INLINE, 0),
)
