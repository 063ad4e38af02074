"""What the tests of the three executors share: claimed tasks, and a place where their ends arrive."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable
from typing import Any

from kafka import TopicPartition
from msgspec import Raw

from nexusq_sdk.protocol.wire import Record
from nexusq_sdk.protocol.words import Priority
from nexusq_sdk.tasks import HANDLER_ATTRIBUTE
from nexusq_server.registry import Handler
from nexusq_server.runs import Executor
from nexusq_server.slots import Slots
from nexusq_server.work import Claimed, Ended, Received
from tests.pure import executor_handlers

MAX_RESULT = 8 * 1024
_numbers = itertools.count()


def handler(function: Callable[..., Any]) -> Handler:
    declared = getattr(function, HANDLER_ATTRIBUTE)
    return Handler(declared.task_type, function, declared)


def claimed(function: Callable[..., Any], **payload: Any) -> Claimed:
    number = next(_numbers)
    record = Record(
        task_id=f"01a20e45-5716-74df-a356-{number:012x}",
        task_type=handler(function).task_type,
        payload=Raw(json.dumps(payload).encode()),
    )
    partition = TopicPartition("task-queue", 0)
    return Claimed(Received(record, "default", Priority.NORMAL, 0, partition, 1, number, len(record.payload)), 1)


def id_of(task: Claimed) -> str:
    return task.id


class Ends:
    """Where `on_end` tells how attempts ended. `slots` as it was at that moment is kept too."""

    def __init__(self) -> None:
        self.slots = Slots(8)
        self.slots.renew(float("inf"), anew=False)
        self.ended: dict[str, Ended] = {}
        self.order: list[str] = []
        self.ran_at_end: dict[str, list[str]] = {}
        self._changed = threading.Condition()

    def __call__(self, task: Claimed, ended: Ended) -> None:
        with self._changed:
            assert id_of(task) not in self.ended, "told twice"
            self.ran_at_end[id_of(task)] = self.slots.running()
            self.ended[id_of(task)] = ended
            self.order.append(id_of(task))
            self._changed.notify_all()

    def of(self, task: Claimed, seconds: float = 30) -> Ended:
        """Wait for a task's end."""
        with self._changed:
            assert self._changed.wait_for(lambda: id_of(task) in self.ended, seconds), "the task did not end"
            return self.ended[id_of(task)]


def value(ended: Ended) -> Any:
    return json.loads(ended.value)


def run(executor: Executor, ends: Ends, function: Callable[..., Any], limit: Any = None, **payload: Any) -> Ended:
    """Run one task to its end."""
    task = claimed(function, **payload)
    executor.start(task, handler(function), limit)
    return ends.of(task)


def wait_idle(executor: Executor, seconds: float = 30) -> None:
    """Wait until nothing is in hand: an end is told a moment before."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if executor.idle():
            return
        executor.wait_free(0.05)
    raise AssertionError(f"expected the executor to be idle, got {executor.running()}")


def event(name: str) -> threading.Event:
    """Give a new event that handlers know by its name."""
    return executor_handlers.events.setdefault(name, threading.Event())
