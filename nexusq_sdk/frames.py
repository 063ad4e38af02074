"""Task records to DataFrames. Pure: what comes in are columns as the wire has them, and no one is asked for more.

pandas loads with this module; nothing of the SDK imports it before a frame is wanted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
import pandas as pd
from msgspec import Raw, UnsetType, structs

from nexusq_sdk.protocol.wire import COLUMNS, PAYLOAD_COLUMN, DeadLetter, TaskPage
from nexusq_sdk.protocol.words import Status

STATUS = pd.CategoricalDtype([status.value for status in Status], ordered=True)
_CODES = {status.value: code for code, status in enumerate(Status)}
_MISSING = np.iinfo(np.int64).min  # what numpy takes for NaT
_QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}


def gather(pages: Iterable[TaskPage], payload: bool = False) -> dict[str, list[Any]]:
    """Join pages' columns to whole ones."""
    names = (*COLUMNS, PAYLOAD_COLUMN) if payload else COLUMNS
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for page in pages:
        for name in names:
            columns[name] += page.columns[name]
    return columns


def task_frame(columns: dict[str, list[Any]], index: pd.Index[Any] | None = None) -> pd.DataFrame:
    """Make a frame of tasks, a row each.

    Parameters
    ----------
    columns : dict of lists
        The wire's columns, all of one length n.
    index : Index of length n, optional
        Otherwise 0, 1, ..., n - 1.

    Returns
    -------
    DataFrame, shape (n, 14 or 15)
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
        payload         object                   only where it was asked for
        ==============  =======================  ==============================================================
    """
    submitted, started, finished = (_times(columns[name]) for name in ("submittedUs", "startedUs", "finishedUs"))
    errors = columns["error"]
    data = {
        "task_id": pd.Series(columns["taskId"], dtype="str"),
        "task_type": _category(columns["taskType"]),
        "status": _status(columns["status"]),
        "result": _objects(columns["result"]),
        "error_type": _category([error and error["type"] for error in errors]),
        "error": _strings([error and error["message"] for error in errors]),
        "traceback": _strings([error and error["traceback"] for error in errors]),
        "attempt": pd.Series(pd.array(columns["attempt"], dtype="Int64")),
        "worker": _category(columns["worker"]),
        "submitted_at": _utc(submitted),
        "started_at": _utc(started),
        "finished_at": _utc(finished),
        "wait": pd.Series(started - submitted),
        "duration": pd.Series(finished - started),
    }
    if PAYLOAD_COLUMN in columns:
        data["payload"] = _objects(columns[PAYLOAD_COLUMN])
    frame = pd.DataFrame(data, copy=False)
    if index is not None:
        frame.index = index
    return frame


def letter_frame(letters: Sequence[DeadLetter]) -> pd.DataFrame:
    """Make a frame of dead letters, a row each. Columns: see `nexusq_sdk.Client.dead_letters`."""
    errors = [letter.error for letter in letters]
    return pd.DataFrame(
        {
            "at": pd.Series(pd.to_datetime([letter.at for letter in letters], utc=True), dtype="datetime64[us, UTC]"),
            "reason": _strings([letter.reason for letter in letters]),
            "task_id": _strings([letter.task_id for letter in letters]),
            "task_type": _category([letter.task_type for letter in letters]),
            "batch_id": _strings([letter.batch_id for letter in letters]),
            "attempt": pd.Series(pd.array([letter.attempt for letter in letters], dtype="Int64")),
            "payload": _objects([_read(letter.payload) for letter in letters]),
            "error": _strings([None if error is None else error.message for error in errors]),
            "traceback": _strings([None if error is None else error.traceback for error in errors]),
            "history": _objects([[structs.asdict(attempt) for attempt in letter.history] for letter in letters]),
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


def _status(values: Sequence[str | None]) -> pd.Series[Any]:
    # A newer server's status that this SDK does not know is shown as missing.
    codes = np.fromiter((_CODES.get(value, -1) if value else -1 for value in values), np.int8, len(values))
    return pd.Series(pd.Categorical.from_codes(codes, dtype=STATUS))


def _times(values: Sequence[int | None]) -> Any:
    whole = [_MISSING if value is None else value for value in values]
    return np.array(whole, dtype=np.int64).view("M8[us]")


def _utc(values: Any) -> pd.Series[Any]:
    return pd.Series(values).dt.tz_localize("UTC")


def _category(values: Sequence[str | None]) -> pd.Series[Any]:
    # Names in their order, as text: not what pandas makes of a column without any.
    names = sorted({value for value in values if value is not None})
    codes = {name: code for code, name in enumerate(names)}
    coded = np.fromiter((-1 if value is None else codes[value] for value in values), np.int32, len(values))
    return pd.Series(pd.Categorical.from_codes(coded, categories=pd.Index(names, dtype="str")))


def _strings(values: Sequence[str | None]) -> pd.Series[Any]:
    return pd.Series(values, dtype="str")


def _objects(values: Sequence[Any]) -> pd.Series[Any]:
    # Filled one by one: numpy would make a table of lists of one length.
    return pd.Series(np.fromiter(values, dtype=object, count=len(values)))
