"""CPU-bound tasks of 5 ms on NexusQ's processes and on `concurrent.futures.ProcessPoolExecutor`, in turns.

The same function for both. A machine's speed changes within seconds, so turns are short, and each of NexusQ's is
compared with the pool's right before and right after it.
``python -m benchmarks.cpu PROCESSES`` is the pool, asked as every client is.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

import psutil

from benchmarks import job, talk
from benchmarks.parts import process_seconds
from benchmarks.results import Results
from benchmarks.stage import THREADS, Stage
from benchmarks.systems import NEXUSQ
from benchmarks.turns import LOOK_SECONDS, drain

TASK_SECONDS = 0.005
TURN_SECONDS = 2.5
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
        self._finished = 0
        for _ in range(count):
            self._pool.submit(job.burn, units).add_done_callback(self._ended)

    def finished(self) -> int:
        """Give how many have ended."""
        return self._finished

    def _ended(self, future: Future[int]) -> None:
        future.result()
        self._finished += 1  # one thread calls all callbacks


def measure_cpu(stage: Stage, turns: int, results: Results) -> None:
    """Measure both, `turns` times: a value for each turn."""
    processes = len(os.sched_getaffinity(0))
    units, count = job.units_for(TASK_SECONDS), int(TURN_SECONDS * processes / TASK_SECONDS)
    with stage.client("benchmarks.cpu", [str(processes)]) as pool, stage.nexusq_client(QUEUE) as client:
        before = _pool_turn(pool, count, units)
        for _ in range(turns):
            rate = _nexusq_turn(stage, client, processes, count, units, results)
            after = _pool_turn(pool, count, units)
            said: dict[str, Any] = {"processes": processes, "units": units}
            results.add("cpu", POOL, statistics.mean([before, after]), "tasks/s", **said, around=[before, after])
            results.add("cpu", NEXUSQ, rate, "tasks/s", **said)
            before = after


def _pool_turn(pool: talk.Remote, count: int, units: int) -> float:
    pool.ask("submit_burns", count, units)
    return drain(pool, count, lambda: False, WINDOW)


def _nexusq_turn(stage: Stage, client: talk.Remote, processes: int, count: int, units: int, results: Results) -> float:
    client.ask("submit_burns", count, units)
    command = stage.nexusq_worker(QUEUE, THREADS, "--processes", str(processes))
    try:
        with stage.running("burns", command, stage.nexusq_environment) as worker:
            while client.ask("finished") < WINDOW[0] * count and not worker.ended():
                time.sleep(LOOK_SECONDS)
            beside = _Beside(stage, worker.process.pid)
            rate = drain(client, count, worker.ended, WINDOW)
            beside.end(results)
    finally:
        client.ask("clear")
    return rate


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


if __name__ == "__main__":
    talk.serve(Pool(int(sys.argv[1])))
