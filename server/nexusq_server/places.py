"""The places where one worker runs handlers: its executors by kind, each place with a slot of its own."""

from __future__ import annotations

import threading

from nexusq_server.async_loop import AsyncExecutor
from nexusq_server.executors import ThreadExecutor
from nexusq_server.process_pool import ProcessExecutor, environment_of
from nexusq_server.runs import Executor, OnEnd
from nexusq_server.settings import Settings
from nexusq_server.slots import Slots

KINDS = ("thread", "process", "async")


def make_places(settings: Settings, on_end: OnEnd) -> tuple[Slots, dict[str, Executor]]:
    """Give the slots, and an executor for each of `KINDS`. Whoever waits for a free place waits for one of any kind."""
    threads, processes = settings.concurrency, settings.processes
    slots = Slots(threads + processes + settings.async_concurrency)
    largest, freed = settings.max_result_kib * 1024, threading.Event()
    executors: dict[str, Executor] = {
        "thread": ThreadExecutor(threads, slots, 0, on_end, largest, freed),
        "process": ProcessExecutor(
            processes,
            slots,
            threads,
            on_end,
            largest,
            freed,
            environment=environment_of(settings),
            recycle_tasks=settings.recycle_tasks,
            recycle_mib=settings.recycle_mib,
        ),
        "async": AsyncExecutor(settings.async_concurrency, slots, threads + processes, on_end, largest, freed),
    }
    return slots, executors
