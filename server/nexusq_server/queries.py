"""Reads for the API: one task, a batch's counters, pages of tasks by columns. On the event loop, never blocking it.

Results, errors and payloads are JSON in Redis already: they go into the answer as they are.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple, cast

import msgspec
import redis
import redis.asyncio
from msgspec import Raw

from nexusq_sdk.protocol import columns, ids, redis_layout
from nexusq_sdk.protocol.columns import Read, Wanted
from nexusq_sdk.protocol.views import SAID_FIELDS, batch_view, first_expiry, moment, sampled, task_said, task_view
from nexusq_sdk.protocol.waits import ASK_REDIS, pauses, read_task, read_task_script
from nexusq_sdk.protocol.wire import BatchView, TaskSaid, TaskView, WorkerView
from nexusq_sdk.protocol.words import Status
from nexusq_server.clock import now_us
from nexusq_server.problems import BatchNotFound, IdempotencyConflict, InvalidRequest, TaskExpired, TaskNotFound

#: Rows that one request for ``GET /tasks`` looks at; a page may be shorter and still have a next one.
MAX_SCANNED = 20_000
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class Unit(NamedTuple):
    """What `redis_layout.RECENT` holds: a batch or a single task, and how many of its rows are to be looked at."""

    score: str
    member: str
    rows: int
    is_batch: bool


@dataclass(frozen=True)
class Filters:
    """What ``GET /tasks`` asks for; None: any."""

    status: Status | None = None
    task_type: str | None = None
    batch: str | None = None
    since_us: int | None = None


class Queries:
    """The reads. Every method raises `redis.RedisError` when Redis is away."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._redis = client
        self._read_columns = client.register_script(columns.script())
        self._read_task: Any = client.register_script(read_task_script())

    async def read(self, task_ids: Sequence[str], names: Sequence[str]) -> list[Read]:
        """Give the fields of tasks, in their order; of less tasks than were named where that is very much."""
        parts: list[Read] = []
        start, left = 0, columns.PAGE_BYTES
        while start < len(task_ids) and left > 0:
            part = await self._slice(task_ids[start : start + columns.SLICE], names, left)
            parts.append(part)
            start += part.looked
            left -= part.bytes
        return parts

    async def _slice(
        self, task_ids: Sequence[str], names: Sequence[str], most_bytes: int, wanted: Wanted | None = None
    ) -> Read:
        args = columns.arguments(task_ids, names, most_bytes, wanted)
        return columns.answer(cast(list[Any], await self._read_columns(keys=[], args=args)), wanted)

    async def rows(self, task_ids: Sequence[str], names: Sequence[str]) -> list[tuple[Any, ...]]:
        """Give the fields of tasks, a row each, decoded: few fields of many tasks, or of a few tasks everything."""
        rows: list[tuple[Any, ...]] = []
        while len(rows) < len(task_ids):
            for part in await self.read(task_ids[len(rows) :], names):
                rows += zip(*part.lists(), strict=True)
        return rows

    async def task(self, task_id: str, hold: float = 0.0) -> TaskView:
        """Give all that is known of a task, as soon as it has ended, but not later than `hold` seconds from now.

        Raises
        ------
        TaskNotFound, TaskExpired
        """
        if not ids.is_task_id(task_id):
            raise TaskNotFound(f"expected a task id, <uuid> or <uuid>-<index> in lower case, got {task_id!r}")
        until = time.monotonic() + hold
        for pause in pauses(ASK_REDIS):
            left = until - time.monotonic()
            answer = await self._read_task(keys=[redis_layout.task_key(task_id)], args=[int(left > 0)])
            if answer is not None:
                break
            await asyncio.sleep(min(pause, max(0.0, left)))
        state, expires = read_task(answer)
        if state:
            return task_view(task_id, state, expires)
        absent = await self._absent(task_id)
        if absent is not None:
            raise absent
        return await self.task(task_id)

    async def known(
        self, task_ids: Sequence[str], task_type: str, payloads: Sequence[Raw], *, rows: bool, first: int = 0
    ) -> list[Status]:
        """Give the statuses of those tasks that an idempotency key was used for before.

        Raises
        ------
        IdempotencyConflict
            If one of them is other work: another type, another payload.
        TaskExpired
            If a single task was there and its state has expired.
        """
        found = []
        for row, (task_id, payload, (kind, has, status)) in enumerate(
            zip(task_ids, payloads, await self.rows(task_ids, ("taskType", "payload", "status")), strict=True),
            first,
        ):
            if status is None:
                absent = None if rows else await self._absent(task_id)
                if isinstance(absent, TaskExpired):
                    raise absent
                continue
            where = f"row {row}: " if rows else ""
            if kind != task_type:
                raise IdempotencyConflict(
                    f"{where}expected taskType {kind!r}, which the idempotency key was used for, got {task_type!r}"
                )
            if has is not None and has != _decode(payload):
                raise IdempotencyConflict(
                    f"{where}expected the payload that the idempotency key was used for before, got another one "
                    f"(task {task_id}); other work needs another key"
                )
            found.append(Status(status))
        return found

    async def batch(self, batch_id: str) -> BatchView:
        """Give a batch's counters.

        Raises
        ------
        BatchNotFound
        """
        if not ids.is_id(batch_id):
            raise BatchNotFound(f"expected a batch id, a uuid in lower case, got {batch_id!r}")
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.hgetall(redis_layout.batch_key(batch_id))
        pipeline.zrevrange(redis_layout.said_key(batch_id), 0, -1)
        state, speakers = cast(tuple[dict[bytes, bytes], list[bytes]], await pipeline.execute())
        if b"submittedUs" not in state:
            raise BatchNotFound(f"there is no batch {batch_id}: it never was, or was forgotten long after its end")
        said = await self._said(speakers) if speakers and b"finishedUs" not in state else []
        return batch_view(batch_id, state, now_us(), await self._first_expiry(batch_id, state), said)

    async def _said(self, task_ids: list[bytes]) -> list[TaskSaid]:
        pipeline = self._redis.pipeline(transaction=False)
        for task_id in task_ids:
            pipeline.hmget(redis_layout.task_key(task_id.decode()), SAID_FIELDS)
        return task_said(task_ids, await pipeline.execute())

    async def _first_expiry(self, batch_id: str, state: dict[bytes, bytes]) -> datetime | None:
        if b"finishedUs" not in state:
            return None
        pipeline = self._redis.pipeline(transaction=False)
        for task_id in sampled(batch_id, int(state.get(b"size", 0))):
            pipeline.pexpiretime(redis_layout.task_key(task_id))
        return first_expiry(await pipeline.execute())

    async def batch_page(self, batch_id: str, cursor: str | None, limit: int, payload: bool, first: int = 0) -> bytes:
        """Give a page of a batch's tasks by rows, from row `first` or the cursor on, as the JSON of a `TaskPage`."""
        size = (await self.batch(batch_id)).size
        if cursor:
            [first] = read_cursor(cursor, int)
        names = columns.fields(payload=payload)
        parts = await self._rows_of_batch(batch_id, first, min(size, first + limit), names)
        end = first + sum(part.looked for part in parts)
        task_ids = [ids.task_id(batch_id, index) for index in range(first, end)]
        return columns.page(task_ids, names, parts, cursor_of(end) if end < size else None)

    async def _rows_of_batch(self, batch_id: str, first: int, end: int, names: Sequence[str]) -> list[Read]:
        """Read rows of a batch: the first of them where they are large."""
        ask: Any = self._redis.execute_command  # which redis-py has not typed
        rows = columns.BatchRows(batch_id, first, end, names)
        rows.opened(await ask(*rows.opening))
        parts: list[Read] = []
        left = columns.PAGE_BYTES
        while left > 0 and (asked := rows.ask()):
            count, command = asked
            parts.append(rows.answer(count, await ask(*command)))
            left -= parts[-1].bytes
        return parts

    async def lookup(self, task_ids: Sequence[str], results: bool) -> bytes:
        """Give these tasks, in their order, as the JSON of a `wire.TaskPage`; null where one is not known.

        Of very large results less tasks than were named: those that are left are to be asked for again.
        """
        names = columns.fields(results=results)
        parts = await self.read(task_ids, names)
        return columns.page(task_ids[: sum(part.looked for part in parts)], names, parts, None)

    async def page(self, filters: Filters, cursor: str | None, limit: int, payload: bool) -> bytes:
        """Give a page of all tasks that match, newest first, as the JSON of a `wire.TaskPage`."""
        names = columns.fields(payload=payload)
        found: list[str] = []
        parts: list[Read] = []
        scanned, left = 0, columns.PAGE_BYTES
        position = tuple(read_cursor(cursor, str, str, int)) if cursor else None
        if position and not position[0].isdecimal():
            raise _bad_cursor(cursor)
        while True:
            units = await self._units(filters, position)
            if not units:
                return columns.page(found, names, parts, None)
            rows = _rows(units, position)
            # Read many at a time, whether they are a batch's or stand alone; of a short page not many too many.
            while block := list(itertools.islice(rows, min(columns.SLICE, max(limit, 100)))):
                if len(found) >= limit or scanned >= MAX_SCANNED or left <= 0:
                    return columns.page(found, names, parts, cursor_of(*block[0][:3]))
                wanted = Wanted(filters.status, filters.task_type, filters.since_us, limit - len(found))
                part = await self._slice([name for *_, name in block], names, left, wanted)
                found += [block[place][3] for place in part.positions]
                parts.append(part)
                scanned += part.looked
                left -= part.bytes
                if part.looked < len(block):
                    return columns.page(found, names, parts, cursor_of(*block[part.looked][:3]))
            position = (*units[-1][:2], 0)

    async def workers(self) -> list[WorkerView]:
        """Give the live workers."""
        names = [name.decode() for name in cast(list[bytes], await self._redis.zrange(redis_layout.WORKERS, 0, -1))]
        pipeline = self._redis.pipeline(transaction=False)
        for name in names:
            pipeline.hgetall(redis_layout.worker_key(name))
        leases: list[dict[bytes, bytes]] = await pipeline.execute() if names else []
        return [
            WorkerView(
                worker=name,
                queues=lease[b"queues"].decode().split(","),
                task_types=lease[b"taskTypes"].decode().split(","),
                concurrency=int(lease[b"concurrency"]),
                processes=int(lease.get(b"processes", 0)),
                running=int(lease[b"running"]),
                settled=int(lease[b"settled"]),
                rejected=int(lease[b"rejected"]),
                started_at=cast(datetime, moment(lease[b"startedUs"])),
            )
            for name, lease in zip(names, leases, strict=True)
            if b"startedUs" in lease
        ]

    async def _absent(self, task_id: str) -> TaskNotFound | TaskExpired | None:
        """Say why a task has no state; None: it has one by now.

        In one step with the look for what is left of it: that is written together with a task's end.
        """
        split = ids.split_task_id(task_id)
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.exists(redis_layout.task_key(task_id))
        if split is None:
            pipeline.exists(redis_layout.GONE + task_id)
        else:
            pipeline.hget(redis_layout.batch_key(split[0]), "size")
        here, left = await pipeline.execute()
        if here:
            return None
        was = left if split is None else left is not None and split[1] < int(left)
        if was:
            return TaskExpired(f"task {task_id} has ended and its state is not kept any more (NEXUSQ_RESULT_TTL)")
        return TaskNotFound(f"there is no task {task_id}: it was never accepted, or forgotten long after its end")

    async def _units(self, filters: Filters, position: tuple[Any, ...] | None) -> list[Unit]:
        """Give single tasks and batches from `position` on, newest first."""
        if filters.batch is not None:
            if position and position[2] == 0:
                return []
            view = await self.batch(filters.batch)
            return [Unit("0", filters.batch, view.size, True)]
        upper = position[0] if position else "+inf"
        lower = filters.since_us if filters.since_us is not None else "-inf"
        raw = cast(
            list[tuple[bytes, float]],
            await self._redis.zrevrangebyscore(redis_layout.RECENT, upper, lower, 0, 200, withscores=True),
        )
        members = [(f"{score:.0f}", member.decode()) for member, score in raw]
        if position:
            # Members of one score come in descending order: those at or before the position are done with.
            members = [
                entry
                for entry in members
                if entry[0] != position[0] or entry[1] < position[1] or (entry[1] == position[1] and position[2] > 0)
            ]
        pipeline = self._redis.pipeline(transaction=False)
        for _, member in members:
            status = filters.status.value if filters.status else "size"
            pipeline.hmget(redis_layout.batch_key(member), "size", "taskType", status)
        units = []
        for (score, member), (size, task_type, count) in zip(
            members, await pipeline.execute() if members else [], strict=True
        ):
            rows = 1 if size is None else int(size)
            if size is not None and (
                (filters.task_type and task_type != filters.task_type.encode())
                or (filters.status and int(count or 0) <= 0)
            ):
                rows = 0  # nothing in this batch can match
            units.append(Unit(score, member, rows, size is not None))
        return units


