"""HTTP to the API: one call a method, with retries, and problem documents as exceptions.

Every write carries ids that were made by the SDK, so that sending it again submits nothing twice: all calls are
retried alike. May be used from many threads.
"""

from __future__ import annotations

import copy
import gzip
import ipaddress
import os
import random
import time
from collections.abc import Iterator, Mapping
from typing import NoReturn, TypeVar

import httpx
import msgspec

from nexusq_sdk.errors import (
    ConnectionFailed,
    FunctionsOff,
    NameTaken,
    Refused,
    ResultExpired,
    ServerFailed,
    ServerUnavailable,
    UnknownBlob,
    UnknownSchedule,
    UnknownTask,
    UnknownTaskType,
    WrongKey,
    check_batch_id,
    check_task_id,
)
from nexusq_sdk.paging import batch_pages
from nexusq_sdk.protocol.wire import (
    BatchView,
    Blob,
    ChunkAccepted,
    DeadLetters,
    FieldError,
    Lookup,
    Problem,
    Requeue,
    Requeued,
    Schedules,
    ScheduleView,
    Submitted,
    TaskPage,
    TaskTypes,
    TaskView,
    Workers,
)
from nexusq_sdk.protocol.wire_reports import Batches, NameBatch, NamedBatch, Queues

T = TypeVar("T")

DEFAULT_URL = "http://127.0.0.1:8000"
#: Seconds for which a call is tried again while the server is away or says that it is.
RETRY_SECONDS = 30.0
PAGE = 5_000
#: Bodies above this are packed on their way to another machine: at level 1 that costs 6 ms a MB here and 3 ms there,
#: and leaves a quarter of mails. Queueing them takes 200 ms; a slow line gains a second. On this machine it gains none.
GZIP_BYTES = 20_000
#: Seconds for which a blob that the server had is not asked for again; it keeps blobs for much longer.
BLOB_SECONDS = 3600.0
#: Seconds that a call may take whose answer is only shown.
QUICK_SECONDS = 2.0
_AWAY = frozenset({502, 503, 504})


