"""The handlers of NexusQ's workers: ``nexusq worker --tasks benchmarks.tasks``."""

from __future__ import annotations

import time
from typing import Any

from benchmarks import job
from nexusq_sdk import task


@task("BENCH_NOOP")
def noop(customer: str, template: str, month: str, pages: int) -> dict[str, Any]:
    """Do nothing."""
    return job.noop(customer, template, month, pages)


@task("BENCH_WAIT")
def wait(seconds: float) -> dict[str, Any]:
    """Wait, as for a network."""
    time.sleep(seconds)
    return job.result(0)


@task("BENCH_BURN", executor="process")
def burn(units: int) -> int:
    """Keep a CPU busy."""
    return job.burn(units)
