"""Submits what schedules ask for: a task a tick, however many schedulers run.

Called by the scheduler's thread alone, about ten times a second. A tick's task has an id that is made from the
schedule's name and the tick: whoever submits it again submits the same task, which runs once. A schedule moves on only
after Kafka has its task, and only from the tick that was read, so that no tick is lost and none is passed over for
another. It never checks payloads: the API did, and the worker will.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import NamedTuple, cast

import msgspec
import redis

from nexusq_sdk.protocol import ids
from nexusq_sdk.protocol.redis_layout import SCHEDULE_DUE, SCHEDULE_LAST, SCHEDULES
from nexusq_sdk.protocol.wire import Options, ScheduleView
from nexusq_sdk.protocol.words import DEFAULT_QUEUE, Priority
from nexusq_server.clock import now_us
from nexusq_server.cron import Cron, CronError, due_ticks
from nexusq_server.states import DueTask, NewTask, encode_options
from nexusq_server.store import Store

log = logging.getLogger(__name__)

#: Schedules that are served at a time.
TAKE = 100
#: What `Schedules.advance_schedule` answers.
MOVED, NOT_ITS_TICK, REPLACED, NO_SCHEDULE = 1, 0, -1, -2

_decode = msgspec.json.Decoder(ScheduleView).decode


class Step(NamedTuple):
    """One schedule's way from the tick that was read to the next: what to submit in between."""

    name: str
    read: float
    stored: bytes
    next_tick: int | None
    tasks: list[DueTask]
    ttl_seconds: float | None
    last: str

    def states(self) -> list[NewTask]:
        """Give the tasks as their states are written."""
        return [
            NewTask(
                *(task.task_id, task.task_type, task.payload, task.queue, self.ttl_seconds, now_us()),
                *(task.priority, task.options),
            )
            for task in self.tasks
        ]


class Schedules:
    """The schedules of a NexusQ. Every method raises `redis.RedisError` when Redis is away.

    Parameters
    ----------
    produce : callable
        Puts tasks into Kafka and returns once it has them. What it raises is passed on: nothing has moved then.
    """

    def __init__(self, client: redis.Redis, produce: Callable[[Sequence[DueTask]], None], store: Store) -> None:
        self._redis = client
        self._produce = produce
        self._store = store
        self._script = client.register_script((files("nexusq_server") / "lua" / "advance_schedule.lua").read_text())
        self._unreadable: dict[str, bytes] = {}  # name → what was stored when it could not be read

    def tick(self) -> None:
        """Submit what is due. One question to Redis where nothing is."""
        while True:
            # Those that can't be read stay due, and must not keep the others from being seen.
            limit = TAKE + len(self._unreadable)
            due = cast(
                list[tuple[bytes, float]],
                self._redis.zrangebyscore(SCHEDULE_DUE, "-inf", time.time(), start=0, num=limit, withscores=True),
            )
            if not due:
                self._unreadable.clear()
                return
            if not self._serve([(name.decode(), tick) for name, tick in due]) or len(due) < limit:
                return

    def advance_schedule(self, name: str, read: float, stored: bytes, next_tick: int | None, last: str) -> int:
        """Move a schedule from the tick that was read to its next one; give `MOVED` or why not."""
        ahead = "" if next_tick is None else str(next_tick)
        digest = hashlib.sha1(stored, usedforsecurity=False).hexdigest()
        keys = [SCHEDULES, SCHEDULE_DUE, SCHEDULE_LAST]
        return cast(int, self._script(keys=keys, args=[name, repr(read), digest, ahead, last]))

    def _serve(self, due: Sequence[tuple[str, float]]) -> int:
        """Submit for each of these, in one go to Kafka; give how many were moved on."""
        stored = cast(list[bytes | None], self._redis.hmget(SCHEDULES, [name for name, _ in due]))
        now = time.time()
        steps = []
        moved = 0
        for (name, read), value in zip(due, stored, strict=True):
            if value is None:  # removed between two questions
                moved += self.advance_schedule(name, read, b"", None, "") == NO_SCHEDULE
            elif self._unreadable.get(name) != value:
                try:
                    steps.append(step(name, read, value, now))
                except (CronError, msgspec.DecodeError) as error:
                    # Stored by a newer version, or this machine lacks the zone: another scheduler may know it.
                    log.error("schedule %r can't be served by this process: %s", name, error)
                    self._unreadable[name] = value
        tasks = [task for each in steps for task in each.tasks]
        if tasks:
            self._produce(tasks)
            self._store.submit([state for each in steps for state in each.states()])
        for each in steps:
            moved += self.advance_schedule(each.name, each.read, each.stored, each.next_tick, each.last) == MOVED
        return moved


def step(name: str, read: float, stored: bytes, now: float) -> Step:
    """Work out what a schedule that is due asks for: pure.

    Raises
    ------
    CronError, msgspec.DecodeError
        If it can't be read.
    """
    schedule = _decode(stored)
    cron = Cron(schedule.cron, schedule.time_zone)
    ticks = due_ticks(cron, int(read), now, schedule.missed)
    options = schedule.options or Options()
    tasks = [
        DueTask(
            ids.scheduled_id(name, tick),
            schedule.task_type,
            bytes(schedule.payload),
            options.queue or DEFAULT_QUEUE,
            options.priority or Priority.NORMAL,
            encode_options(schedule.options),
            1,
        )
        for tick in ticks
    ]
    last = f"{ticks[-1]} {tasks[-1].task_id}" if tasks else ""
    return Step(name, read, stored, cron.after(max(now, read)), tasks, options.result_ttl_seconds, last)
