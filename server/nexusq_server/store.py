"""Writes to Redis, a method a verb, each beside a Lua script of the same name in ``lua/``.

Redis is the view of the tasks; Kafka is where they are safe. Called from threads (a redis-py client serves many),
never from an event loop. Many tasks a call: a script for 500 tasks costs about 1 µs each, a call for one 100 µs.
Names of keys: `nexusq_sdk.protocol.redis_layout`. One primary, no Redis Cluster: the reason stands there.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from importlib.resources import files
from typing import Any, NamedTuple, cast

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from nexusq_sdk.protocol import redis_layout
from nexusq_sdk.protocol.ids import split_task_id
from nexusq_sdk.protocol.wire import TaskType
from nexusq_sdk.protocol.words import DEFAULT_QUEUE
from nexusq_server.settings import Settings

#: Tasks a script call: long enough to be cheap, short enough (about 1 ms) not to keep other clients waiting.
CHUNK = 500

#: What `Store.claim` answers beside an attempt.
SKIP, LATER = 0, -1
#: What `Store.settle` answers.
SETTLED, DROPPED, LOST = 1, 0, -1

_pack = msgspec.msgpack.Encoder().encode


class NewTask(NamedTuple):
    """A task that Kafka has acknowledged. `payload` is JSON; `submitted_us` microseconds since 1970."""

    task_id: str
    task_type: str
    payload: bytes
    queue: str
    ttl_seconds: float | None
    submitted_us: int

    def packed(self) -> tuple[str, str, str, str, str, str]:
        """Give the row that the scripts read: text throughout ("" for what is usual).

        Lua's numbers would round the times, and Redis's cmsgpack knows no msgpack bytes.
        """
        return (
            self.task_id,
            self.task_type,
            self.payload.decode(),
            "" if self.queue == DEFAULT_QUEUE else self.queue,
            "" if self.ttl_seconds is None else repr(self.ttl_seconds),
            str(self.submitted_us),
        )


class Outcome(NamedTuple):
    """How an attempt ended. `value` is JSON: the result of a COMPLETED task, the `TaskError` of a FAILED one."""

    task_id: str
    attempt: int
    status: str
    value: bytes
    started_us: int
    finished_us: int

    def packed(self) -> tuple[str, int, str, str, str, str]:
        """Give the row that ``settle.lua`` reads."""
        return (*self[:3], self.value.decode(), str(self.started_us), str(self.finished_us))


def now_us() -> int:
    """Give the time in whole microseconds since 1970."""
    return time.time_ns() // 1000


def connect(settings: Settings) -> redis.Redis:
    """Make a client. It connects when used, fails fast (callers know how to wait) and checks idle connections."""
    return redis.Redis.from_url(
        settings.redis,
        socket_timeout=10,
        socket_connect_timeout=2,
        health_check_interval=15,
        retry=Retry(NoBackoff(), 1),
    )


class Store:
    """The verbs. Every method raises `redis.RedisError` when Redis is away or refuses."""

    def __init__(self, client: redis.Redis, settings: Settings) -> None:
        self._redis = client
        self._ttl = settings.result_ttl.total_seconds()
        self._gone = settings.gone_ttl.total_seconds()
        lua = files("nexusq_server") / "lua"
        self._submit, self._close_batch, self._claim, self._settle, self._renew_lease = (
            client.register_script((lua / f"{verb}.lua").read_text())
            for verb in ("submit", "close_batch", "claim", "settle", "renew_lease")
        )

    def submit(self, tasks: Sequence[NewTask]) -> int:
        """Write the state of tasks that nobody has written yet; give how many those were."""
        written = 0
        oldest = now_us() - int((self._ttl + self._gone) * 1_000_000)
        for start in range(0, len(tasks), CHUNK):
            rows = [task.packed() for task in tasks[start : start + CHUNK]]
            written += cast(int, self._submit(keys=[redis_layout.RECENT], args=[_pack(rows), oldest]))
        return written

    def close_batch(self, last: NewTask | None, batch_id: str, size: int, task_type: str, queue: str) -> None:
        """Record that a batch has all its tasks: `size` of them. `last` is one of them, None if it is empty."""
        ttl = "" if last is None or last.ttl_seconds is None else repr(last.ttl_seconds)
        submitted = now_us() if last is None else last.submitted_us
        self._close_batch(
            keys=[redis_layout.batch_key(batch_id), redis_layout.RECENT],
            args=[
                batch_id,
                size,
                task_type,
                "" if queue == DEFAULT_QUEUE else queue,
                ttl,
                submitted,
                self._ttl,
                self._gone,
            ],
        )

    def claim(self, worker: str, tasks: Sequence[tuple[NewTask, int]]) -> list[int]:
        """Ask for tasks, each with its record's attempt: an attempt to run, or `SKIP`, or `LATER`."""
        answers: list[int] = []
        now = now_us()
        for start in range(0, len(tasks), CHUNK):
            rows = [(*task.packed(), attempt) for task, attempt in tasks[start : start + CHUNK]]
            answers += cast(list[int], self._claim(keys=[redis_layout.RECENT], args=[worker, now, _pack(rows)]))
        return answers

    def settle(self, worker: str, outcomes: Sequence[Outcome]) -> list[int]:
        """Write outcomes: for each `SETTLED`, `DROPPED` (not this worker's any more) or `LOST` (claim it again)."""
        answers: list[int] = []
        for start in range(0, len(outcomes), CHUNK):
            rows = [outcome.packed() for outcome in outcomes[start : start + CHUNK]]
            args: list[str | float | bytes] = [worker, self._ttl, self._gone, _pack(rows)]
            answers += cast(list[int], self._settle(keys=[redis_layout.RECENT], args=args))
        return answers

    def renew_lease(
        self, worker: str, lease: timedelta, fields: Mapping[str, str | int], running: Iterable[str]
    ) -> None:
        """Say that `worker` lives for another `lease`, and which tasks it has started."""
        key = redis_layout.worker_key(worker)
        self._renew_lease(
            keys=[key, f"{key}:running", redis_layout.WORKERS],
            args=[
                worker,
                int(lease.total_seconds() * 1000),
                int(time.time()),
                _pack({field: str(value) for field, value in fields.items()}),
                _pack(list(running)),
            ],
        )

    def end_lease(self, worker: str) -> None:
        """Say that `worker` has left: what it still held may be taken over at once."""
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.delete(redis_layout.worker_key(worker))
        pipeline.zrem(redis_layout.WORKERS, worker)
        pipeline.execute()

    def publish_types(self, types: Iterable[TaskType]) -> None:
        """Make task types known to the APIs, which then accept and check them."""
        offered = {entry.task_type: msgspec.json.encode(entry) for entry in types}
        if offered:
            self._redis.hset(redis_layout.TYPES, mapping=cast(Any, offered))


def batch_of(task_id: str) -> str | None:
    """Give the id of a task's batch, or None."""
    split = split_task_id(task_id)
    return None if split is None else split[0]
