"""Routes of schedules: list, read, create or replace, remove. Answers come once the change is on Redis's disk.

On the API's event loop. They write what a schedule is and when it ticks next; what becomes of a tick is `schedules`'.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, cast

import msgspec
import redis.asyncio
from redis import ResponseError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from nexusq_sdk.protocol.redis_layout import DURABLE, SCHEDULE_DUE, SCHEDULE_LAST, SCHEDULES
from nexusq_sdk.protocol.wire import Options, Schedule, Schedules, ScheduleView
from nexusq_sdk.protocol.words import MAX_TASK_BYTES, SCHEDULE
from nexusq_server.answers import Answer, Endpoint
from nexusq_server.bodies import Query, content_type, decode, read_body
from nexusq_server.clock import now_us
from nexusq_server.cron import Cron, CronError
from nexusq_server.options import plan
from nexusq_server.problems import InvalidRequest, RedisUnavailable, ScheduleNotFound, UnsupportedBody
from nexusq_server.store import DISK_MS

log = logging.getLogger(__name__)

#: A body holds one payload and little else.
BODY_LIMIT = 2 * MAX_TASK_BYTES
#: Options that say when or how often a task is submitted: the schedule says that.
_REFUSED = ("delay_seconds", "eta", "idempotency_key")
_decoder = msgspec.json.Decoder(Schedule)
_encode = msgspec.json.Encoder().encode
_stored = msgspec.json.Decoder(ScheduleView)

#: Refuses a task's type, payload and options as ``POST /tasks`` does.
Check = Callable[[str, list[msgspec.Raw], Options | None], Awaitable[None]]


class ScheduleRoutes:
    """The routes' methods. Every one raises `redis.RedisError` when Redis is away."""

    def __init__(self, client: redis.asyncio.Redis, check: Check) -> None:
        self._redis = client
        self._check = check

    async def schedules(self, request: Request) -> Response:
        """``GET /schedules``: all of them, by name."""
        Query(request)
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.hgetall(SCHEDULES)
        pipeline.zrange(SCHEDULE_DUE, 0, -1, withscores=True)
        pipeline.hgetall(SCHEDULE_LAST)
        stored, ahead, last = cast(tuple[dict[bytes, bytes], list[Any], dict[bytes, bytes]], await pipeline.execute())
        due = {name: float(tick) for name, tick in ahead}
        views = []
        for name in sorted(stored):
            try:
                views.append(_view(stored[name], due.get(name), last.get(name)))
            except msgspec.DecodeError as error:
                log.warning("schedule %r can't be read by this version: %s", name.decode(), error)
        return Answer(Schedules(schedules=views))

    async def schedule(self, request: Request) -> Response:
        """``GET /schedules/{name}``."""
        Query(request)
        return Answer(await self._read(request.path_params["name"]))

    async def put(self, request: Request) -> Response:
        """``PUT /schedules/{name}``: create it, or replace it; from now on it ticks as it says."""
        Query(request)
        name = _name(request)
        if content_type(request) != "json":
            raise UnsupportedBody("expected one schedule as JSON")
        wanted = decode(await read_body(request, BODY_LIMIT), _decoder)
        _check_options(wanted.options)
        await self._check(wanted.task_type, [wanted.payload], wanted.options)
        # A rare one is looked for through fifty years: not on the event loop.
        tick = await asyncio.to_thread(_next_tick, wanted)
        raw = cast(bytes | None, await self._redis.hget(SCHEDULES, name))
        before = _stored.decode(raw) if raw else None
        kept = ScheduleView(
            name=name,
            created_at=before.created_at if before else datetime.now(UTC),
            **msgspec.structs.asdict(wanted),
        )
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.hset(SCHEDULES, name, _encode(kept))
        if wanted.paused:
            pipeline.zrem(SCHEDULE_DUE, name)
        else:
            # One that is put again as it was keeps a tick that is due and not served yet.
            pipeline.zadd(SCHEDULE_DUE, {name: tick}, nx=before is not None and _ticks_alike(before, kept))
        await pipeline.execute()
        await self._wait_on_disk()
        return Answer(await self._read(name))

    async def delete(self, request: Request) -> Response:
        """``DELETE /schedules/{name}``: it ticks no more; what it has submitted runs. The answer is what it was."""
        Query(request)
        name = request.path_params["name"]
        view = await self._read(name)
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.hdel(SCHEDULES, name)
        pipeline.zrem(SCHEDULE_DUE, name)
        pipeline.hdel(SCHEDULE_LAST, name)
        await pipeline.execute()
        await self._wait_on_disk()
        view.next_at = None
        return Answer(view)

    async def _read(self, name: str) -> ScheduleView:
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.hget(SCHEDULES, name)
        pipeline.zscore(SCHEDULE_DUE, name)
        pipeline.hget(SCHEDULE_LAST, name)
        stored, tick, last = cast(tuple[bytes | None, float | None, bytes | None], await pipeline.execute())
        if stored is None:
            raise ScheduleNotFound(f"there is no schedule {name[:100]!r}; GET /schedules lists them")
        return _view(stored, tick, last)

    async def _wait_on_disk(self) -> None:
        """Return once everything written so far is on Redis's disk, as far as it has one (Redis 7.2)."""
        # WAITAOF waits for the writes of its own connection; the append-only file is one sequence.
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.set(DURABLE, "", ex=60)
        pipeline.waitaof(1, 0, DISK_MS)
        written, on_disk = await pipeline.execute(raise_on_error=False)
        if isinstance(written, Exception):
            raise written
        if isinstance(on_disk, ResponseError):
            return  # no append-only file, or an older Redis
        if isinstance(on_disk, Exception):
            raise on_disk
        if on_disk[0] < 1:
            raise RedisUnavailable(
                f"the change is not on Redis's disk after {DISK_MS / 1000:g} s; send it again to be sure of it"
            )