class Connection:
    """One server's API."""

    signing_key: bytes | None = None  # set by whoever made it; functions by value need one

    def __init__(self, url: str | None, *, timeout: float, retry_seconds: float = RETRY_SECONDS) -> None:
        given = url or os.environ.get("NEXUSQ_URL") or DEFAULT_URL
        wanted = f"expected the URL of a NexusQ, such as {DEFAULT_URL}, got {given!r}"
        try:
            parsed = httpx.URL(given.strip())
        except httpx.InvalidURL as error:
            raise ConnectionFailed(f"{wanted}: {error}") from None
        except AttributeError:
            raise ConnectionFailed(wanted) from None
        if parsed.scheme not in {"http", "https"} or not parsed.host or (parsed.port or 0) > 65535:
            hint = "" if "://" in given else f"; did you mean 'http://{given.strip()}'?"
            raise ConnectionFailed(wanted + hint)
        self.url = given.strip().rstrip("/")
        self._retry_seconds = retry_seconds
        self._timeout = timeout
        self._near = _is_this_machine(parsed.host)
        # No proxy leads back to this machine, whatever the environment says.
        self._http = httpx.Client(base_url=self.url, timeout=timeout, follow_redirects=True, trust_env=not self._near)
        self._blobs: dict[str, float] = {}  # those that the server has, and since when; written by any thread
        self._answered = False  # written by any thread, to True only
        #: How often this client has taken ended tasks back: what was seen of them before may be no more. A list, so
        #: that `quick` has the same.
        self._taken_back = [0]

    @property
    def quick(self) -> Connection:
        """The same connection, which does not wait for a server that is away: for what is only shown."""
        hasty = copy.copy(self)
        hasty._retry_seconds = 0.0
        hasty._timeout = QUICK_SECONDS
        return hasty

    @property
    def taken_back(self) -> int:
        """How often this client has taken back tasks that had ended."""
        return self._taken_back[0]

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def submit_task(self, body: bytes) -> Submitted:
        """``POST /tasks``."""
        return self._call("POST", "/tasks", Submitted, body)

    def submit_chunk(self, body: bytes) -> ChunkAccepted:
        """``POST /batches``. Not packed: on one machine gzip costs more than it saves, and payloads are small."""
        return self._call("POST", "/batches", ChunkAccepted, body)

    def task(self, task_id: str, hold: float = 0.0) -> TaskView:
        """``GET /tasks/{taskId}``, answered as soon as it has ended, but not later than `hold` seconds from now."""
        params = {"waitSeconds": f"{min(hold, self._timeout / 2):.3f}"} if hold > 0 else None
        return self._call("GET", _task_path(task_id), TaskView, params=params)

    def batch(self, batch_id: str) -> BatchView:
        """``GET /batches/{batchId}``."""
        return self._call("GET", _batch_path(batch_id), BatchView)

    def batches(self, filters: Mapping[str, str]) -> Iterator[Batches]:
        """``GET /batches``, page after page."""
        cursor: str | None = ""
        while cursor is not None:
            asked = {"limit": "1000", **filters} | ({"cursor": cursor} if cursor else {})
            page = self._call("GET", "/batches", Batches, params=asked)
            yield page
            cursor = page.next_cursor

    def name_batch(self, name: str, batch_id: str, digest: str, *, new: bool) -> NamedBatch:
        """``PUT /names/{name}``."""
        body = msgspec.json.encode(NameBatch(batch_id=batch_id, digest=digest, new=new))
        return self._call("PUT", f"/names/{name}", NamedBatch, body)

    def named_batch(self, name: str) -> NamedBatch:
        """``GET /names/{name}``."""
        return self._call("GET", f"/names/{name}", NamedBatch)

    def queues(self) -> Queues:
        """``GET /queues``."""
        return self._call("GET", "/queues", Queues)

    def batch_tasks(self, batch_id: str, *, payload: bool = False, first: int = 0) -> Iterator[TaskPage]:
        """``GET /batches/{batchId}/tasks``, page after page, from row `first` on."""
        path = f"{_batch_path(batch_id)}/tasks"

        def read(start: int, count: int) -> bytes:
            asked = {"payload": str(payload).lower(), "firstIndex": str(start), "limit": str(count)}
            return self._answer("GET", path, params=asked).content

        def decode(raw: bytes) -> TaskPage:
            return _read(raw, TaskPage, self.url + path)

        yield from batch_pages(read, decode, first, self.batch(batch_id).size, PAGE)

    def tasks(self, filters: Mapping[str, str]) -> Iterator[TaskPage]:
        """``GET /tasks``, page after page."""
        return self._pages("/tasks", filters)

    def cancel_task(self, task_id: str) -> Submitted:
        """``POST /tasks/{taskId}/cancel``."""
        return self._call("POST", f"{_task_path(task_id)}/cancel", Submitted, b"")

    def retry_task(self, task_id: str) -> Submitted:
        """``POST /tasks/{taskId}/retry``."""
        self._taken_back[0] += 1
        return self._call("POST", f"{_task_path(task_id)}/retry", Submitted, b"")

    def cancel_batch(self, batch_id: str) -> BatchView:
        """``POST /batches/{batchId}/cancel``."""
        return self._call("POST", f"{_batch_path(batch_id)}/cancel", BatchView, b"")

    def retry_batch(self, batch_id: str, *, cancelled: bool = False) -> Requeued:
        """``POST /batches/{batchId}/retry``."""
        self._taken_back[0] += 1
        asked = {"cancelled": str(cancelled).lower()}
        return self._call("POST", f"{_batch_path(batch_id)}/retry", Requeued, b"", params=asked)

    def lookup(self, task_ids: list[str], *, results: bool = True) -> TaskPage:
        """``POST /tasks/lookup``."""
        body = msgspec.json.encode(Lookup(task_ids=task_ids, results=results))
        return self._call("POST", "/tasks/lookup", TaskPage, body)

    def put_blob(self, blob_id: str, data: bytes) -> None:
        """``PUT /blobs/{blobId}``, unless the server is known to have it; a large one is asked for first."""
        now = time.monotonic()
        if self._blobs.get(blob_id, -BLOB_SECONDS) + BLOB_SECONDS > now:
            return
        path = f"/blobs/{blob_id}"
        if len(data) <= GZIP_BYTES or not self._has_blob(path):
            self._call("PUT", path, Blob, data, kind_of_body="application/octet-stream")
        self._blobs[blob_id] = now

    def _has_blob(self, path: str) -> bool:
        try:
            self._call("GET", path, Blob)
        except UnknownBlob:
            return False
        return True

    def dead_letters(self, filters: Mapping[str, str]) -> Iterator[DeadLetters]:
        """``GET /dead-letters``, page after page."""
        cursor: str | None = ""
        while cursor is not None:
            page = self._call(
                "GET", "/dead-letters", DeadLetters, params={**filters, **({"cursor": cursor} if cursor else {})}
            )
            yield page
            cursor = page.next_cursor

    def requeue(self, wanted: Requeue) -> Requeued:
        """``POST /dead-letters/requeue``."""
        self._taken_back[0] += 1
        return self._call("POST", "/dead-letters/requeue", Requeued, msgspec.json.encode(wanted))

    def schedules(self) -> Schedules:
        """``GET /schedules``."""
        return self._call("GET", "/schedules", Schedules)

    def put_schedule(self, name: str, body: bytes) -> ScheduleView:
        """``PUT /schedules/{name}``."""
        return self._call("PUT", f"/schedules/{name}", ScheduleView, body)

    def delete_schedule(self, name: str) -> ScheduleView:
        """``DELETE /schedules/{name}``."""
        return self._call("DELETE", f"/schedules/{name}", ScheduleView)

    def task_types(self) -> TaskTypes:
        """``GET /task-types``."""
        return self._call("GET", "/task-types", TaskTypes)

    def workers(self) -> Workers:
        """``GET /workers``."""
        return self._call("GET", "/workers", Workers)

    def _pages(self, path: str, parameters: Mapping[str, str]) -> Iterator[TaskPage]:
        cursor: str | None = ""
        while cursor is not None:
            asked = {"limit": str(PAGE), **parameters} | ({"cursor": cursor} if cursor else {})
            page = self._call("GET", path, TaskPage, params=asked)
            yield page
            cursor = page.next_cursor

    def _call(
        self,
        method: str,
        path: str,
        kind: type[T],
        body: bytes | None = None,
        *,
        params: Mapping[str, str] | None = None,
        kind_of_body: str = "application/json",
    ) -> T:
        answer = self._answer(method, path, body, params=params, kind_of_body=kind_of_body)
        return _read(answer.content, kind, str(answer.request.url))

    def _answer(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        params: Mapping[str, str] | None = None,
        kind_of_body: str = "application/json",
    ) -> httpx.Response:
        """Give the answer; raise what a refusal stands for."""
        if self._http.is_closed:
            raise RuntimeError("expected the client to be open, but it was closed: make a new Client")
        headers = {} if body is None else {"Content-Type": kind_of_body}
        if body is not None and len(body) > GZIP_BYTES and not self._near:
            body, headers["Content-Encoding"] = gzip.compress(body, 1), "gzip"
        deadline = time.monotonic() + self._retry_seconds
        pause = 0.1
        while True:
            try:
                answer = self._http.request(
                    method, path, headers=headers, content=body, params=params, timeout=self._timeout
                )
            except httpx.TransportError as error:
                # Refused, and nobody was ever there: a typo should not take half a minute to be told.
                hopeless = isinstance(error, httpx.ConnectError) and not self._answered
                if isinstance(error, (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)):
                    self._answered = True  # somebody was there, and died before the answer
                if hopeless or time.monotonic() + pause > deadline:
                    raise ConnectionFailed(
                        f"expected a NexusQ to answer at {self.url}, got {type(error).__name__}: {error}. Is it "
                        f"running? Start one with `nexusq up` or nexusq_sdk.local(), or give another URL: "
                        f"Client(url) or NEXUSQ_URL"
                    ) from error
                wait = pause
            except httpx.HTTPError as error:
                raise ServerFailed(f"expected an answer of a NexusQ from {self.url}, got {error}") from error
            else:
                self._answered = True
                if answer.is_success:
                    return answer
                wait = _retry_after(answer, pause)
                if answer.status_code not in _AWAY or time.monotonic() + wait > deadline:
                    _refuse(answer)
            # Many clients that were cut off at once should not all come back at once.
            time.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311
            pause = min(2 * pause, 3.0)


