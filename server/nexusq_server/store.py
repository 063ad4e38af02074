"""Writes to Redis, a method a verb, each beside a Lua script of the same name in ``lua/``.

Redis is the view of the tasks; Kafka is where they are safe. Called from threads (a redis-py client serves many),
never from an event loop. Many tasks a call: a script for 500 tasks costs about 1 µs each, a call for one 100 µs.
Names of keys: `nexusq_sdk.protocol.redis_layout`. One primary, no Redis Cluster: the reason stands there.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from importlib.resources import files
from typing import Any, cast

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from nexusq_sdk.protocol import redis_layout
from nexusq_sdk.protocol.wire import FailedAttempt, TaskType
from nexusq_server.clock import now_us
from nexusq_server.settings import Settings
from nexusq_server.states import UNKNOWN, DueTask, NewTask, Outcome, Recorded, Unusual

#: Tasks a script call: long enough to be cheap, short enough (about 1 ms) not to keep other clients waiting.
CHUNK = 500
#: How long a task that is due stays with the scheduler that has taken it, before another one takes it again.
TAKEN_SECONDS = 30
#: How long `Store.wait_on_disk` waits for Redis's next fsync, which comes once a second.
DISK_MS = 5000
#: How long it is known what a dead worker was running, as in renew_lease.lua.
RUNNING_TTL = timedelta(days=7)
#: How long a type is known that no worker offers any more.
TYPES_TTL = timedelta(days=90)

#: The scripts of the same names.
VERBS = ["submit", "claim", "settle", "hand_back", "take_due", "promote", "cancel", "requeue", "note", "renew_lease"]

_pack = msgspec.msgpack.Encoder().encode


def connect(settings: Settings) -> redis.Redis:
    """Make a client. It connects when used, fails fast (callers know how to wait) and checks idle connections."""
    return redis.Redis.from_url(
        settings.redis,
        socket_timeout=10,
        socket_connect_timeout=2,
        health_check_interval=15,
        retry=Retry(NoBackoff(), 1),
    )


def is_full(error: BaseException) -> bool:
    """Whether Redis refuses because its memory is full (``maxmemory`` with ``noeviction``)."""
    return isinstance(error, redis.OutOfMemoryError) or str(error).startswith("OOM ")


def register(client: Any, verb: str) -> Any:
    """Give a script of a client, of either kind, by its name."""
    lua = files("nexusq_server") / "lua"
    return client.register_script((lua / "prelude.lua").read_text() + (lua / f"{verb}.lua").read_text())


def submissions(tasks: Sequence[NewTask], settings: Settings) -> Iterator[dict[str, list[Any]]]:
    """Give what ``submit.lua`` is to be called with, once for each piece of the tasks."""
    now = now_us()
    ttl, gone = settings.result_ttl.total_seconds(), settings.gone_ttl.total_seconds()
    oldest = now - int((ttl + gone) * 1_000_000)
    for start in range(0, len(tasks), CHUNK):
        rows = [task.packed() for task in tasks[start : start + CHUNK]]
        yield {"keys": [redis_layout.RECENT], "args": [_pack(rows), oldest, now, ttl, gone]}


class Store:
    """The verbs. Every method raises `redis.RedisError` when Redis is away or refuses."""

    def __init__(self, client: redis.Redis, settings: Settings) -> None:
        self._redis = client
        self._settings = settings
        self._ttl = settings.result_ttl.total_seconds()
        self._gone = settings.gone_ttl.total_seconds()
        self._scripts: dict[str, Any] = {verb: register(client, verb) for verb in VERBS}
        self._claims: Any = None  # a connection of its own, from the first `ask` on
        self._asked: tuple[str, Sequence[Recorded], int] = ("", (), 0)

    def submit(self, tasks: Sequence[NewTask]) -> int:
        """Write the state of tasks that nobody has written yet; give how many those were."""
        return sum(cast(int, self._scripts["submit"](**call)) for call in submissions(tasks, self._settings))

    def claim(
        self, worker: str, records: Sequence[Recorded], room: int | None = None
    ) -> tuple[list[int], dict[int, Unusual]]:
        """Ask for tasks, to start `room` of them at the most.

        Gives an answer for each record that was looked at (an attempt to run, `SKIP` or `LATER`; none for those behind
        the last one that there was room for), and by its index how to run what is not as usual.
        """
        left = len(records) if room is None else room
        answers: list[int] = []
        unusual: dict[int, Unusual] = {}
        for start in range(0, len(records), CHUNK):
            chunk = records[start : start + CHUNK]
            found, rest = self._complete(worker, chunk, self._claim(worker, chunk, left))
            unusual |= {start + index: entry for index, entry in rest.items()}
            answers += found
            left -= sum(answer > 0 for answer in found)
            if left <= 0:
                break
        return answers, unusual

    def ask(self, worker: str, records: Sequence[Recorded], room: int) -> None:
        """Begin a claim of up to `CHUNK` records; `told` gives the answers. One at a time, by one thread.

        Whoever asks goes on while Redis decides. Never raises: `told` does.
        """
        self._asked = worker, records, room
        try:
            if self._claims is None:
                self._claims = self._redis.connection_pool.get_connection()
            keys, args = self._claim_call(worker, records, room)
            self._claims.send_command("EVALSHA", self._scripts["claim"].sha, len(keys), *keys, *args)
        except redis.RedisError:
            self._hang_up()

    def told(self) -> tuple[list[int], dict[int, Unusual]]:
        """Wait for what `ask` asked for; as `claim`."""
        worker, records, room = self._asked
        try:
            if self._claims is not None:
                return self._complete(worker, records, _read_claim(self._claims.read_response()))
        except (redis.ConnectionError, redis.exceptions.NoScriptError):
            # Whether Redis has carried the claim out does not matter: asked again, it says the same.
            self._hang_up()
        except redis.TimeoutError:
            self._hang_up()
            raise
        return self.claim(worker, records, room)

    def _hang_up(self) -> None:
        connection, self._claims = self._claims, None
        if connection is not None:
            connection.disconnect()
            self._redis.connection_pool.release(connection)

    def _complete(
        self, worker: str, records: Sequence[Recorded], told: tuple[list[int], dict[int, Unusual]]
    ) -> tuple[list[int], dict[int, Unusual]]:
        """Claim what has no state: mostly it is there, so only of others is all sent that it is made of."""
        answers, unusual = told
        unknown = [index for index, answer in enumerate(answers) if answer == UNKNOWN]
        if unknown:
            made, more = self._claim(worker, [records[index] for index in unknown], len(unknown), whole=True)
            for index, answer in zip(unknown, made, strict=True):
                answers[index] = answer
            unusual |= {unknown[index]: entry for index, entry in more.items()}
        return answers, unusual

    def _claim(
        self, worker: str, records: Sequence[Recorded], room: int, *, whole: bool = False
    ) -> tuple[list[int], dict[int, Unusual]]:
        keys, args = self._claim_call(worker, records, room, whole=whole)
        return _read_claim(self._scripts["claim"](keys=keys, args=args))

    def _claim_call(
        self, worker: str, records: Sequence[Recorded], room: int, *, whole: bool = False
    ) -> tuple[list[str], list[Any]]:
        limits = (self._settings.alone_after, self._settings.max_deliveries)
        rows: list[str | int] = []
        for record in records:
            rows += (record.task_id, record.number, record.batch_size or 0)
        tasks = _pack([record.task.packed() for record in records]) if whole else b""
        lease = self._settings.lease.total_seconds()
        args = [worker, now_us(), self._ttl, self._gone, *limits, _pack(rows), lease, room, tasks]
        return [redis_layout.RECENT, redis_layout.DUE], args

    def settle(self, worker: str, outcomes: Sequence[Outcome]) -> list[int]:
        """Write outcomes: for each `SETTLED`, `DROPPED` (not this worker's any more) or `LOST` (claim it again)."""
        answers: list[int] = []
        dead = self._settings.dead_letter_ttl.total_seconds()
        oldest = now_us() - int(dead * 1_000_000)
        for start in range(0, len(outcomes), CHUNK):
            row = list(itertools.chain.from_iterable(outcomes[start : start + CHUNK]))
            args = [worker, self._ttl, self._gone, dead, oldest, _pack(row)]
            keys = [redis_layout.DUE, redis_layout.DEAD]
            answers += cast(list[int], self._scripts["settle"](keys=keys, args=args))
        return answers

    def history(self, task_id: str) -> list[FailedAttempt]:
        """Give the attempts at a task that have failed."""
        history = cast(bytes | None, self._redis.hget(redis_layout.task_key(task_id), "history"))
        return msgspec.json.decode(history, type=list[FailedAttempt]) if history else []

    def hand_back(self, worker: str, tasks: Sequence[tuple[str, int]]) -> int:
        """Give back tasks (id, attempt) that a stopping worker has not ended; give how many were still its own."""
        given = 0
        for start in range(0, len(tasks), CHUNK):
            args = [worker, self._ttl, self._gone, now_us(), _pack(list(tasks[start : start + CHUNK]))]
            given += cast(int, self._scripts["hand_back"](keys=[], args=args))
        return given

    def take_due(self, limit: int) -> list[DueTask]:
        """Take up to `limit` tasks whose time has come. They are to be produced, then to be promoted."""
        now = now_us()
        args = [now, now + TAKEN_SECONDS * 1_000_000, limit]
        rows = cast(list[list[bytes | None]], self._scripts["take_due"](keys=[redis_layout.DUE], args=args))
        return [DueTask.of(row) for row in rows]

    def promote(self, tasks: Sequence[DueTask]) -> int:
        """Mark tasks as QUEUED whose records Kafka has now; give how many were SCHEDULED."""
        args = [self._ttl, self._gone, _pack([(task.task_id, task.record) for task in tasks])]
        return cast(int, self._scripts["promote"](keys=[redis_layout.DUE], args=args))

    def cancel(self, task_ids: Sequence[str]) -> list[str]:
        """Cancel tasks that wait, tell the workers of those that run; give each one's status, "" for unknown."""
        answers: list[str] = []
        for start in range(0, len(task_ids), CHUNK):
            args = [now_us(), self._ttl, self._gone, _pack(list(task_ids[start : start + CHUNK]))]
            found = cast(list[bytes], self._scripts["cancel"](keys=[redis_layout.DUE], args=args))
            answers += [status.decode() for status in found]
        return answers

    def requeue(self, task_ids: Sequence[str], statuses: Iterable[str]) -> int:
        """Take tasks back that ended with one of `statuses`; give how many."""
        taken = 0
        for start in range(0, len(task_ids), CHUNK):
            chunk = _pack(list(task_ids[start : start + CHUNK]))
            args = [now_us(), self._ttl, self._gone, chunk, _pack(list(statuses))]
            taken += cast(int, self._scripts["requeue"](keys=[redis_layout.DUE, redis_layout.DEAD], args=args))
        return taken

    def wait_on_disk(self) -> None:
        """Return once everything written so far is on Redis's disk, as far as it has one (Redis 7.2)."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.set(redis_layout.DURABLE, "", ex=60)
        pipeline.waitaof(1, 0, DISK_MS)
        for answer in pipeline.execute(raise_on_error=False):
            if isinstance(answer, Exception) and not isinstance(answer, redis.ResponseError):
                raise answer

    def mark_batch_cancelled(self, batch_id: str) -> None:
        """Say that whatever of a batch is still to come is cancelled."""
        self._redis.hset(redis_layout.batch_key(batch_id), "cancelled", "1")

    def renew_lease(
        self, worker: str, lease: timedelta, fields: Mapping[str, str | int], running: Iterable[str]
    ) -> bool:
        """Say that `worker` lives for another `lease` (none: that it has died), and which tasks it has started.

        False if its lease had run out: what it had claimed may be another worker's.
        """
        key = redis_layout.worker_key(worker)
        shown = _pack({field: str(value) for field, value in fields.items()})
        lasted = self._scripts["renew_lease"](
            keys=[key, f"{key}:running", redis_layout.WORKERS],
            args=[worker, int(lease.total_seconds() * 1000), int(time.time()), shown, _pack(list(running))],
        )
        return bool(lasted)

    def note_running(self, worker: str, running: Sequence[str]) -> None:
        """Say which tasks a worker has started that is not renewed for any more."""
        key = f"{redis_layout.worker_key(worker)}:running"
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.delete(key)
        if running:
            pipeline.sadd(key, *running)
            pipeline.expire(key, RUNNING_TTL)
        pipeline.execute()

    def note(self, worker: str, notes: Sequence[tuple[str, int, float | None, str, Sequence[str]]]) -> int:
        """Write what handlers have said of their tasks: (id, attempt, progress, text, lines); give how many it has."""
        written = 0
        for start in range(0, len(notes), CHUNK):
            rows = [
                (name, attempt, "" if done is None else repr(done), text, msgspec.json.encode(lines).decode())
                for name, attempt, done, text, lines in notes[start : start + CHUNK]
            ]
            written += cast(int, self._scripts["note"](keys=[], args=[worker, _pack(rows)]))
        return written

    def end_lease(self, worker: str) -> None:
        """Say that `worker` has left: what it still held may be taken over at once."""
        key = redis_layout.worker_key(worker)
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.delete(key, f"{key}:cancel")
        pipeline.execute()

    def park(self, worker: str, task_ids: Sequence[str]) -> None:
        """Note that these tasks' offsets are committed before their end: they are produced again if the worker dies."""
        self._redis.sadd(f"{redis_layout.worker_key(worker)}:parked", *task_ids)

    def unpark(self, worker: str, task_ids: Sequence[str]) -> None:
        """Note that tasks which this worker has parked have ended elsewhere."""
        self._redis.srem(f"{redis_layout.worker_key(worker)}:parked", *task_ids)

    def cancels(self, worker: str) -> list[str]:
        """Take the ids of running tasks that `worker` is to cancel."""
        taken = self._redis.spop(f"{redis_layout.worker_key(worker)}:cancel", 1000)
        return [name.decode() for name in cast(set[bytes], taken)]

    def dead_workers(self) -> list[str]:
        """Give the workers whose lease has ended and of whom something may be left."""
        names = [name.decode() for name in cast(list[bytes], self._redis.zrange(redis_layout.WORKERS, 0, -1))]
        pipeline = self._redis.pipeline(transaction=False)
        for name in names:
            pipeline.exists(redis_layout.worker_key(name))
        alive = pipeline.execute() if names else []
        return [name for name, lives in zip(names, alive, strict=True) if not lives]

    def parked(self, worker: str) -> tuple[list[str], list[DueTask]]:
        """Give the ids that a worker has parked, and those of them that have not ended, as records to be written
        again.
        """
        key = f"{redis_layout.worker_key(worker)}:parked"
        names = [name.decode() for name in cast(set[bytes], self._redis.smembers(key))]
        fields = ("taskType", "payload", "queue", "priority", "options", "record", "status")
        pipeline = self._redis.pipeline(transaction=False)
        for name in names:
            pipeline.hmget(redis_layout.task_key(name), fields)
        tasks = []
        for name, row in zip(names, pipeline.execute() if names else [], strict=True):
            if row[6] in {b"IN_PROGRESS", b"QUEUED"}:
                tasks.append(DueTask.of([name.encode(), *row[:6]]))
        return names, tasks

    def forget_worker(self, worker: str, parked: Sequence[str]) -> None:
        """Take what a dead worker had parked out of its set, and it out of the list if nothing of it is left.

        It may live again meanwhile (its lease had run out while Redis was away): what it parks now stays.
        """
        key = f"{redis_layout.worker_key(worker)}:parked"
        if parked:
            self._redis.srem(key, *parked)
        if not self._redis.exists(key):
            self._redis.zrem(redis_layout.WORKERS, worker)

    def note_dead_record(self, name: str, letter: bytes) -> None:
        """Put the dead letter of a record that was no task into the list."""
        ttl = int(self._settings.dead_letter_ttl.total_seconds())
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.set(redis_layout.DEAD_RECORD + name, letter, ex=ttl)
        pipeline.zadd(redis_layout.DEAD, {f"record:{name}": now_us()})
        pipeline.execute()

    def publish_types(self, types: Iterable[TaskType]) -> None:
        """Make task types known to the APIs, which then accept and check them."""
        offered = {entry.task_type: msgspec.json.encode(entry) for entry in types}
        if offered:
            self._redis.hset(redis_layout.TYPES, mapping=cast(Any, offered))
            self._redis.expire(redis_layout.TYPES, TYPES_TTL)


def _read_claim(reply: Any) -> tuple[list[int], dict[int, Unusual]]:
    """Read what ``claim.lua`` gives."""
    answers, rest = cast(tuple[list[int], list[int]], reply)
    return answers, {rest[at] - 1: Unusual(*rest[at + 1 : at + 4]) for at in range(0, len(rest), 4)}