def _rows(units: list[Unit], position: tuple[Any, ...] | None) -> Iterator[tuple[str, str, int, str]]:
    """Give the rows of units from the last one down: score, id of the unit, the row's number from 1, the task's id."""
    for score, member, rows, is_batch in units:
        top = min(rows, cast(int, position[2])) if position and position[1] == member else rows
        for number in range(top, 0, -1):
            yield score, member, number, ids.task_id(member, number - 1) if is_batch else member


def cursor_of(*parts: str | int) -> str:
    """Give the text of a cursor."""
    return base64.urlsafe_b64encode(_encode(parts)).rstrip(b"=").decode()


def read_cursor(cursor: str, *types: type) -> list[Any]:
    """Read a cursor. Raises `InvalidRequest` for what is none."""
    try:
        parts = msgspec.json.decode(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)), type=list[Any])
    except (ValueError, msgspec.DecodeError, RecursionError):
        parts = []
    right = len(parts) == len(types) and all(type(part) is kind for part, kind in zip(parts, types, strict=False))
    if not right or any(isinstance(part, int) and part < 0 for part in parts):
        raise _bad_cursor(cursor)
    return parts


def _bad_cursor(cursor: object) -> InvalidRequest:
    return InvalidRequest(
        f"expected cursor to be the nextCursor of an earlier page, got {str(cursor)[:200]!r}", field="cursor"
    )


_SPANS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_since(text: str) -> int:
    """Read ``15m``, ``2h``, ``1d`` or an RFC 3339 time as microseconds since 1970."""
    if re.fullmatch(r"[0-9]{1,12}[smhd]", text):
        return int((time.time() - int(text[:-1]) * _SPANS[text[-1]]) * 1_000_000)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(
            f"expected since to be a span such as 15m, 2h or 1d, or a time such as 2026-01-31T12:00:00Z, got {text!r}",
            field="since",
        ) from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1_000_000)