def _task_path(task_id: str) -> str:
    check_task_id(task_id)
    return f"/tasks/{task_id}"


def _batch_path(batch_id: str) -> str:
    check_batch_id(batch_id)
    return f"/batches/{batch_id}"


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _read(body: bytes, kind: type[T], url: str) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise ServerFailed(f"expected an answer of a NexusQ from {url}, got another: {error}") from None


def _retry_after(answer: httpx.Response, pause: float) -> float:
    said = answer.headers.get("retry-after", "")
    return max(float(said), pause) if said.isdigit() else pause


def _refuse(answer: httpx.Response) -> NoReturn:
    """Raise the exception that an error's problem document stands for."""
    try:
        problem = msgspec.json.decode(answer.content, type=Problem)
    except msgspec.DecodeError:
        raise ServerFailed(
            f"expected an answer of a NexusQ from {answer.request.url}, got {answer.status_code} {answer.text[:200]!r}"
        ) from None
    match problem.type.rpartition(":")[2]:
        case "unknown-task-type":
            raise UnknownTaskType(problem.detail, problem.errors, problem)
        case "task-not-found" | "batch-not-found":
            raise UnknownTask(problem.detail)
        case "schedule-not-found":
            raise UnknownSchedule(problem.detail)
        case "functions-off":
            raise FunctionsOff(problem.detail)
        case "wrong-key":
            raise WrongKey(problem.detail)
        case "blob-not-found":
            raise UnknownBlob(problem.detail)
        case "name-taken":
            raise NameTaken(problem.detail)
        case "task-expired":
            raise ResultExpired(problem.detail)
    if problem.status in _AWAY:
        raise ServerUnavailable(problem.detail)
    if problem.status >= 500:
        raise ServerFailed(problem.detail)
    # The detail has the first fault; further ones follow, each with its row.
    listed = "".join(f"\n  {_where(error)}{error.message}" for error in problem.errors[:10] if len(problem.errors) > 1)
    raise Refused(problem.detail + listed, problem.errors, problem)


def _where(error: FieldError) -> str:
    return "" if error.row is None else f"row {error.row}: "
