"""The route that autoscalers ask: how much work a queue's workers have before them. On the API's event loop.

Kafka's lag alone would mislead one: it knows nothing of tasks that wait for their time in Redis, and tasks that run for
longer than `NEXUSQ_PARK_AFTER` are committed although they still run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import cast

import redis.asyncio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from nexusq_sdk.protocol import redis_layout
from nexusq_sdk.protocol.wire_reports import Backlog
from nexusq_sdk.protocol.words import QUEUE, RESERVED_QUEUES
from nexusq_server.answers import Answer, Endpoint
from nexusq_server.bodies import Query
from nexusq_server.clock import now_us
from nexusq_server.problems import InvalidRequest, QueueNotFound
from nexusq_server.reports import MAX_DUE, Reports

#: A task that is due within so many seconds counts: a worker's pod needs about that long to start.
DUE_SOON = 30
MAX_SOON = 86_400


class Backlogs:
    """The route's method. It raises `redis.RedisError` when Redis is away."""

    def __init__(self, client: redis.asyncio.Redis, reports: Reports) -> None:
        self._redis = client
        self._reports = reports

    async def backlog(self, request: Request) -> Response:
        """``GET /queues/{queue}/backlog``."""
        within = Query(request, "dueWithinSeconds").number("dueWithinSeconds", DUE_SOON)
        if not 0 <= within <= MAX_SOON:
            raise InvalidRequest(
                f"expected dueWithinSeconds to be from 0 to {MAX_SOON}, got {within}", field="dueWithinSeconds"
            )
        queue = request.path_params["queue"]
        if QUEUE.fullmatch(queue) is None or queue in RESERVED_QUEUES:
            raise InvalidRequest(
                f"expected a queue to be a name such as 'reports' (a-z, 0-9, '_', '-'; "
                f"not {', '.join(sorted(RESERVED_QUEUES))}), got {queue[:100]!r}",
                field="queue",
            )
        stand = await self._reports.stand()
        lanes = [lane for lane in stand.queues if lane.queue == queue]
        if not lanes:
            raise QueueNotFound(
                f"there is no queue {queue!r}: nobody has submitted to it yet, and no worker has served it; there are "
                f"{', '.join(sorted({lane.queue for lane in stand.queues})) or 'none'}"
            )
        lag, running = sum(lane.lag for lane in lanes), sum(lane.in_progress for lane in lanes)
        # Of what runs, all that is not parked stands in Kafka's lag as well.
        parked = await self._parked(queue)
        ready = max(0, lag - max(0, running - parked))
        due_soon = await self._due_soon(queue, within)
        answer = Backlog(
            queue=queue,
            backlog=ready + due_soon + running,
            ready=ready,
            due_soon=due_soon,
            in_progress=running,
            workers=max((lane.workers for lane in lanes), default=0),
        )
        return Answer(answer)

    async def _parked(self, queue: str) -> int:
        """Count the tasks that run although the commit has gone past them."""
        pipeline = self._redis.pipeline(transaction=False)
        workers = cast(list[bytes], await self._redis.zrange(redis_layout.WORKERS, 0, -1))
        for worker in workers:
            key = redis_layout.worker_key(worker.decode())
            pipeline.exists(key)
            pipeline.sinter([f"{key}:running", f"{key}:parked"])
        answers = await pipeline.execute() if workers else []
        live = [names for alive, names in zip(answers[::2], answers[1::2], strict=True) if alive]
        return await self._of_queue(queue, [name for names in live for name in names])

    async def _due_soon(self, queue: str, within: int) -> int:
        """Count what is due within so many seconds; of very many, the first ones tell the queue's share."""
        until = now_us() + within * 1_000_000
        names = cast(
            list[bytes], await self._redis.zrange(redis_layout.DUE, "-inf", until, byscore=True, offset=0, num=MAX_DUE)
        )
        count = await self._of_queue(queue, names)
        if len(names) == MAX_DUE:
            count = round(count * await self._redis.zcount(redis_layout.DUE, "-inf", until) / MAX_DUE)
        return count

    async def _of_queue(self, queue: str, names: Collection[bytes]) -> int:
        counts = await self._reports.count([name.decode() for name in names])
        return sum(count for (of, _), count in counts.items() if of == queue)


def routes(endpoint: Callable[[str], Endpoint]) -> list[Route]:
    """Give the routes; `endpoint` makes that of a method's name."""
    return [Route("/queues/{queue}/backlog", endpoint("backlog"), methods=["GET"])]
