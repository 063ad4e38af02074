"""The client: a method for each call of the API, and what is sent made fit for sending."""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Unpack, overload

import msgspec

from nexusq_sdk.batch import Batch, Task
from nexusq_sdk.connection import PAGE, Connection
from nexusq_sdk.functions import Executor, encode_call, encode_calls, key_for, open_column, send_function
from nexusq_sdk.options import SubmitOptions, to_wire
from nexusq_sdk.protocol.wire import DeadLetter, Requeue, ScheduleView, TaskView
from nexusq_sdk.protocol.words import Status
from nexusq_sdk.rows import encode_payload, encode_rows, index_of
from nexusq_sdk.schedules import check_name, encode_schedule, schedule_frame
from nexusq_sdk.sending import send_batch, send_task, type_field

if TYPE_CHECKING:
    import pandas as pd


_recent: weakref.ref[Client] | None = None


def recent() -> Client:
    """Give the client that was made last, or a new one: for ``@task`` functions that are told of none."""
    client = _recent() if _recent is not None else None
    return client or Client()


class Client:
    """A NexusQ's API.

    Parameters
    ----------
    url : str, optional
        Where it answers; otherwise ``NEXUSQ_URL``, or ``http://127.0.0.1:8000``.
    signing_key : str, optional
        The server's key (hexadecimal) for functions that are sent by value; otherwise ``NEXUSQ_SIGNING_KEY``, or for a
        cluster on this machine the one that it has left for its user.
    timeout : float
        Seconds that one answer may take.

    Examples
    --------
    >>> import pandas as pd
    >>> client = Client("http://127.0.0.1:8000")
    >>> batch = client.submit_batch("ECHO", pd.DataFrame({"a": [1, 2]}))  # doctest: +SKIP
    >>> batch.wait().frame()  # doctest: +SKIP
    """

    def __init__(self, url: str | None = None, *, signing_key: str | None = None, timeout: float = 30.0) -> None:
        global _recent  # noqa: PLW0603 - what `recent` is for
        self._connection = Connection(url, timeout=timeout)
        self._connection.signing_key = key_for(self._connection.url, signing_key)
        self._options: SubmitOptions = {}
        _recent = weakref.ref(self)

    @property
    def url(self) -> str:
        """Where the API answers."""
        return self._connection.url

    def options(self, **options: Unpack[SubmitOptions]) -> Client:
        """Give a view of this client whose submits have these options; it shares the connection.

        Examples
        --------
        >>> client.options(priority="high", timeout=60).submit(train, alpha=0.1)  # doctest: +SKIP
        """
        to_wire(options)
        view = copy.copy(self)
        view._options = {**self._options, **options}
        return view

    @overload
    def submit(self, task_type: str, payload: Any, **options: Unpack[SubmitOptions]) -> Task: ...
    @overload
    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Task: ...
    def submit(self, *given: Any, **named: Any) -> Task:
        """Submit one task: of a task type, ``submit("EMAIL_SEND", payload)``, or a function's call, ``submit(fn, 1)``.

        A function is sent by value, signed with the cluster's key, and runs in a process of its own there, whatever
        its module; its arguments stand behind it, so that its options are said by `options`.

        Parameters
        ----------
        task_type : str
            What is to be done, such as ``"EMAIL_SEND"``.
        payload : dict, or anything with a JSON form
            What its handler is given. What becomes of each value: `nexusq_sdk.values`.
        function, *args, **kwargs
            What is to be called, and with what: anything that can be pickled. `Task.result` is what it returns.
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
        NotPicklable
            If the function or an argument can't be pickled or is too large.
        FunctionsOff, WrongKey
            If there is no signing key, or not the server's.
        ConnectionFailed, ServerUnavailable

        Examples
        --------
        >>> client.submit(pow, 2, 10).result()  # doctest: +SKIP
        1024
        """
        if given and callable(given[0]):
            function = send_function(self._connection, given[0])
            payload = encode_call(self._connection, function, given[1:], named)
            return self._handle(send_task(self._connection, function.task_type, payload, to_wire(self._options)))
        return self._submit_task(*given, **named)

    def map(
        self,
        function: Callable[..., Any],
        rows: pd.DataFrame | Iterable[Any],
        *,
        executor: Executor = "process",
        **options: Unpack[SubmitOptions],
    ) -> Batch:
        """Call a function for each row on the workers: ``function(**row)`` for a DataFrame, else ``function(item)``.

        The function is sent once, by value, whatever its module: one that was defined in a cell will do. What it
        refers to comes along, except for installed packages, which the workers must have in the same major version,
        with the same Python. Values of a row are anything that can be pickled.

        Parameters
        ----------
        rows : DataFrame, or iterable of values
            As for `submit_batch`, rows are sent in chunks as they are read.
        executor : {"process", "thread"}
            Where a worker runs it: a process for what keeps a CPU busy, a thread for what waits.

        The options and what is raised are those of `submit`.

        Returns
        -------
        Batch
            `Batch.results` and `Batch.frame` give what was returned, the very objects.

        Examples
        --------
        >>> def area(width, height):
        ...     return width * height
        >>> client.map(area, pd.DataFrame({"width": [1, 2], "height": [3, 4]})).results()  # doctest: +SKIP
        """
        sent = send_function(self._connection, function, executor)
        return self._send(sent.task_type, encode_calls(self._connection, sent, rows), index_of(rows), options)

    def _submit_task(self, task_type: str, payload: Any, **options: Unpack[SubmitOptions]) -> Task:
        said = to_wire({**self._options, **options})
        type_field(task_type)
        return self._handle(send_task(self._connection, task_type, encode_payload(payload), said))

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
        type_field(task_type)
        return self._send(task_type, encode_rows(rows), index_of(rows), options)

    def _send(
        self, task_type: str, payloads: Iterator[bytes], index: pd.Index[Any] | None, options: SubmitOptions
    ) -> Batch:
        said = to_wire({**self._options, **options})
        submitted = send_batch(self._connection, task_type, payloads, said)
        return Batch(submitted.batch_id, self._connection, index=index, submitted=submitted)

    def _handle(self, submitted: TaskView) -> Task:
        return Task(submitted.task_id, self._connection, submitted)

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
        columns = open_column(frames.gather(_until(pages, limit), payload), self._connection.signing_key)
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
