"""The API: routes and answers only. One process, one event loop.

What is accepted goes to `submit`, what is asked to `queries`, what is refused becomes a problem document in `problems`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable

import msgspec
import uvicorn
from kafka import KafkaAdminClient
from kafka.errors import KafkaError
from redis import RedisError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route, Router

from nexusq_sdk.protocol import ids
from nexusq_sdk.protocol.wire import ChunkAccepted, Options, SubmitChunk, SubmitTask, Submitted, TaskTypes, Workers
from nexusq_sdk.protocol.words import MAX_CHUNK_TASKS, MAX_TASK_BYTES, TASK_TYPE, Status
from nexusq_server import backlog, blob_routes, names, operations, problems, reports, schedule_routes
from nexusq_server.answers import Answer, Endpoint
from nexusq_server.blob_routes import BlobRoutes
from nexusq_server.bodies import Query, chunk_of_lines, content_type, decode, header, read_body
from nexusq_server.clock import now_us
from nexusq_server.garbage import look_less_often
from nexusq_server.gathered import GatheredProtocol
from nexusq_server.logs import set_up_logs
from nexusq_server.names import Names
from nexusq_server.openapi import docs_page, openapi
from nexusq_server.operations import Operations
from nexusq_server.options import Plan, keyed_id, plan, with_key
from nexusq_server.problems import (
    BatchConflict,
    BodyTooLarge,
    InvalidRequest,
    KafkaUnavailable,
    RedisFull,
    RedisUnavailable,
    UnsupportedBody,
)
from nexusq_server.queries import Filters, Queries, parse_since
from nexusq_server.redis_async import connect_async
from nexusq_server.reports import Reports
from nexusq_server.scheduler import Scheduler
from nexusq_server.schemas import Catalogue
from nexusq_server.settings import Settings
from nexusq_server.states import NewTask
from nexusq_server.store import is_full
from nexusq_server.submit import Close, Job, Submitter

log = logging.getLogger(__name__)

_task_decoder = msgspec.json.Decoder(SubmitTask)
_chunk_decoder = msgspec.json.Decoder(SubmitChunk)


class Api:
    """The routes' methods and what they share; made once the loop runs."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._limit = settings.max_body_mib * 2**20
        self._redis = connect_async(settings)
        self._catalogue = Catalogue(self._redis)
        self._queries = Queries(self._redis)
        self.operations = Operations(settings, self._queries)
        self.blobs = BlobRoutes(settings, self._redis, self.operations.store.wait_on_disk)
        self.names = Names(self._redis)
        self.reports = Reports(settings, self._redis, self._queries)
        self.backlogs = backlog.Backlogs(self._redis, self.reports)
        self.schedules = schedule_routes.ScheduleRoutes(self._redis, self._check_one)
        self._scheduler = Scheduler(settings)
        self._admin: KafkaAdminClient | None = None
        self._admin_lock = asyncio.Lock()
        self._submitter = Submitter(settings, self._redis)
        self._submitter.start()
        self._scheduler.start()

    async def close(self) -> None:
        """Finish what was accepted and let go of Kafka and Redis."""
        await self._submitter.stop()
        await asyncio.to_thread(self._scheduler.end)
        self.operations.close()
        self.reports.close()
        if self._admin is not None:
            self._admin.close()
        await self._redis.aclose()

    async def submit_task(self, request: Request) -> Response:
        """``POST /tasks``."""
        if content_type(request) != "json":
            raise UnsupportedBody("expected one task as JSON; POST /batches takes NDJSON")
        Query(request)
        task = decode(await read_body(request, self._limit), _task_decoder)
        options = with_key(task.options, header(request, b"idempotency-key"))
        now = now_us()
        how = plan(options, now)
        if task.task_id is not None and not ids.is_id(task.task_id):
            raise InvalidRequest(f"expected taskId to be a uuid in lower case, got {task.task_id!r}", field="taskId")
        await self._check(task.task_type, [task.payload], options, rows=False)
        keyed = keyed_id(options, task.task_id, "taskId")
        if keyed is not None:
            known = await self._queries.known([keyed], task.task_type, [task.payload], rows=False)
            if known:
                return Answer(Submitted(task_id=keyed, status=known[0]), 202)
        task_id = keyed or task.task_id or ids.new_id()
        await self._submitter.submit(Job([_new_task(task_id, task.task_type, task.payload, how, now)]))
        status = Status.QUEUED if how.due_us is None else Status.SCHEDULED
        return Answer(Submitted(task_id=task_id, status=status), 202)

    async def submit_chunk(self, request: Request) -> Response:
        """``POST /batches``."""
        kind = content_type(request)
        if kind == "json":
            Query(request)
        body = await read_body(request, self._limit)
        chunk = decode(body, _chunk_decoder) if kind == "json" else chunk_of_lines(request, body)
        options = with_key(chunk.options, header(request, b"idempotency-key"))
        now = now_us()
        how = plan(options, now)
        if chunk.batch_id is not None and not ids.is_id(chunk.batch_id):
            raise InvalidRequest(
                f"expected batchId to be a uuid in lower case, got {chunk.batch_id!r}", field="batchId"
            )
        if not 0 <= chunk.first_index <= 10**9:
            raise InvalidRequest(
                f"expected firstIndex to be from 0 to 1,000,000,000, got {chunk.first_index}", field="firstIndex"
            )
        if len(chunk.payloads) > MAX_CHUNK_TASKS:
            raise BodyTooLarge(
                f"expected at most {MAX_CHUNK_TASKS} tasks a chunk, got {len(chunk.payloads)}; "
                f"send the rest as further chunks of the same batchId, by firstIndex"
            )
        await self._check(chunk.task_type, chunk.payloads, options, rows=True, first=chunk.first_index)
        keyed = keyed_id(options, chunk.batch_id, "batchId")
        batch_id = keyed or chunk.batch_id or ids.new_id()
        size = chunk.first_index + len(chunk.payloads)
        if keyed is not None or chunk.batch_id is not None:
            await self._fits(chunk, batch_id, how.queue, size)
        if keyed is not None:
            members = [ids.task_id(batch_id, index) for index in range(chunk.first_index, size)]
            await self._queries.known(members, chunk.task_type, chunk.payloads, rows=True, first=chunk.first_index)
        tasks = [
            _new_task(ids.task_id(batch_id, index), chunk.task_type, payload, how, now)
            for index, payload in enumerate(chunk.payloads, chunk.first_index)
        ]
        close = None
        if chunk.last:
            if tasks:
                tasks[-1] = tasks[-1]._replace(batch_size=size)
            else:
                close = Close(batch_id, size, chunk.task_type, how.queue, how.ttl_seconds)
        await self._submitter.submit(Job(tasks, close))
        accepted = ChunkAccepted(
            batch_id=batch_id, first_index=chunk.first_index, accepted=len(tasks), closed=chunk.last
        )
        return Answer(accepted, 202)

    async def task(self, request: Request) -> Response:
        """``GET /tasks/{taskId}``."""
        hold = Query(request, "waitSeconds").wait()
        return Answer(await self._queries.task(request.path_params["task_id"], hold))

    async def batch(self, request: Request) -> Response:
        """``GET /batches/{batchId}``."""
        return Answer(await self._queries.batch(request.path_params["batch_id"]))

    async def batch_tasks(self, request: Request) -> Response:
        """``GET /batches/{batchId}/tasks``."""
        asked = Query(request, "firstIndex", "cursor", "limit", "payload")
        first = max(0, asked.number("firstIndex", 0))
        page = await self._queries.batch_page(
            request.path_params["batch_id"], asked.text("cursor"), asked.limit(), asked.flag("payload"), first
        )
        return Answer(page)

    async def tasks(self, request: Request) -> Response:
        """``GET /tasks``."""
        asked = Query(request, "status", "type", "batch", "since", "cursor", "limit", "payload")
        since, status = asked.text("since"), asked.text("status")
        if status is not None and status not in Status.__members__:
            raise InvalidRequest(f"expected status to be one of {', '.join(Status)}, got {status!r}", field="status")
        filters = Filters(
            status=Status(status) if status else None,
            task_type=asked.text("type"),
            batch=asked.text("batch"),
            since_us=parse_since(since) if since else None,
        )
        page = await self._queries.page(filters, asked.text("cursor"), asked.limit(), asked.flag("payload"))
        return Answer(page)

    async def task_types(self, request: Request) -> Response:  # noqa: ARG002 - a route's signature, as below
        """``GET /task-types``."""
        await self._catalogue.refresh()
        return Answer(TaskTypes(task_types=[entry for _, entry in sorted(self._catalogue.types.items())]))

    async def workers(self, request: Request) -> Response:  # noqa: ARG002
        """``GET /workers``."""
        return Answer(Workers(workers=await self._queries.workers()))

    async def healthz(self, request: Request) -> Response:  # noqa: ARG002
        """``GET /healthz``: the process answers."""
        return Answer({"status": "ok"})

    async def readyz(self, request: Request) -> Response:  # noqa: ARG002
        """``GET /readyz``: Kafka and Redis answer."""
        try:
            await self._redis.ping()
        except RedisError as error:
            raise self._redis_away(error) from None
        async with self._admin_lock:
            try:
                await asyncio.to_thread(self._ask_kafka)
            except KafkaError as error:
                raise KafkaUnavailable(f"Kafka at {','.join(self._settings.kafka)} does not answer: {error}") from None
        return Answer({"status": "ready"})

    def _ask_kafka(self) -> None:
        if self._admin is None:
            self._admin = KafkaAdminClient(
                **self._settings.kafka_client, bootstrap_timeout_ms=1000, request_timeout_ms=3000
            )
        self._admin.list_topics()

    def on_redis_error(self, request: Request, error: Exception) -> Response:
        """Answer a read for which Redis is needed and away."""
        return problems.on_refusal(request, self._redis_away(error))

    def _redis_away(self, error: Exception) -> RedisUnavailable | RedisFull:
        where = self._settings.redis_shown
        if is_full(error):
            return RedisFull(f"Redis at {where} is full (maxmemory): raise it, or let results expire sooner")
        return RedisUnavailable(f"Redis at {where} does not answer: {error or type(error).__name__}")

    async def _check(
        self, task_type: str, payloads: list[msgspec.Raw], options: Options | None, *, rows: bool, first: int = 0
    ) -> None:
        if TASK_TYPE.fullmatch(task_type) is None:
            raise InvalidRequest(
                f"expected taskType to be a name such as 'EMAIL_SEND' (a letter, then letters, digits, '_', '.', ':' "
                f"or '-'; 100 at most), got {task_type!r}",
                field="taskType",
            )
        for row, payload in enumerate(payloads):
            if len(memoryview(payload)) > MAX_TASK_BYTES:
                where = f"row {first + row}: " if rows else ""
                raise BodyTooLarge(
                    f"{where}expected a payload of at most {MAX_TASK_BYTES // 1000} kB, "
                    f"got {len(memoryview(payload)) // 1000} kB; store it and send where it is"
                )
        allow_unknown = options is not None and options.allow_unknown
        await self._catalogue.check(task_type, payloads, allow_unknown, rows, first)

    async def _check_one(self, task_type: str, payloads: list[msgspec.Raw], options: Options | None) -> None:
        await self._check(task_type, payloads, options, rows=False)

    async def _fits(self, chunk: SubmitChunk, batch_id: str, queue: str, size: int) -> None:
        """Refuse a chunk that contradicts what is known of its batch."""
        try:
            batch = await self._queries.batch(batch_id)
        except (problems.BatchNotFound, RedisError):
            return  # its first chunk, or Redis is away: Kafka takes it all the same
        for name, has, got in (("taskType", batch.task_type, chunk.task_type), ("queue", batch.queue, queue)):
            if has != got:
                raise BatchConflict(
                    f"expected {name} to be {has!r} as in the rest of batch {batch.batch_id}, got {got!r}"
                )
        if batch.closed and size > batch.size:
            raise BatchConflict(
                f"batch {batch.batch_id} is closed with {batch.size} tasks, got rows up to {size - 1}; "
                f"start a new batch"
            )
        if chunk.last and size < batch.size:
            raise BatchConflict(
                f"expected the last chunk of batch {batch.batch_id} to have its last rows, got rows up to {size - 1}; "
                f"rows up to {batch.size - 1} are there already"
            )


