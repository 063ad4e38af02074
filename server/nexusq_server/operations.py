"""Routes that change what was submitted: cancel, retry, dead letters; answered once the change is on Redis's disk.
And the look-up of tasks by their ids.

On the event loop; the writes are `Store`'s, called in threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from nexusq_sdk.protocol import ids
from nexusq_sdk.protocol.wire import DeadLetters, Lookup, Requeue, Requeued, Submitted
from nexusq_sdk.protocol.words import Status
from nexusq_server.answers import Answer, Endpoint
from nexusq_server.bodies import MAX_PAGE, Query, content_type, decode, read_body
from nexusq_server.letters import Letters
from nexusq_server.problems import InvalidRequest, NotRetryable, UnsupportedBody
from nexusq_server.queries import Queries
from nexusq_server.settings import Settings
from nexusq_server.store import Store, connect

#: Tasks of a batch that are looked at before other clients of Redis have a turn.
SLICE = 5000
ENDED_BADLY = (Status.FAILED.value, Status.CANCELLED.value)
_decoder = msgspec.json.Decoder(Requeue)
_lookup_decoder = msgspec.json.Decoder(Lookup)
_encode = msgspec.json.Encoder().encode


class Operations:
    """The routes' methods. Every one raises `redis.RedisError` when Redis is away."""

    def __init__(self, settings: Settings, queries: Queries) -> None:
        self._limit = settings.max_body_mib * 2**20
        self._client = connect(settings)
        self.store = Store(self._client, settings)
        self._letters = Letters(self._client)
        self._queries = queries

    async def cancel_task(self, request: Request) -> Response:
        """``POST /tasks/{taskId}/cancel``: at once where it waits; where it runs, its handler is asked to end."""
        Query(request)
        task_id = request.path_params["task_id"]
        await self._queries.task(task_id)
        [status] = await asyncio.to_thread(self.store.cancel, [task_id])
        await asyncio.to_thread(self.store.wait_on_disk)
        return Answer(Submitted(task_id=task_id, status=Status(status or Status.CANCELLED)))

    async def retry_task(self, request: Request) -> Response:
        """``POST /tasks/{taskId}/retry``: a task that failed or was cancelled gets all its attempts again."""
        Query(request)
        task_id = request.path_params["task_id"]
        view = await self._queries.task(task_id)
        if not await asyncio.to_thread(self.store.requeue, [task_id], ENDED_BADLY):
            raise NotRetryable(
                f"expected task {task_id} to be {' or '.join(ENDED_BADLY)}, since only what has ended badly is tried "
                f"again; it is {view.status}"
            )
        await asyncio.to_thread(self.store.wait_on_disk)
        return Answer(Submitted(task_id=task_id, status=Status.SCHEDULED))

    async def cancel_batch(self, request: Request) -> Response:
        """``POST /batches/{batchId}/cancel``: all its tasks that have not ended, and those that are still to come."""
        Query(request)
        batch_id = request.path_params["batch_id"]
        size = (await self._queries.batch(batch_id)).size
        # First the mark: what is claimed from now on is cancelled by the claim.
        await asyncio.to_thread(self.store.mark_batch_cancelled, batch_id)
        for names in _members(batch_id, size):
            await asyncio.to_thread(self.store.cancel, names)
        await asyncio.to_thread(self.store.wait_on_disk)
        return Answer(await self._queries.batch(batch_id))

    async def retry_batch(self, request: Request) -> Response:
        """``POST /batches/{batchId}/retry``: those of its tasks that failed; with ``?cancelled=true`` these as well."""
        statuses = ENDED_BADLY if Query(request, "cancelled").flag("cancelled") else ENDED_BADLY[:1]
        batch_id = request.path_params["batch_id"]
        size = (await self._queries.batch(batch_id)).size
        requeued = 0
        for names in _members(batch_id, size):
            requeued += await asyncio.to_thread(self.store.requeue, names, statuses)
        await asyncio.to_thread(self.store.wait_on_disk)
        return Answer(Requeued(requeued=requeued))

    async def lookup(self, request: Request) -> Response:
        """``POST /tasks/lookup``: how tasks stand, by columns in the order that was asked for."""
        Query(request)
        if content_type(request) != "json":
            raise UnsupportedBody("expected what to look up as JSON")
        wanted = decode(await read_body(request, self._limit), _lookup_decoder)
        if len(wanted.task_ids) > MAX_PAGE:
            raise InvalidRequest(
                f"expected at most {MAX_PAGE} taskIds, got {len(wanted.task_ids)}; ask several times", field="taskIds"
            )
        _check_ids(wanted.task_ids)
        page = await self._queries.lookup(wanted.task_ids, wanted.results)
        return Answer(page)

    async def dead_letters(self, request: Request) -> Response:
        """``GET /dead-letters``: newest first."""
        asked = Query(request, "type", "batch", "cursor", "limit")
        letters, cursor = await asyncio.to_thread(
            self._letters.page, asked.text("type"), asked.text("batch"), asked.text("cursor"), asked.limit()
        )
        return Answer(DeadLetters(dead_letters=letters, next_cursor=cursor))

    async def requeue(self, request: Request) -> Response:
        """``POST /dead-letters/requeue``: tasks by id, of a batch, of a type, or all."""
        Query(request)
        if content_type(request) != "json":
            raise UnsupportedBody("expected what to requeue as JSON")
        wanted = decode(await read_body(request, self._limit), _decoder)
        said = [wanted.task_ids is not None, wanted.batch is not None, wanted.type is not None, wanted.all]
        if sum(said) != 1:
            raise InvalidRequest(
                f"expected one of taskIds, batch, type and all (true), got {sum(said) or 'none'} of them"
            )
        _check_ids(wanted.task_ids or ())
        requeued = await asyncio.to_thread(self._requeue, wanted)
        return Answer(Requeued(requeued=requeued))

    def _requeue(self, wanted: Requeue) -> int:
        names = wanted.task_ids
        if names is None:
            names = self._letters.task_ids(wanted.type, wanted.batch)
        requeued = self.store.requeue(names, [Status.FAILED.value])
        self.store.wait_on_disk()
        return requeued

    def close(self) -> None:
        """Let go of Redis."""
        self._client.close()


def routes(operation: Callable[[str], Endpoint]) -> list[Route]:
    """Give the routes; `operation` makes the endpoint of a method's name."""
    return [
        Route("/tasks/{task_id}/cancel", operation("cancel_task"), methods=["POST"]),
        Route("/tasks/{task_id}/retry", operation("retry_task"), methods=["POST"]),
        Route("/batches/{batch_id}/cancel", operation("cancel_batch"), methods=["POST"]),
        Route("/batches/{batch_id}/retry", operation("retry_batch"), methods=["POST"]),
        Route("/tasks/lookup", operation("lookup"), methods=["POST"]),
        Route("/dead-letters", operation("dead_letters"), methods=["GET"]),
        Route("/dead-letters/requeue", operation("requeue"), methods=["POST"]),
    ]


def _check_ids(task_ids: Sequence[str]) -> None:
    for task_id in task_ids:
        if not ids.is_task_id(task_id):
            raise InvalidRequest(f"expected taskIds to be ids of tasks, got {task_id[:100]!r}", field="taskIds")


def _members(batch_id: str, size: int) -> Iterator[list[str]]:
    for start in range(0, size, SLICE):
        yield [ids.task_id(batch_id, index) for index in range(start, min(size, start + SLICE))]
