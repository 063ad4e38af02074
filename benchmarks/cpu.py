"""CPU-bound tasks of 5 ms on NexusQ's processes, between two halves of `concurrent.futures.ProcessPoolExecutor`.

The same function for both. A machine's speed changes within seconds, so what is compared surrounds the other.
``python -m benchmarks.cpu PROCESSES`` is the pool, asked as every client is.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import time
from concurrent.futures import Future, ProcessPoolExecutor

import psutil

from benchmarks import job, talk
from benchmarks.parts import process_seconds
from benchmarks.results import Results
from benchmarks.stage import THREADS, Stage
from benchmarks.systems import NEXUSQ
from benchmarks.turns import LOOK_SECONDS, drain

TASK_SECONDS = 0.005
QUEUE = "bench-burns"
POOL = "ProcessPoolExecutor"
#: The rate is taken between these shares of the tasks: while all processes are there and none has run out of work.
WINDOW = (0.1, 0.95)
CHILDREN = "children"


class Pool:
    """The pool."""

    def __init__(self, processes: int) -> None:
        self._pool = ProcessPoolExecutor(processes)
        self._processes = processes
        self._finished = 0

    def warm_up(self) -> None:
        """Start the processes."""
        list(self._pool.map(job.burn, [1] * self._processes))

    def submit_burns(self, count: int, units: int) -> None:
        """Submit all calls."""
        for _ in range(count):
            self._pool.submit(job.burn, units).add_done_callback(self._ended)

    def finished(self) -> int:
        """Give how many have ended."""
        return self._finished

    def _ended(self, future: Future[int]) -> None:
        future.result()
        self._finished += 1  # one thread calls all callbacks


def measure_cpu(stage: Stage, seconds: float, results: Results) -> None:
    """Measure both once."""
    processes = len(os.sched_getaffinity(0))
    units, count = job.units_for(TASK_SECONDS), int(seconds * processes / TASK_SECONDS)
    halves = [_pool(stage, processes, count // 2, units)]
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(stage.nexusq_client(QUEUE))
        stack.callback(client.ask, "clear")
        client.ask("submit_burns", count, units)
        command = stage.nexusq_worker(QUEUE, THREADS, "--processes", str(processes))
        worker = stack.enter_context(stage.running("burns", command, stage.nexusq_environment))
        while client.ask("finished") < WINDOW[0] * count and not worker.ended():
            time.sleep(LOOK_SECONDS)
        beside = _Beside(stage, worker.process.pid)
        rate = drain(client, count, worker.ended, WINDOW)
        beside.end(results)
    halves.append(_pool(stage, processes, count // 2, units))
    results.add("cpu", POOL, statistics.mean(halves), "tasks/s", processes=processes, units=units, halves=halves)
    results.add("cpu", NEXUSQ, rate, "tasks/s", processes=processes, units=units)


class _Beside:
    """What else uses CPU while the worker's children run tasks, from here to `end`: by 5 ms of the children's.

    A machine's speed changes from one minute to the next, and so does theirs: it is the measure.
    """

    def __init__(self, stage: Stage, worker: int) -> None:
        parts = stage.parts()
        children = [
            child.pid
            for child in psutil.Process(worker).children(recursive=True)
            if "nexusq_server.process_child" in child.cmdline()
        ]
        self._parts = {"worker": [worker], "redis": [parts["redis"]], "kafka": [parts["kafka"]], CHILDREN: children}
        self._before = self._used()

    def end(self, results: Results) -> None:
        """Add a value for each part, in µs."""
        used = {part: seconds - self._before[part] for part, seconds in self._used().items()}
        children = used.pop(CHILDREN)
        for part, seconds in used.items():
            results.add("beside", part, 1_000_000 * TASK_SECONDS * seconds / children, "µs")

    def _used(self) -> dict[str, float]:
        return {part: sum(map(process_seconds, pids)) for part, pids in self._parts.items()}


def _pool(stage: Stage, processes: int, count: int, units: int) -> float:
    with stage.client("benchmarks.cpu", [str(processes)]) as pool:
        pool.ask("submit_burns", count, units)
        return drain(pool, count, lambda: False, WINDOW)


if __name__ == "__main__":
    talk.serve(Pool(int(sys.argv[1])))
