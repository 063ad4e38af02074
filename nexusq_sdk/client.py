"""The client: a method for each call of the API, and what is sent made fit for sending."""

from __future__ import annotations

import concurrent.futures
import contextlib
import math
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Unpack

import msgspec

from nexusq_sdk.batch import Batch, Task
from nexusq_sdk.connection import PAGE, Connection
from nexusq_sdk.errors import ConnectionFailed, NexusQError, ServerUnavailable
from nexusq_sdk.options import SubmitOptions, to_wire
from nexusq_sdk.protocol import ids
from nexusq_sdk.protocol.wire import BatchView, ChunkAccepted, DeadLetter, Options, Requeue, ScheduleView, TaskView
from nexusq_sdk.protocol.words import DEFAULT_QUEUE, TASK_TYPE, Status
from nexusq_sdk.rows import encode_payload, encode_rows, index_of
from nexusq_sdk.schedules import check_name, encode_schedule, schedule_frame

if TYPE_CHECKING:
    import pandas as pd

#: A chunk is full at either: large enough to be cheap, small enough for two of them to be in memory.
CHUNK_TASKS, CHUNK_BYTES = 5_000, 4_000_000
_encode = msgspec.json.Encoder().encode


class Client:
    """A NexusQ's API.

    Parameters
    ----------
    url : str, optional
        Where it answers; otherwise ``NEXUSQ_URL``, or ``http://127.0.0.1:8000``.
    timeout : float
        Seconds that one answer may take.

    Examples
    --------
    >>> import pandas as pd
    >>> client = Client("http://127.0.0.1:8000")
    >>> batch = client.submit_batch("ECHO", pd.DataFrame({"a": [1, 2]}))  # doctest: +SKIP
    >>> batch.wait().frame()  # doctest: +SKIP
    """

    def __init__(self, url: str | None = None, *, timeout: float = 30.0) -> None:
        self._connection = Connection(url, timeout=timeout)

    @property
    def url(self) -> str:
        """Where the API answers."""
        return self._connection.url

    def submit(
        self,
        task_type: str,
        payload: Any,
        **options: Unpack[SubmitOptions],
    ) -> Task:
        """Submit one task.

        Parameters
        ----------
        task_type : str
            What is to be done, such as ``"EMAIL_SEND"``.
        payload : dict, or anything with a JSON form
            What its handler is given. What becomes of each value: `nexusq_sdk.values`.
        **options
            ``queue``, ``priority``, ``delay``, ``eta``, ``max_attempts``, ``backoff``, ``timeout``, ``result_ttl``,
            ``idempotency_key``, ``allow_unknown``: see `nexusq_sdk.options.SubmitOptions`.

        Returns
        -------
        Task
            It is safe from now on: it will run whatever is killed.

        Raises
        ------
        Refused
            If the payload does not fit the handler, or the type is unknown (`UnknownTaskType`).
        RowError
            If the payload has no JSON form.
        ConnectionFailed, ServerUnavailable
        """
        said = to_wire(options)
        task_id = ids.new_id() if said.idempotency_key is None else ids.id_from_key(said.idempotency_key)
        head = b'{"taskType":%b,"taskId":"%b"%b,"payload":' % (_type(task_type), task_id.encode(), _field(said))
        answer = self._connection.submit_task(head + encode_payload(payload) + b"}")
        view = TaskView(task_id=task_id, task_type=task_type, status=answer.status)
        # A key may stand for a task that has ended: the answer says that, but not with what.
        return Task(task_id, self._connection, None if answer.status.terminal else view)

    def submit_batch(
        self,
        task_type: str,
        rows: pd.DataFrame | Iterable[Any],
        **options: Unpack[SubmitOptions],
    ) -> Batch:
        """Submit a task for each row.

        Rows are sent in chunks as they are read: memory stays constant, whatever an iterable gives. A DataFrame is
        checked whole before its first row is sent.

        Parameters
        ----------
        rows : DataFrame, or iterable of payloads
            A row of a DataFrame becomes an object with its columns as fields; an item of an iterable is a payload as
            it is. What becomes of each value: `nexusq_sdk.values`.

        The other parameters, and what is raised, are those of `submit`; moreover:

        Returns
        -------
        Batch
            All its tasks are safe from now on.

        Raises
        ------
        RowError
            If a value has no JSON form: row and column are named. Of a DataFrame nothing was submitted then. Of an
            iterable, rows before it may have been: the error's note says how many, and in which batch.
        """
        said = to_wire(options)
        batch_id = ids.new_id() if said.idempotency_key is None else ids.id_from_key(said.idempotency_key)
        head = b'{"taskType":%b,"batchId":"%b"%b' % (_type(task_type), batch_id.encode(), _field(said))
        size = self._send_chunks(batch_id, head, encode_rows(rows))
        submitted = BatchView(
            batch_id=batch_id,
            task_type=task_type,
            queue=said.queue or DEFAULT_QUEUE,
            size=size,
            closed=True,
            counts={status.value: size if status is Status.QUEUED else 0 for status in Status},
            rate_per_second=0.0,
            submitted_at=datetime.now(UTC),
        )
        return Batch(batch_id, self._connection, index=index_of(rows), submitted=submitted)

    def _send_chunks(self, batch_id: str, head: bytes, payloads: Iterator[bytes]) -> int:
        """Send all rows; give how many. Where that breaks off, close the batch with what was accepted, and say so."""
        accepted = 0
        on_its_way: concurrent.futures.Future[ChunkAccepted] | None = None
        # While one chunk is on its way the next one is made; a third would only wait.
        with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="nexusq-submit") as sender:
            try:
                for first, chunk, last in _chunks(payloads):
                    body = _chunk_body(head, first, chunk, last)
                    if on_its_way is not None:
                        accepted += on_its_way.result().accepted
                    on_its_way = sender.submit(self._connection.submit_chunk, body)
                assert on_its_way is not None  # even an empty batch has a chunk
                return accepted + on_its_way.result().accepted
            except BaseException as error:
                if on_its_way is not None and on_its_way.exception() is None:
                    accepted = on_its_way.result().first_index + on_its_way.result().accepted
                if accepted:
                    # A batch that is never closed would be waited for in vain.
                    if not isinstance(error, ConnectionFailed | ServerUnavailable):
                        with contextlib.suppress(NexusQError):
                            self._connection.submit_chunk(_chunk_body(head, accepted, [], True))
                    error.add_note(
                        f"The {accepted} rows before were accepted as batch {batch_id} and run: "
                        f"client.batch({batch_id!r})"
                    )
                raise

    def task(self, task_id: str) -> Task:
        """Take up a task by its id, from any kernel. Raises `UnknownTask` or `ResultExpired`."""
        task = Task(task_id, self._connection)
        task.info()
        return task

    def batch(self, batch_id: str) -> Batch:
        """Take up a batch by its id, from any kernel. Raises `UnknownTask`."""
        batch = Batch(batch_id, self._connection)
        batch.info()
        return batch

    def tasks(
        self,
        *,
        status: Status | str | None = None,
        task_type: str | None = None,
        batch: str | None = None,
        since: str | datetime | timedelta | None = None,
        limit: int = 10_000,
        payload: bool = False,
    ) -> pd.DataFrame:
        """Give the newest tasks that match, newest first.

        Parameters
        ----------
        since : str, timedelta or datetime, optional
            Submitted since: ``"15m"``, ``"2h"``, a span, or a moment.
        limit : int
            The most rows.

        Returns
        -------
        DataFrame, shape (at most limit, 14 or 15)
            Columns: see `nexusq_sdk.frames.task_frame`.
        """
        from nexusq_sdk import frames  # noqa: PLC0415 - pandas loads when a frame is wanted

        if limit < 0:
            raise ValueError(f"expected limit to be 0 or more, got {limit}")
        if isinstance(since, timedelta):
            since = f"{math.ceil(since.total_seconds())}s"
        elif isinstance(since, datetime):
            # A pandas Timestamp passes for a datetime, and has an astimezone() of its own.
            since = datetime.combine(since.date(), since.time(), since.tzinfo).astimezone(UTC).isoformat()
        asked = {"status": status, "type": task_type, "batch": batch, "since": since, "payload": str(payload).lower()}
        asked["limit"] = str(min(max(limit, 1), PAGE))
        pages = self._connection.tasks({name: str(value) for name, value in asked.items() if value is not None})
        columns = frames.gather(_until(pages, limit), payload)
        return frames.task_frame({name: values[:limit] for name, values in columns.items()})

    def dead_letters(
        self, *, task_type: str | None = None, batch: str | None = None, limit: int = 10_000
    ) -> pd.DataFrame:
        """Give what failed for good, newest first: tasks, and Kafka records that were no tasks.

        Returns
        -------
        DataFrame, shape (at most limit, 10)
            Columns ``at``, ``reason``, ``task_id``, ``task_type``, ``batch_id``, ``attempt``, ``payload``, ``error``
            (the message), ``traceback``, ``history`` (a list of the attempts that failed).
        """
        from nexusq_sdk import frames  # noqa: PLC0415 - as above

        asked = {"type": task_type, "batch": batch, "limit": str(min(max(limit, 1), PAGE))}
        letters: list[DeadLetter] = []
        for page in self._connection.dead_letters({name: value for name, value in asked.items() if value is not None}):
            letters += page.dead_letters
            if len(letters) >= limit:
                break
        return frames.letter_frame(letters[:limit])

    def requeue(
        self,
        task_ids: Iterable[str] | None = None,
        *,
        batch: str | None = None,
        task_type: str | None = None,
        all: bool = False,  # noqa: A002 - what a user would say
    ) -> int:
        """Take tasks back from the dead letters, by id, of a batch, of a type, or all; give how many.

        Each has all its attempts before it again.
        """
        names = None if task_ids is None else [str(name) for name in task_ids]
        return self._connection.requeue(Requeue(task_ids=names, batch=batch, type=task_type, all=all)).requeued

    def schedule(
        self,
        name: str,
        task_type: str,
        payload: Any,
        *,
        cron: str,
        time_zone: str = "UTC",
        missed: str = "once",
        paused: bool = False,
        **options: Unpack[SubmitOptions],
    ) -> ScheduleView:
        """Submit a task again and again: create the schedule of this name, or replace it.

        Parameters
        ----------
        cron : str
            When: ``"30 8 * * MON-FRI"``, six fields with seconds in front, or ``"@hourly"`` and the like.
        time_zone : str
            In which time zone, such as ``"Europe/Berlin"``.
        missed : {"once", "all", "skip"}
            What to submit for times that nobody served: one task for all of them, one each (the last 1000), none.
        paused : bool
            Whether to keep it without submitting anything.

        The other parameters are those of `submit`, without ``delay``, ``eta`` and ``idempotency_key``. Raises what
        `submit` raises.
        """
        check_name(name)
        body = encode_schedule(task_type, payload, options, cron, time_zone, missed, paused)
        return self._connection.put_schedule(name, body)

    def schedules(self) -> pd.DataFrame:
        """Give the schedules, a row each, by name.

        Returns
        -------
        DataFrame, shape (n, 13)
            Columns ``name``, ``task_type``, ``cron``, ``time_zone``, ``missed``, ``paused``, ``queue``, ``priority``,
            ``next_at`` (missing: it is paused), ``last_at``, ``created_at``, ``last_task_id``, ``payload``.
        """
        return schedule_frame(self._connection.schedules().schedules)

    def unschedule(self, name: str) -> None:
        """Remove a schedule; what it has submitted runs. Raises `UnknownSchedule`."""
        check_name(name)
        self._connection.delete_schedule(name)

    def task_types(self) -> pd.DataFrame:
        """Give what workers offer: columns ``task_type``, ``description``, ``fields`` (optional ones with ``?``)."""
        import pandas as pd  # noqa: PLC0415 - as above

        rows = [
            (entry.task_type, entry.description, _fields(entry.payload_schema))
            for entry in self._connection.task_types().task_types
        ]
        return pd.DataFrame(rows, columns=["task_type", "description", "fields"])

    def workers(self) -> pd.DataFrame:
        """Give the live workers, a row each."""
        import pandas as pd  # noqa: PLC0415 - as above

        rows = [msgspec.structs.asdict(worker) for worker in self._connection.workers().workers]
        columns = ["worker", "queues", "task_types", "concurrency", "running", "settled", "rejected", "started_at"]
        return pd.DataFrame(rows, columns=columns)

    def close(self) -> None:
        """Close the connections. Handles made by this client need them."""
        self._connection.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Client {self.url}>"


