"""Routes of reports: the batches, and the queues with what waits in them. On the API's event loop.

What Kafka knows of queues is asked in a thread, once a second at the most, whoever asks.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import cast

import redis.asyncio
from kafka import KafkaAdminClient
from kafka.errors import KafkaError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from nexusq_sdk.protocol import redis_layout
from nexusq_sdk.protocol.views import batch_view
from nexusq_sdk.protocol.wire import BatchView
from nexusq_sdk.protocol.wire_reports import Batches, LaneView, Queues
from nexusq_sdk.protocol.words import DEFAULT_QUEUE, Priority
from nexusq_server.answers import Answer, Endpoint
from nexusq_server.bodies import Query
from nexusq_server.clock import now_us
from nexusq_server.lanes import Lane, Lanes, Stand
from nexusq_server.problems import KafkaUnavailable
from nexusq_server.queries import Queries, cursor_of, parse_since, read_cursor
from nexusq_server.settings import Settings

#: Seconds for which ``GET /queues`` answers the same.
FRESH = 1.0
#: Tasks that one request for ``GET /batches`` passes over; a page may be shorter and still have a next one.
MAX_PASSED = 20_000
#: Tasks that wait for their time, of which one request looks at queue and priority; of more, the shares are taken.
MAX_DUE = 5_000


class Reports:
    """The routes' methods. Every one raises `redis.RedisError` when Redis is away."""

    def __init__(self, settings: Settings, client: redis.asyncio.Redis, queries: Queries) -> None:
        self._settings = settings
        self._redis = client
        self._queries = queries
        self._lanes = Lanes()
        self._admin: KafkaAdminClient | None = None
        self._lock = asyncio.Lock()
        self._answered: tuple[float, Queues] | None = None

    async def batches(self, request: Request) -> Response:
        """``GET /batches``: newest first."""
        asked = Query(request, "since", "cursor", "limit")
        since, cursor = asked.text("since"), asked.text("cursor")
        lowest = parse_since(since) if since else None
        upper, below = read_cursor(cursor, str, str) if cursor else ("+inf", None)
        if cursor and not upper.isdecimal():
            read_cursor("", str)  # refuses it
        found, position = await self._page(upper, below, lowest, asked.limit())
        return Answer(Batches(batches=found, next_cursor=cursor_of(*position) if position else None))

    async def _page(
        self, upper: str, below: str | None, lowest: int | None, limit: int
    ) -> tuple[list[BatchView], tuple[str, str] | None]:
        found: list[BatchView] = []
        passed = 0
        while True:
            members = await self._members(upper, below, lowest, max(200, min(limit, 1000)))
            if not members:
                return found, None
            pipeline = self._redis.pipeline(transaction=False)
            for _, member in members:
                pipeline.hgetall(redis_layout.batch_key(member))
            now = now_us()
            for (score, member), state in zip(members, await pipeline.execute(), strict=True):
                upper, below = score, member
                passed += 1
                if b"submittedUs" in state:
                    found.append(batch_view(member, state, now))
                if len(found) >= limit or passed >= MAX_PASSED:
                    return found, (upper, below)

    async def _members(self, upper: str, below: str | None, lowest: int | None, count: int) -> list[tuple[str, str]]:
        """Give what was submitted before the position, newest first; members of one score in descending order."""
        lower: str | int = "-inf" if lowest is None else lowest
        at_once = cast(
            list[tuple[bytes, float]],
            await self._redis.zrevrangebyscore(redis_layout.RECENT, upper, lower, 0, count, withscores=True),
        )
        members = [(f"{score:.0f}", member.decode()) for member, score in at_once]
        return [entry for entry in members if below is None or entry[0] != upper or entry[1] < below]

    async def queues(self, request: Request) -> Response:
        """``GET /queues``: by queue and priority."""
        Query(request)
        return Answer(await self.stand())

    async def stand(self) -> Queues:
        """Give how the queues stand, or stood within the last second."""
        async with self._lock:
            if self._answered is None or time.monotonic() - self._answered[0] > FRESH:
                self._answered = (time.monotonic(), await self._read_queues())
            return self._answered[1]

    async def _read_queues(self) -> Queues:
        running, due = await self._running(), await self._due()
        try:
            stands = await asyncio.to_thread(self._ask_kafka)
        except KafkaError as error:
            raise KafkaUnavailable(f"Kafka at {','.join(self._settings.kafka)} does not answer: {error}") from None
        served = Counter(queue for worker in await self._queries.workers() for queue in worker.queues)
        return Queues(
            queues=[
                LaneView(
                    queue=queue,
                    priority=priority,
                    lag=stand.lag,
                    due=due[queue, priority.value],
                    in_progress=running[queue, priority.value],
                    rate_per_second=stand.rate_per_second,
                    workers=served[queue],
                )
                for queue in sorted({queue for queue, _ in stands})
                for priority in Priority
                for stand in [stands.get((queue, priority.value), Stand(0, None))]
            ]
        )

    def _ask_kafka(self) -> dict[Lane, Stand]:
        if self._admin is None:
            self._admin = KafkaAdminClient(
                **self._settings.kafka_client, bootstrap_timeout_ms=1000, request_timeout_ms=5000
            )
        return self._lanes.read(self._admin)

    async def _running(self) -> Counter[Lane]:
        workers = [name.decode() for name in cast(list[bytes], await self._redis.zrange(redis_layout.WORKERS, 0, -1))]
        pipeline = self._redis.pipeline(transaction=False)
        for worker in workers:
            pipeline.exists(redis_layout.worker_key(worker))
            pipeline.smembers(f"{redis_layout.worker_key(worker)}:running")
        answers = await pipeline.execute() if workers else []
        live = [names for alive, names in zip(answers[::2], answers[1::2], strict=True) if alive]
        return await self.count([name.decode() for names in live for name in names])

    async def _due(self) -> Counter[Lane]:
        names = [
            name.decode() for name in cast(list[bytes], await self._redis.zrange(redis_layout.DUE, 0, MAX_DUE - 1))
        ]
        counts = await self.count(names)
        if len(names) == MAX_DUE:
            whole = await self._redis.zcard(redis_layout.DUE) / MAX_DUE
            counts = Counter({lane: round(whole * count) for lane, count in counts.items()})
        return counts

    async def count(self, task_ids: Sequence[str]) -> Counter[Lane]:
        """Count tasks by queue and priority, as far as they are known."""
        rows = await self._queries.rows(task_ids, ("queue", "priority", "status"))
        return Counter(
            (queue or DEFAULT_QUEUE, priority or Priority.NORMAL.value)
            for queue, priority, status in rows
            if status is not None
        )

    def close(self) -> None:
        """Let go of Kafka."""
        if self._admin is not None:
            self._admin.close()


def routes(endpoint: Callable[[str], Endpoint]) -> list[Route]:
    """Give the routes; `endpoint` makes that of a method's name."""
    return [
        Route("/batches", endpoint("batches"), methods=["GET"]),
        Route("/queues", endpoint("queues"), methods=["GET"]),
    ]
