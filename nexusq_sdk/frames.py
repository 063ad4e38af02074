"""Task records to DataFrames. Pure: what comes in are columns as the wire has them, and no one is asked for more.

pandas loads with this module; nothing of the SDK imports it before a frame is wanted.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
import pandas as pd
from msgspec import Raw, UnsetType, structs

from nexusq_sdk.protocol.wire import BatchView, DeadLetter, WorkerView
from nexusq_sdk.protocol.wire_reports import LaneView
from nexusq_sdk.protocol.words import Priority, Status
from nexusq_sdk.task_frames import Columns, build, category, objects, spans, statuses, strings

if TYPE_CHECKING:
    import redis

_QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}


def rows_where(pages: Iterable[Columns], name: str, wanted: Container[Any], positions: list[int]) -> Iterator[Columns]:
    """Give of each page those rows whose value in a column is wanted; put their positions into `positions`."""
    first = 0
    for page in pages:
        values = page[name]
        found = [row for row, value in enumerate(values) if value in wanted]
        positions += [first + row for row in found]
        first += len(values)
        if found:
            yield {column: [cells[row] for row in found] for column, cells in page.items()}


def labels(index: pd.Index[Any] | None, positions: Sequence[int], size: int) -> pd.Index[Any]:
    """Give the labels of rows: those of the frame that was submitted where it fits, else their positions."""
    if index is not None and len(index) == size:
        return index[np.array(positions, dtype=np.int64)]
    return pd.Index(positions, dtype=np.int64)


def task_frame(
    pages: Iterable[Columns],
    *,
    payload: bool = False,
    dtype_backend: Literal["pyarrow"] | None = None,
) -> pd.DataFrame:
    """Make a frame of tasks, a row each. It takes little more memory than the frame itself and a page.

    Parameters
    ----------
    pages : iterable of dicts of lists
        The wire's columns, those of a page of one length.
    payload : bool
        Whether there are payloads.
    dtype_backend : {"pyarrow"}, optional
        Text in Arrow's strings (``string[pyarrow]``), where pyarrow is installed.

    Returns
    -------
    DataFrame, shape (n, 17 or 18)
        ==============  =======================  ==============================================================
        task_id         str                      (before pandas 3, here and below: object)
        task_type       category
        status          category, ordered        all six; missing: the task's state has expired
        result          object                   what the handler returned
        error_type      category                 class of what it raised
        error           str                      its message
        traceback       str                      the worker's
        attempt         Int64                    tries so far
        worker          category                 the one that had it last
        submitted_at    datetime64[us, UTC]      when it was accepted
        started_at      datetime64[us, UTC]
        finished_at     datetime64[us, UTC]
        wait            timedelta64[us]          started_at - submitted_at
        duration        timedelta64[us]          finished_at - started_at
        progress        float64                  0 to 1: what its handler has said of itself; missing: nothing
        progress_text   str                      the text that it said with it
        log             str                      the last lines that it has logged
        payload         object                   only where it was asked for
        ==============  =======================  ==============================================================
    """
    if dtype_backend not in (None, "pyarrow"):
        raise ValueError(f"expected dtype_backend to be 'pyarrow' or left out, got {dtype_backend!r}")
    return build(pages, payload=payload, arrow=dtype_backend is not None)


def expand(frame: pd.DataFrame) -> pd.DataFrame:
    """Make columns of results that are dicts: ``result.<field>``, where ``result`` was. What is no dict stays there.

    Examples
    --------
    >>> frame = pd.DataFrame({"result": [{"a": 1, "b": "x"}, None], "attempt": [1, 1]})
    >>> list(expand(frame).columns)
    ['result.a', 'result.b', 'attempt']
    """
    place = list(frame.columns).index("result")
    dicts = [value if isinstance(value, dict) else {} for value in frame["result"]]
    fields = pd.DataFrame.from_records(dicts, index=frame.index).add_prefix("result.")
    rest = frame.drop(columns="result")
    others = [value is not None and not isinstance(value, dict) for value in frame["result"]]
    if any(others) or not len(fields.columns):
        kept = [value if other else None for value, other in zip(frame["result"], others, strict=True)]
        rest.insert(place, "result", objects(kept).set_axis(frame.index))
        place += 1
    return pd.concat([rest.iloc[:, :place], fields, rest.iloc[:, place:]], axis=1)


#: Columns of any values, which files keep as JSON.
_ANY = ("result", "payload", "history")


def to_text(frame: pd.DataFrame) -> pd.DataFrame:
    """Give a frame that every kind of file holds: results and payloads as JSON text. `from_text` reads it back.

    Examples
    --------
    >>> to_text(pd.DataFrame({"result": [{"a": [1, None]}, None, "x"]}))["result"].tolist()
    ['{"a":[1,null]}', nan, '"x"']

    ``to_text(batch.frame()).to_parquet(path)`` and ``.to_csv(path)`` keep everything;
    ``from_text(pd.read_parquet(path))`` and ``read_csv(path)`` give it back.
    """
    text = {
        name: pd.Series([None if value is None else _json(value) for value in frame[name]], frame.index, dtype="str")
        for name in _ANY
        if name in frame
    }
    return frame.assign(**text)


def from_text(frame: pd.DataFrame) -> pd.DataFrame:
    """Give the frame back that `to_text` was given, whatever file it was in: dtypes, results and payloads."""
    read: dict[str, Any] = {}
    for column in frame.columns:
        name, values = str(column), frame[column]
        listed = [None if no else value for value, no in zip(values, values.isna(), strict=True)]
        if name in _ANY:
            values = objects([None if value is None else msgspec.json.decode(value) for value in listed])
        elif name == "status":
            values = statuses(listed)
        elif name in {"task_type", "error_type", "worker"}:
            values = category(listed)
        elif name in {"task_id", "error", "traceback", "progress_text", "log"}:
            values = strings(listed)
        elif name.endswith("_at"):
            values = pd.to_datetime(values, utc=True, format="ISO8601").astype("datetime64[us, UTC]")
        elif name in {"wait", "duration"}:
            values = pd.to_timedelta(values).astype("timedelta64[us]")
        elif name == "attempt":
            values = values.astype("Int64")
        elif name == "progress":
            values = values.astype("float64")
        read[name] = values.array
    return pd.DataFrame(read, index=frame.index)


def read_csv(path: Any) -> pd.DataFrame:
    """Give the frame back that ``to_text(frame).to_csv(path)`` wrote. Empty text comes back as missing."""
    text = dict.fromkeys((*_ANY, "error", "traceback", "worker", "progress_text", "log"), "str")
    return from_text(pd.read_csv(path, index_col=0, dtype=text, keep_default_na=False, na_values=[""]))


def from_redis(
    source: str | redis.Redis, *, batch: str, payload: bool = False, signing_key: str | None = None
) -> pd.DataFrame:
    """Give a batch's tasks straight from Redis: the frame that `Batch.frame` gives, without the API between.

    Parameters
    ----------
    source : str or redis.Redis
        Redis's URL, or a client that does not decode responses.
    batch : str
        The batch's id or its name.
    signing_key : str, optional
        Opens the results of functions by value; otherwise ``NEXUSQ_SIGNING_KEY``.

    Examples
    --------
    >>> from_redis("redis://127.0.0.1:6379/0", batch="exp-7")  # doctest: +SKIP
    """
    from nexusq_sdk.functions import open_column  # noqa: PLC0415 - only here: a frame needs no functions
    from nexusq_sdk.redis_view import RedisView  # noqa: PLC0415 - redis loads when it is asked

    view = RedisView(source, signing_key=signing_key)
    pages = view.batch_tasks(view.batch_id(batch), payload=payload)
    return task_frame((open_column(page.columns, view.signing_key) for page in pages), payload=payload)


def batch_frame(views: Sequence[BatchView]) -> pd.DataFrame:
    """Make a frame of batches, a row each. Columns: see `nexusq_sdk.Client.batches`."""
    counts = {status.value.lower(): _whole([view.counts.get(status, 0) for view in views]) for status in Status}
    return pd.DataFrame(
        {
            "batch_id": strings([view.batch_id for view in views]),
            "name": strings([view.name for view in views]),
            "task_type": category([view.task_type for view in views]),
            "queue": category([view.queue for view in views]),
            "size": _whole([view.size for view in views]),
            **counts,
            "rate": pd.Series([view.rate_per_second for view in views], dtype="float64"),
            "p50": spans([view.p50_seconds for view in views]),
            "p95": spans([view.p95_seconds for view in views]),
            "submitted_at": _moments([view.submitted_at for view in views]),
            "started_at": _moments([view.started_at for view in views]),
            "finished_at": _moments([view.finished_at for view in views]),
        }
    )


def lane_frame(lanes: Sequence[LaneView]) -> pd.DataFrame:
    """Make a frame of queues, a row for each priority. Columns: see `nexusq_sdk.Client.queues`."""
    return pd.DataFrame(
        {
            "queue": strings([lane.queue for lane in lanes]),
            "priority": pd.Series(
                pd.Categorical([lane.priority.value for lane in lanes], categories=[p.value for p in Priority])
            ),
            "lag": _whole([lane.lag for lane in lanes]),
            "due": _whole([lane.due for lane in lanes]),
            "in_progress": _whole([lane.in_progress for lane in lanes]),
            "rate": pd.Series([lane.rate_per_second for lane in lanes], dtype="float64"),
            "workers": _whole([lane.workers for lane in lanes]),
        }
    )


def worker_frame(workers: Sequence[WorkerView]) -> pd.DataFrame:
    """Make a frame of live workers, a row each. Columns: see `nexusq_sdk.Client.workers`."""
    return pd.DataFrame(
        {
            "worker": strings([worker.worker for worker in workers]),
            "queues": objects([worker.queues for worker in workers]),
            "task_types": objects([worker.task_types for worker in workers]),
            "concurrency": _whole([worker.concurrency for worker in workers]),
            "processes": _whole([worker.processes for worker in workers]),
            "running": _whole([worker.running for worker in workers]),
            "settled": _whole([worker.settled for worker in workers]),
            "rejected": _whole([worker.rejected for worker in workers]),
            "started_at": _moments([worker.started_at for worker in workers]),
        }
    )


def letter_frame(letters: Sequence[DeadLetter]) -> pd.DataFrame:
    """Make a frame of dead letters, a row each. Columns: see `nexusq_sdk.Client.dead_letters`."""
    errors = [letter.error for letter in letters]
    return pd.DataFrame(
        {
            "at": pd.Series(pd.to_datetime([letter.at for letter in letters], utc=True), dtype="datetime64[us, UTC]"),
            "reason": strings([letter.reason for letter in letters]),
            "task_id": strings([letter.task_id for letter in letters]),
            "task_type": category([letter.task_type for letter in letters]),
            "batch_id": strings([letter.batch_id for letter in letters]),
            "attempt": pd.Series(pd.array([letter.attempt for letter in letters], dtype="Int64")),
            "payload": objects([_read(letter.payload) for letter in letters]),
            "error": strings([None if error is None else error.message for error in errors]),
            "traceback": strings([None if error is None else error.traceback for error in errors]),
            "history": objects([[structs.asdict(attempt) for attempt in letter.history] for letter in letters]),
        }
    )


def _read(payload: Raw | UnsetType) -> Any:
    return None if isinstance(payload, UnsetType) else msgspec.json.decode(payload)


def report_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """Sum a frame of tasks up: how many stand how, and how long they waited and ran.

    Returns
    -------
    DataFrame
        Index: ``status`` (those that occur, in their order, then ``all``) and ``time`` (``wait``, ``duration``).
        Columns: ``tasks`` (int64), and of that time ``p50``, ``p95``, ``p99``, ``max`` (timedelta64[us]; NaT where
        no task has started or ended).

    Examples
    --------
    >>> batch.report().loc[("all", "duration"), "p95"]  # doctest: +SKIP
    Timedelta('0 days 00:00:00.062667')
    """
    groups = [(str(status), part) for status, part in frame.groupby("status", observed=True)] + [("all", frame)]
    names = pd.MultiIndex.from_product([[name for name, _ in groups], ["wait", "duration"]], names=["status", "time"])
    tasks = [len(part) for _, part in groups for _ in range(2)]
    report = pd.DataFrame({"tasks": np.array(tasks, dtype=np.int64)}, index=names)
    for label, quantile in _QUANTILES.items():
        times = [part[name].quantile(quantile) for _, part in groups for name in ("wait", "duration")]
        report[label] = pd.Series(times, index=names, dtype="timedelta64[us]")
    return report


def _whole(values: Sequence[int]) -> pd.Series[Any]:
    return pd.Series(np.array(values, dtype=np.int64))


def _moments(values: Sequence[datetime | None]) -> pd.Series[Any]:
    return pd.Series(pd.to_datetime(np.array(values, dtype=object), utc=True), dtype="datetime64[us, UTC]")


def _json(value: Any) -> str:
    try:
        return msgspec.json.encode(value, enc_hook=str).decode()
    except (TypeError, ValueError):
        return msgspec.json.encode(repr(value)).decode()