def _type(task_type: str) -> bytes:
    if not isinstance(task_type, str) or TASK_TYPE.fullmatch(task_type) is None:
        raise ValueError(f"expected the task type to be a name such as 'EMAIL_SEND', got {task_type!r}")
    return _encode(task_type)


def _field(options: Options) -> bytes:
    """Give options as a field of a body; nothing where they say nothing."""
    encoded = _encode(Options(**msgspec.structs.asdict(options)))
    return b"" if encoded == b"{}" else b',"options":' + encoded


def _chunk_body(head: bytes, first: int, payloads: list[bytes], last: bool) -> bytes:
    flags = b',"firstIndex":%d,"last":%b' % (first, b"true" if last else b"false")
    return head + flags + b',"payloads":[' + b",".join(payloads) + b"]}"


def _chunks(payloads: Iterator[bytes]) -> Iterator[tuple[int, list[bytes], bool]]:
    """Give ``(first row, payloads, whether these are the last)``; at least one, be it empty."""
    first, size = 0, 0
    chunk: list[bytes] = []
    for payload in payloads:
        if chunk and (len(chunk) >= CHUNK_TASKS or size + len(payload) > CHUNK_BYTES):
            yield first, chunk, False
            first, size, chunk = first + len(chunk), 0, []
        chunk.append(payload)
        size += len(payload)
    yield first, chunk, True


def _until(pages: Iterator[Any], limit: int) -> Iterator[Any]:
    """Give pages until they hold `limit` rows."""
    for page in pages:
        yield page
        limit -= len(page.columns["taskId"])
        if limit <= 0:
            return


def _fields(schema: dict[str, Any]) -> str:
    required = schema.get("required", [])
    return ", ".join(name if name in required else f"{name}?" for name in schema.get("properties", {}))