def _new_task(task_id: str, task_type: str, payload: msgspec.Raw, how: Plan, now: int) -> NewTask:
    return NewTask(
        task_id,
        task_type,
        bytes(payload),
        how.queue,
        how.ttl_seconds,
        now,
        how.priority,
        how.kept,
        how.due_us,
    )


def create_app(settings: Settings) -> problems.Guard:
    """Make the ASGI application."""
    api: Api

    @contextlib.asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[None]:  # noqa: ARG001
        nonlocal api
        api = Api(settings)
        yield
        await api.close()

    def method(name: str) -> Endpoint:
        return Endpoint(lambda: getattr(api, name))

    def part(of: str) -> Callable[[str], Endpoint]:
        return lambda name: Endpoint(lambda: getattr(getattr(api, of), name))

    async def document(request: Request) -> Response:  # noqa: ARG001
        return Answer(openapi())

    async def docs(request: Request) -> Response:  # noqa: ARG001
        return HTMLResponse(docs_page())

    def on_redis_error(request: Request, error: Exception) -> Response:
        return api.on_redis_error(request, error)

    routes = [
        Route("/tasks", method("submit_task"), methods=["POST"]),
        Route("/tasks", method("tasks"), methods=["GET"]),
        Route("/tasks/{task_id}", method("task"), methods=["GET"]),
        Route("/batches", method("submit_chunk"), methods=["POST"]),
        Route("/batches/{batch_id}", method("batch"), methods=["GET"]),
        Route("/batches/{batch_id}/tasks", method("batch_tasks"), methods=["GET"]),
        Route("/task-types", method("task_types"), methods=["GET"]),
        Route("/workers", method("workers"), methods=["GET"]),
        Route("/healthz", method("healthz"), methods=["GET"]),
        Route("/readyz", method("readyz"), methods=["GET"]),
        Route("/openapi.json", document, methods=["GET"]),
        Route("/docs", docs, methods=["GET"]),
        *operations.routes(part("operations")),
        *schedule_routes.routes(part("schedules")),
        *blob_routes.routes(part("blobs")),
        *names.routes(part("names")),
        *reports.routes(part("reports")),
        *backlog.routes(part("backlogs")),
    ]
    handlers: dict[type[Exception], problems.Handler] = {
        problems.Refusal: problems.on_refusal,
        ClientDisconnect: problems.on_disconnect,
        HTTPException: problems.on_http_error,
        RedisError: on_redis_error,
        Exception: problems.on_failure,
    }
    return problems.Guard(Router(routes, lifespan=lifespan), handlers)


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; give the exit code."""
    set_up_logs(settings)
    app = create_app(settings)
    look_less_often()
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        http=GatheredProtocol,
        proxy_headers=False,  # nothing asks where a request is from
        timeout_graceful_shutdown=int(settings.submit_timeout.total_seconds()) + 2,
    )
    try:
        uvicorn.Server(config).run()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    return 0
