"""What many schedulers do at once, on a part of Redis of their own; what each one does to a schedule, and refuses."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from kafka.errors import KafkaTimeoutError

from nexusq_sdk.protocol import ids
from nexusq_sdk.protocol.redis_layout import SCHEDULE_DUE, SCHEDULE_LAST, SCHEDULES
from nexusq_server.schedules import MOVED, NO_SCHEDULE, NOT_ITS_TICK, REPLACED, Schedules
from nexusq_server.settings import Settings
from nexusq_server.states import DueTask
from nexusq_server.store import Store

FAR = 4_102_444_800.0  # in the year 2100


@pytest.fixture
def name() -> str:
    """Name a schedule, or begin the names of many; they are gone after the test."""
    return f"test-{secrets.token_hex(4)}"


class Scheduling:
    """Schedulers on a part of Redis of their own, which the cluster's do not see; `produced` is what they submit."""

    def __init__(self, client: redis.Redis, settings: Settings) -> None:
        self.client = client
        self.produced: list[DueTask] = []
        self.fails: list[Exception] = []
        self._settings = settings

    def scheduler(self) -> Schedules:
        return Schedules(self.client, self._produce, Store(self.client, self._settings))

    def _produce(self, tasks: Any) -> None:
        if self.fails:
            raise self.fails.pop()
        self.produced += tasks

    def put(self, name: str, tick: float, **changes: Any) -> bytes:
        task = {"taskType": "ECHO", "payload": {"a": 1}, "cron": "@hourly"}
        fields = task | {"name": name, "createdAt": "2026-01-01T00:00:00Z"} | changes
        stored = json.dumps(fields).encode()
        self.client.hset(SCHEDULES, name, stored)
        self.client.zadd(SCHEDULE_DUE, {name: tick})
        return stored


@pytest.fixture
def scheduling(settings: Settings, name: str) -> Iterator[Scheduling]:
    with redis.Redis.from_url(urlsplit(settings.redis)._replace(path="/1").geturl()) as client:
        yield Scheduling(client, settings)
        left = [key.decode() for key in client.hkeys(SCHEDULES) if key.decode().startswith(name)]
        for key in left:
            client.hdel(SCHEDULES, key)
            client.zrem(SCHEDULE_DUE, key)
            client.hdel(SCHEDULE_LAST, key)


def test_three_schedulers_at_once_submit_each_tick_as_one_task(scheduling: Scheduling, name: str) -> None:
    # given many schedules that are due
    tick = int(time.time()) - 3
    names = [f"{name}-{number}" for number in range(250)]
    for each in names:
        scheduling.put(each, tick)

    # when three schedulers see them at the same time
    together = threading.Barrier(3)

    def run() -> None:
        scheduler = scheduling.scheduler()
        together.wait()
        scheduler.tick()

    with ThreadPoolExecutor(3) as pool:
        for ended in [pool.submit(run) for _ in range(3)]:
            ended.result()

    # then whatever was produced is one task a schedule, and all have moved on
    assert {ids.scheduled_id(each, tick) for each in names} == {task.task_id for task in scheduling.produced}
    assert 0 == scheduling.client.zcount(SCHEDULE_DUE, "-inf", time.time())
    for each in names:
        assert f"{tick} {ids.scheduled_id(each, tick)}".encode() == scheduling.client.hget(SCHEDULE_LAST, each)


def test_a_tick_that_kafka_does_not_take_stays_due(scheduling: Scheduling, name: str) -> None:
    tick = int(time.time()) - 3
    scheduling.put(name, tick)
    scheduling.fails.append(KafkaTimeoutError("away"))
    scheduler = scheduling.scheduler()

    with pytest.raises(KafkaTimeoutError):
        scheduler.tick()
    assert tick == scheduling.client.zscore(SCHEDULE_DUE, name)

    scheduler.tick()
    assert [ids.scheduled_id(name, tick)] == [task.task_id for task in scheduling.produced]


def test_a_schedule_that_can_not_be_read_keeps_no_other_from_ticking(scheduling: Scheduling, name: str) -> None:
    # given more schedules than are served at a time whose time zone this machine does not know
    tick = int(time.time()) - 60
    for number in range(120):
        scheduling.put(f"{name}-odd-{number}", tick, timeZone="Mars/Base")
    scheduling.put(f"{name}-good", tick + 30)

    # when a scheduler sees them
    scheduler = scheduling.scheduler()
    for _ in range(2):
        scheduler.tick()

    # then the good one has ticked, and the others wait for a scheduler that can
    assert [ids.scheduled_id(f"{name}-good", tick + 30)] == [task.task_id for task in scheduling.produced]
    assert tick == scheduling.client.zscore(SCHEDULE_DUE, f"{name}-odd-7")


def test_a_schedule_moves_on_only_from_the_tick_and_the_text_that_were_read(scheduling: Scheduling, name: str) -> None:
    stored = scheduling.put(name, FAR)
    advance = scheduling.scheduler().advance_schedule

    assert NOT_ITS_TICK == advance(name, FAR - 1, stored, int(FAR) + 60, "")
    assert REPLACED == advance(name, FAR, stored + b" ", int(FAR) + 60, "")
    assert (FAR, None) == (scheduling.client.zscore(SCHEDULE_DUE, name), scheduling.client.hget(SCHEDULE_LAST, name))

    assert MOVED == advance(name, FAR, stored, int(FAR) + 60, "1 a")
    assert NOT_ITS_TICK == advance(name, FAR, stored, int(FAR) + 120, "2 b")
    assert FAR + 60 == scheduling.client.zscore(SCHEDULE_DUE, name)
    assert b"1 a" == scheduling.client.hget(SCHEDULE_LAST, name)

    assert MOVED == advance(name, FAR + 60, stored, None, "")
    assert None is scheduling.client.zscore(SCHEDULE_DUE, name)
    assert NOT_ITS_TICK == advance(name, FAR + 60, stored, int(FAR) + 120, "")


def test_a_schedule_that_is_removed_while_it_is_served_does_not_come_back(scheduling: Scheduling, name: str) -> None:
    stored = scheduling.put(name, FAR)
    scheduling.client.hdel(SCHEDULES, name)

    assert NO_SCHEDULE == scheduling.scheduler().advance_schedule(name, FAR, stored, int(FAR) + 60, "1 a")
    assert None is scheduling.client.zscore(SCHEDULE_DUE, name)
    assert None is scheduling.client.hget(SCHEDULE_LAST, name)