def routes(endpoint: Callable[[str], Endpoint]) -> list[Route]:
    """Give the routes; `endpoint` makes one of a method's name."""
    return [
        Route("/schedules", endpoint("schedules"), methods=["GET"]),
        Route("/schedules/{name}", endpoint("schedule"), methods=["GET"]),
        Route("/schedules/{name}", endpoint("put"), methods=["PUT"]),
        Route("/schedules/{name}", endpoint("delete"), methods=["DELETE"]),
    ]


def _view(stored: bytes, tick: float | None, last: bytes | None) -> ScheduleView:
    view = _stored.decode(stored)
    if tick is not None:
        view.next_at = datetime.fromtimestamp(tick, UTC)
    if last is not None:
        moment, _, view.last_task_id = last.decode().partition(" ")
        view.last_at = datetime.fromtimestamp(int(moment), UTC)
    return view


def _name(request: Request) -> str:
    name = cast(str, request.path_params["name"])
    if SCHEDULE.fullmatch(name) is None:
        raise InvalidRequest(
            f"expected a schedule's name to be such as 'nightly-report' (a letter or digit, then letters, digits, "
            f"'_', '.', ':' or '-'; 100 at most), got {name[:100]!r}",
            field="name",
        )
    return name


def _check_options(options: Options | None) -> None:
    for field in _REFUSED:
        if getattr(options, field, None) is not None:
            name = re.sub("_(.)", lambda match: match[1].upper(), field)
            raise InvalidRequest(
                f"expected options to have no {name}: cron says when a task is submitted, and each tick has an id "
                f"of its own",
                field=f"options.{name}",
            )
    plan(options, now_us())


def _ticks_alike(before: ScheduleView, now: ScheduleView) -> bool:
    return not before.paused and (before.cron, before.time_zone) == (now.cron, now.time_zone)


def _next_tick(wanted: Schedule) -> int:
    """Give the first tick from now on."""
    try:
        tick = Cron(wanted.cron, wanted.time_zone).after(datetime.now(UTC).timestamp())
    except CronError as error:
        raise InvalidRequest(str(error), field=error.field) from None
    if tick is None:
        raise InvalidRequest(
            f"expected cron to be a time that comes within 50 years, got {wanted.cron!r}, which never does",
            field="cron",
        )
    return tick
