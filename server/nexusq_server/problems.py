"""Every way in which the API refuses: an exception each, answered as a problem document (RFC 9457).

The type is a stable URN, the detail says what was wrong, where, what was expected and what to do. No stack trace
ever leaves the process.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from nexusq_sdk.protocol.wire import FieldError, Problem

log = logging.getLogger(__name__)

Handler = Callable[[Request, Exception], Response]

URN = "urn:nexusq:problem:"
MEDIA_TYPE = "application/problem+json"
#: Seconds after which a client may come again, where that helps.
RETRY_AFTER = "1"


class Refusal(Exception):
    """What a request is refused with. Subclasses say when."""

    status = 500
    kind = "internal-error"
    title = "The server failed"
    retry = False  # whether it helps to come again soon

    def __init__(self, detail: str, errors: Sequence[FieldError] = (), *, field: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = [FieldError(message=detail, field=field)] if field and not errors else list(errors)


class InvalidRequest(Refusal):
    """The body, a parameter or a header is not what the call takes."""

    status, kind, title = 422, "invalid-request", "The request is not what this call takes"


class InvalidPayload(Refusal):
    """A payload does not fit what the handlers of its type take."""

    status, kind, title = 422, "invalid-payload", "A payload does not fit its task type"


class UnknownTaskType(Refusal):
    """No worker has ever offered the task type."""

    status, kind, title = 422, "unknown-task-type", "No worker offers this task type"


class TaskNotFound(Refusal):
    """The task never was."""

    status, kind, title = 404, "task-not-found", "There is no such task"


class TaskExpired(Refusal):
    """The task was; its state is not kept any more."""

    status, kind, title = 410, "task-expired", "The task's state has expired"


class BatchNotFound(Refusal):
    """The batch never was, or was forgotten long after its end."""

    status, kind, title = 404, "batch-not-found", "There is no such batch"


class QueueNotFound(Refusal):
    """Nobody has used the queue yet."""

    status, kind, title = 404, "queue-not-found", "There is no such queue"


class BatchConflict(Refusal):
    """A chunk does not belong to the batch that it names."""

    status, kind, title = 409, "batch-conflict", "The chunk does not fit its batch"


class BodyTooLarge(Refusal):
    """The body, unpacked, or one task is larger than the server takes."""

    status, kind, title = 413, "body-too-large", "The body is too large"


class UnsupportedBody(Refusal):
    """The body's content type or encoding is not one that the call takes."""

    status, kind, title = 415, "unsupported-body", "The body's type is not supported"


class KafkaUnavailable(Refusal):
    """Kafka did not take the tasks in time: nothing was accepted."""

    status, kind, title = 503, "kafka-unavailable", "Kafka does not answer"
    retry = True


class RedisUnavailable(Refusal):
    """Redis, which knows the tasks' state, does not answer."""

    status, kind, title = 503, "redis-unavailable", "Redis does not answer"
    retry = True


class RedisFull(Refusal):
    """Redis has no memory left for more tasks' state."""

    status, kind, title = 503, "redis-full", "Redis is full"
    retry = True


class IdempotencyConflict(Refusal):
    """The idempotency key was used for other work."""

    status, kind, title = 409, "idempotency-conflict", "The idempotency key stands for other work"


class NameTaken(Refusal):
    """The name stands for a batch of other inputs."""

    status, kind, title = 409, "name-taken", "The name stands for a batch of other inputs"


class NotRetryable(Refusal):
    """The task has not failed, so it can't be tried again."""

    status, kind, title = 409, "not-retryable", "The task can't be retried as it stands"


class ScheduleNotFound(Refusal):
    """There is no schedule of this name."""

    status, kind, title = 404, "schedule-not-found", "There is no such schedule"


class FunctionsOff(Refusal):
    """The API has no signing key: it takes no functions by value."""

    status, kind, title = 403, "functions-off", "Functions by value are off"


class WrongKey(Refusal):
    """Bytes are not signed with the API's key."""

    status, kind, title = 403, "wrong-key", "The bytes are signed with another key"


class BlobNotFound(Refusal):
    """The blob never was, or was not used for long."""

    status, kind, title = 404, "blob-not-found", "There is no such blob"


class QueueFull(Refusal):
    """More is being submitted than Kafka takes: come again."""

    status, kind, title = 503, "queue-full", "Too much is being submitted at once"
    retry = True


def respond(
    status: int, kind: str, title: str, detail: str, errors: Sequence[FieldError], headers: Mapping[str, str]
) -> Response:
    """Make the answer."""
    problem = Problem(type=URN + kind, title=title, status=status, detail=detail, errors=list(errors))
    return Response(msgspec.json.encode(problem), status, dict(headers), media_type=MEDIA_TYPE)


def on_refusal(request: Request, error: Exception) -> Response:  # noqa: ARG001 - Starlette's signature
    """Answer a `Refusal`."""
    assert isinstance(error, Refusal)
    headers = {"Retry-After": RETRY_AFTER} if error.retry else {}
    return respond(error.status, error.kind, error.title, error.detail, error.errors, headers)


def on_http_error(request: Request, error: Exception) -> Response:
    """Answer what the framework refuses: no such path, not this method."""
    assert isinstance(error, HTTPException)
    kinds = {404: "not-found", 405: "method-not-allowed"}
    detail = f"{request.method} {request.url.path}: {error.detail}; the calls are listed at /docs"
    headers = dict(error.headers or {})
    if error.status_code == 405:
        # A path may have a route for each method: the framework names those of the first one.
        routes = [r for r in request.app.routes if r.matches(request.scope)[0] is not Match.NONE]
        headers["Allow"] = ", ".join(sorted({method for route in routes for method in route.methods}))
    return respond(
        error.status_code,
        kinds.get(error.status_code, "invalid-request"),
        error.detail,
        detail,
        (),
        headers,
    )


def on_disconnect(request: Request, error: Exception) -> Response:  # noqa: ARG001 - Starlette's signature
    """End a request whose client has gone away while it was still sending: nobody reads the answer."""
    return Response(status_code=400)


def on_failure(request: Request, error: Exception) -> Response:
    """Answer what nobody foresaw; the log has the rest."""
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return respond(500, "internal-error", Refusal.title, "The server failed; its log says why.", (), {})


class Guard:
    """The application around the routes: what they raise is answered by the handler of its class.

    In place of the framework's own two layers, which wrap every message of every answer: a tenth of a single submit.
    """

    def __init__(self, router: Router, handlers: Mapping[type[Exception], Handler]) -> None:
        self.routes = router.routes
        self._router = router
        self._handlers = handlers
        # Paths without parameters, found at once: the router tries one route after the other.
        self._plain: dict[tuple[str, str], ASGIApp] = {
            (method, route.path): route.app
            for route in router.routes
            if isinstance(route, Route) and not route.param_convertors
            for method in route.methods or ()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, as ASGI has it."""
        scope["app"] = self  # tells the router to raise what it would answer in plain text
        found = self._plain.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        try:
            await (found or self._router)(scope, receive, send)
        except Exception as error:
            if scope["type"] != "http":
                raise
            handler = next(self._handlers[kind] for kind in type(error).__mro__ if kind in self._handlers)
            await handler(Request(scope, receive), error)(scope, receive, send)
