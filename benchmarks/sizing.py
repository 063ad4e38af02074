"""How much of each part so many tasks a day need: arithmetic, from what a run has measured of the parts.

One installation has one Redis primary, whose scripts run one after the other: what goes beyond it goes to another
installation, with a Redis and topics of its own. Everything else is added within one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks import job
from benchmarks.results import Results
from benchmarks.systems import NEXUSQ
from benchmarks.tables import Table, number
from nexusq_sdk.protocol import ids
from nexusq_server.topics import encode_record

DAILY = (1_000_000, 10_000_000, 100_000_000, 1_000_000_000, 10_000_000_000)
DAY = 86_400
#: A day is not even: its busiest time has so many times the tasks of its mean.
PEAK = 3.0
#: No part is planned for more of what it can do.
LOAD = 0.6
#: Kafka's own defaults, and what is usual for what must not be lost.
KEPT_DAYS_KAFKA, REPLICAS = 7, 3
#: A worker process should have several partitions: when one leaves, the others share its work out evenly.
PARTITIONS_A_WORKER, LEAST_PARTITIONS = 2, 8
GIB = 2**30


@dataclass(frozen=True)
class Parts:
    """What one of each part does: tasks a second of a process, or bytes a task."""

    worker: float
    api: float
    redis: float
    redis_bytes: float
    record_bytes: float


def parts(results: Results) -> Parts | None:
    """Take the parts from a run; None if it has not measured them all."""
    worker, size = results.median("drain", NEXUSQ), results.median("memory", "Redis, a task")
    budget = {name: series.median for name, series in results.rows.get("budget", {}).items()}
    if worker is None or size is None or not budget:
        return None
    redis_us = budget["submit: redis"] + budget["drain: redis"]
    return Parts(worker, 1_000_000 / budget["submit: api"], 1_000_000 / redis_us, size, _record_bytes())


def sizing_table(results: Results) -> Table | None:
    """Give the table, from a run's own numbers."""
    measured = parts(results)
    if measured is None:
        return None
    cells = [_line(measured, daily) for daily in DAILY]
    return Table(
        f"From this run: a worker process drains {number(measured.worker)} no-op tasks/s, an API process takes "
        f"{number(measured.api)} tasks/s in batches, a Redis primary has CPU for {number(measured.redis)} tasks/s, "
        f"{number(measured.redis_bytes)} bytes a finished task, {number(measured.record_bytes)} bytes a Kafka record",
        (
            *("tasks a day", "mean/s", "peak/s", "worker processes", "API processes", "partitions", "installations"),
            *("Redis, kept 1 h", "Redis, kept 1 day", "Kafka in, peak", f"Kafka disk, {KEPT_DAYS_KAFKA} days"),
        ),
        cells,
    )


def _line(measured: Parts, daily: int) -> list[str]:
    mean = daily / DAY
    peak = PEAK * mean
    workers, apis, primaries = (
        math.ceil(peak / (LOAD * rate)) for rate in (measured.worker, measured.api, measured.redis)
    )
    partitions = max(LEAST_PARTITIONS, PARTITIONS_A_WORKER * math.ceil(workers / primaries))
    record = measured.record_bytes
    return [
        f"{daily:,}",
        number(mean),
        number(peak),
        str(workers),
        str(apis),
        f"{partitions}" + (f" × {primaries}" if primaries > 1 else ""),
        str(primaries),
        # What is kept for an hour may all come from the busiest one.
        _size(peak * 3600 * measured.redis_bytes),
        _size(daily * measured.redis_bytes),
        f"{number(peak * record / 2**20)} MiB/s",
        _size(daily * KEPT_DAYS_KAFKA * record * REPLICAS),
    ]


def _size(count: float) -> str:
    return f"{number(count / GIB)} GiB" if count < 1024 * GIB else f"{number(count / GIB / 1024)} TiB"


def _record_bytes() -> float:
    task = ids.task_id(ids.new_id(), 123_456)
    value = encode_record(task, "BENCH_NOOP", _payload(), b"")
    return float(len(value) + 10)  # what Kafka adds to a record within a batch, about


def _payload() -> bytes:
    import msgspec  # noqa: PLC0415 - for this alone

    return msgspec.json.encode(job.payload(1))
