"""Tasks that wait 10 ms, by 1, 2 and 4 worker processes of 50 threads: how near the rate comes to what waiting allows.

They are submitted before the workers start. The rate is that between a quarter and nine tenths of the tasks: while all
workers are there, and none has run out of work.
"""

from __future__ import annotations

import contextlib
import os
import time

from benchmarks.parts import own_cpu_seconds
from benchmarks.results import Results
from benchmarks.stage import Stage
from benchmarks.turns import drain

TASK_SECONDS = 0.01
THREADS = 50
PROCESSES = (1, 2, 4)
QUEUE = "bench-waits"
WINDOW = (0.25, 0.9)


def ideal(processes: int) -> float:
    """Give what so many processes could do if nothing took time but waiting."""
    return processes * THREADS / TASK_SECONDS


def measure_scaling(stage: Stage, seconds: float, results: Results) -> None:
    """Measure each number of processes once; `seconds` is how long that would take at best."""
    for processes in PROCESSES:
        _measure(stage, processes, int(seconds * ideal(processes)), results)


def _measure(stage: Stage, processes: int, count: int, results: Results) -> None:
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(stage.nexusq_client(QUEUE))
        stack.callback(client.ask, "clear")
        client.ask("submit_waits", count, TASK_SECONDS)
        command = stage.nexusq_worker(QUEUE, THREADS)
        workers = [
            stack.enter_context(stage.running("waits", command, stage.nexusq_environment)) for _ in range(processes)
        ]
        before, began = own_cpu_seconds(), time.perf_counter()
        rate = drain(client, count, lambda: any(worker.ended() for worker in workers), WINDOW)
        # Of what the machine has, how much is ours: what others use does not fill our cores.
        busy = (own_cpu_seconds() - before) / (time.perf_counter() - began) / len(os.sched_getaffinity(0))
        share = rate / ideal(processes)
        for worker in workers:
            worker.process.terminate()  # all at once: each takes its time
        results.add("scaling", f"{processes} x {THREADS} threads", share, "of ideal", rate=rate, cpu=busy)
