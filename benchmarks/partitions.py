"""How the cost of a task grows with a topic's partitions: the same drain from 1, 8 and 64 of them, by one worker."""

from __future__ import annotations

import contextlib
import secrets

from benchmarks.parts import cpu_seconds
from benchmarks.results import Results
from benchmarks.stage import Stage
from benchmarks.turns import drain

PARTITIONS = (1, 8, 64)


def measure_partitions(stage: Stage, count: int, results: Results) -> None:
    """Measure each number once."""
    for partitions in PARTITIONS:
        _measure(stage, partitions, count, results)


def _measure(stage: Stage, partitions: int, count: int, results: Results) -> None:
    # Whoever needs a queue's topics first makes them: here a worker, which is told how many partitions they have.
    queue = f"bench-{partitions}-{secrets.token_hex(3)}"
    environment = {**stage.nexusq_environment, "NEXUSQ_PARTITIONS": str(partitions)}
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(stage.nexusq_client(queue))
        stack.callback(client.ask, "clear")
        with stage.running("partitions", stage.nexusq_worker(queue), environment):
            client.ask("ping")
        client.ask("prepare", count)
        client.ask("submit", count)
        worker = stack.enter_context(stage.running("partitions", stage.nexusq_worker(queue), environment))
        parts = {**stage.parts(), "worker": worker.process.pid}
        before = cpu_seconds(parts)
        rate = drain(client, count, worker.ended)
        used = {part: 1_000_000 * (now - before[part]) / count for part, now in cpu_seconds(parts).items()}
        results.add("partitions", f"partitions: {partitions}", rate, "tasks/s", tasks=count, us=used)
