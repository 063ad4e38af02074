"""The client: a method for each call of the API. How work is submitted stands in `submits`, its base."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Unpack

from nexusq_sdk.batch import Batch
from nexusq_sdk.connection import PAGE, Connection
from nexusq_sdk.errors import check_batch_reference
from nexusq_sdk.functions import key_for, open_column
from nexusq_sdk.options import SubmitOptions
from nexusq_sdk.protocol import ids
from nexusq_sdk.protocol.wire import BatchView, DeadLetter, Requeue, ScheduleView, TaskPage
from nexusq_sdk.protocol.words import Status
from nexusq_sdk.schedules import check_name, encode_schedule, schedule_frame
from nexusq_sdk.submits import Submits
from nexusq_sdk.task_handle import Task

if TYPE_CHECKING:
    import pandas as pd


_recent: weakref.ref[Client] | None = None


def recent() -> Client:
    """Give the client that was made last, or a new one: for ``@task`` functions that are told of none."""
    client = _recent() if _recent is not None else None
    return client or Client()


class Client(Submits):
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

    def task(self, task_id: str) -> Task:
        """Take up a task by its id, from any kernel. Raises `UnknownTask` or `ResultExpired`."""
        task = Task(task_id, self._connection)
        task.info()
        return task

    def batch(self, batch_id: str) -> Batch:
        """Take up a batch by its id or its name, from any kernel. Raises `UnknownTask`."""
        check_batch_reference(batch_id)
        if not ids.is_id(batch_id):
            batch_id = self._connection.named_batch(batch_id).batch_id
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
        DataFrame, shape (at most limit, 17 or 18)
            Columns: see `nexusq_sdk.frames.task_frame`.
        """
        from nexusq_sdk import frames  # noqa: PLC0415 - pandas loads when a frame is wanted

        if limit < 0:
            raise ValueError(f"expected limit to be 0 or more, got {limit}")
        asked = {
            "status": status,
            "type": task_type,
            "batch": batch,
            "since": _since(since),
            "payload": str(payload).lower(),
        }
        asked["limit"] = str(min(max(limit, 1), PAGE))
        pages = self._connection.tasks({name: str(value) for name, value in asked.items() if value is not None})
        opened = (open_column(columns, self._connection.signing_key) for columns in _until(pages, limit))
        return frames.task_frame(opened, payload=payload)

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

    def batches(self, *, since: str | datetime | timedelta | None = None, limit: int = 1000) -> pd.DataFrame:
        """Give the batches, newest first.

        Parameters
        ----------
        since : str, timedelta or datetime, optional
            Submitted since: ``"15m"``, ``"2h"``, a span, or a moment.
        limit : int
            The most rows.

        Returns
        -------
        DataFrame, shape (at most limit, 17)
            Columns ``batch_id``, ``name``, ``task_type``, ``queue``, ``size``, a count for each status
            (``scheduled`` ... ``cancelled``), ``rate`` (tasks ended a second), ``p50`` and ``p95`` (how long attempts
            ran, within a tenth), ``submitted_at``, ``started_at``, ``finished_at``.

        Examples
        --------
        >>> client.batch(client.batches(since="1d")["batch_id"][0]).wait()  # doctest: +SKIP
        """
        from nexusq_sdk import frames  # noqa: PLC0415 - as above

        asked = {"limit": str(min(max(limit, 1), 1000))} | ({} if since is None else {"since": str(_since(since))})
        views: list[BatchView] = []
        for page in self._connection.batches(asked):
            views += page.batches
            if len(views) >= limit:
                break
        return frames.batch_frame(views[: max(limit, 0)])

    def workers(self) -> pd.DataFrame:
        """Give the live workers, a row each.

        Returns
        -------
        DataFrame, shape (n, 9)
            Columns ``worker``, ``queues``, ``task_types`` (lists), ``concurrency`` and ``processes`` (how many tasks it
            runs at once in threads and in processes), ``running``, ``settled`` (tasks ended), ``rejected`` (records
            that were no tasks), ``started_at``.
        """
        from nexusq_sdk import frames  # noqa: PLC0415 - as above

        return frames.worker_frame(self._connection.workers().workers)

    def queues(self) -> pd.DataFrame:
        """Give the queues, a row for each priority, as they stood about two seconds ago.

        A record counts as done with once its task's outcome is on Redis's disk, which comes once a second.

        Returns
        -------
        DataFrame, shape (n, 7)
            Columns ``queue``, ``priority``, ``lag`` (Kafka records that are not done with), ``due`` (tasks that wait
            for their time), ``in_progress``, ``rate`` (records done with a second, lately; missing: not seen yet),
            ``workers`` (live ones that serve the queue).
        """
        from nexusq_sdk import frames  # noqa: PLC0415 - as above

        return frames.lane_frame(self._connection.queues().queues)

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


def _since(since: str | datetime | timedelta | None) -> str | None:
    if isinstance(since, timedelta):
        return f"{math.ceil(since.total_seconds())}s"
    if isinstance(since, datetime):
        # A pandas Timestamp passes for a datetime, and has an astimezone() of its own.
        return datetime.combine(since.date(), since.time(), since.tzinfo).astimezone(UTC).isoformat()
    return since


def _until(pages: Iterator[TaskPage], limit: int) -> Iterator[dict[str, list[Any]]]:
    """Give the first `limit` rows."""
    for page in pages:
        yield {name: values[:limit] for name, values in page.columns.items()}
        limit -= len(page.columns["taskId"])
        if limit <= 0:
            return


def _fields(schema: dict[str, Any]) -> str:
    required = schema.get("required", [])
    return ", ".join(name if name in required else f"{name}?" for name in schema.get("properties", {}))
