"""Pages of tasks to a frame of tasks: each column is built page by page, so that no second copy is ever held.

Pure. pandas loads with this module; nothing of the SDK imports it before a frame is wanted.
"""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd

from nexusq_sdk.protocol.wire import PAYLOAD_COLUMN
from nexusq_sdk.protocol.words import Status

STATUS = pd.CategoricalDtype([status.value for status in Status], ordered=True)
# A newer server's status that this SDK does not know is shown as missing.
_CODES: dict[str | None, int] = defaultdict(lambda: -1, {status.value: code for code, status in enumerate(Status)})
_MISSING = np.iinfo(np.int64).min  # what numpy takes for NaT
_TOGETHER = 10_000  # texts that become a part of their column at once: pandas takes long for each part
_ERROR = {"type": None, "message": None, "traceback": None}

#: A page of tasks as the wire has it: columns of one length.
Columns = dict[str, list[Any]]


class _Column(Protocol):
    """A column that grows page by page and is then made once; its parts are let go of then."""

    def add(self, values: Sequence[Any]) -> None:
        """Take a page's cells."""

    def made(self) -> Any:
        """Give the whole column."""


class _Whole:
    """Whole numbers: times in µs, attempts."""

    def __init__(self) -> None:
        self._parts: list[Any] = [np.empty(0, dtype=np.int64)]

    def add(self, values: Sequence[int | None]) -> None:
        try:
            part = np.array(values, dtype=np.int64)
        except TypeError:  # there is a None among them
            part = np.array([_MISSING if value is None else value for value in values], dtype=np.int64)
        self._parts.append(part)

    def made(self) -> Any:
        parts, self._parts = self._parts, []
        return np.concatenate(parts)


class _Shares:
    """Numbers from 0 to 1."""

    def __init__(self) -> None:
        self._parts: list[Any] = [np.empty(0)]

    def add(self, values: Sequence[float | None]) -> None:
        self._parts.append(np.array(values, dtype=np.float64))  # None: NaN

    def made(self) -> Any:
        parts, self._parts = self._parts, []
        return np.concatenate(parts)


class _Text:
    def __init__(self, dtype: str) -> None:
        self._none: pd.Series[Any] = pd.Series([None], dtype=dtype)
        self._dtype = dtype
        self._parts: list[pd.Series[Any]] = []
        self._waiting: list[str | None] = []

    def add(self, values: Sequence[str | None]) -> None:
        self._waiting += values
        if len(self._waiting) >= _TOGETHER:
            self._make()

    def _make(self) -> None:
        values, self._waiting = self._waiting, []
        if values.count(None) == len(values):  # as in most pages of errors and log lines
            self._parts.append(self._none.take(np.zeros(len(values), dtype=np.int64)))
        else:
            self._parts.append(pd.Series(values, dtype=self._dtype))

    def made(self) -> Any:
        self._make()
        parts, self._parts = self._parts, []
        return pd.concat(parts, ignore_index=True).array


class _Objects:
    def __init__(self) -> None:
        self._values: list[Any] = []

    def add(self, values: Sequence[Any]) -> None:
        self._values += values

    def made(self) -> Any:
        values, self._values = self._values, []
        # Filled one by one: numpy would make a table of lists of one length.
        return np.fromiter(values, dtype=object, count=len(values))


class _Codes(dict[str | None, int]):
    """Numbers names in the order in which they are first asked for."""

    def __missing__(self, name: str | None) -> int:
        self[name] = code = len(self) - 1
        return code


class _Names:
    """Few texts that come again and again: a category."""

    def __init__(self) -> None:
        self._codes = _Codes({None: -1})
        self._parts: list[Any] = [np.empty(0, dtype=np.int32)]

    def add(self, values: Sequence[str | None]) -> None:
        self._parts.append(np.fromiter(map(self._codes.__getitem__, values), np.int32, len(values)))

    def made(self) -> Any:
        # Names in their order, as text: not what pandas makes of a column without any.
        names = sorted(name for name in self._codes if name is not None)
        order = np.full(len(self._codes), -1, dtype=np.int32)  # the last one is that of -1
        for place, name in enumerate(names):
            order[self._codes[name]] = place
        parts, self._parts = self._parts, []
        codes = order[np.concatenate(parts)]
        return pd.Categorical.from_codes(codes, categories=pd.Index(names, dtype="str"))


class _Status:
    def __init__(self) -> None:
        self._parts: list[Any] = [np.empty(0, dtype=np.int8)]

    def add(self, values: Sequence[str | None]) -> None:
        self._parts.append(np.fromiter(map(_CODES.__getitem__, values), np.int8, len(values)))

    def made(self) -> Any:
        parts, self._parts = self._parts, []
        return pd.Categorical.from_codes(np.concatenate(parts), dtype=STATUS)


def build(pages: Iterable[Columns], *, payload: bool = False, arrow: bool = False) -> pd.DataFrame:
    """Make the frame that `frames.task_frame` describes."""
    text = _text_dtype(arrow)
    wire: dict[str, _Column] = {
        "taskId": _Text(text),
        "taskType": _Names(),
        "status": _Status(),
        "result": _Objects(),
        "attempt": _Whole(),
        "worker": _Names(),
        "submittedUs": _Whole(),
        "startedUs": _Whole(),
        "finishedUs": _Whole(),
        "progress": _Shares(),
        "progressText": _Text(text),
        **({PAYLOAD_COLUMN: _Objects()} if payload else {}),
    }
    errors: dict[str, _Column] = {"type": _Names(), "message": _Text(text), "traceback": _Text(text)}
    log = _Text(text)
    for page in pages:
        for name, column in wire.items():
            column.add(page[name])
        failures, logs = page["error"], page["log"]
        none: list[Any] = [None] * len(failures)  # as in most pages
        for name, column in errors.items():
            column.add(none if failures == none else [(error or _ERROR)[name] for error in failures])
        log.add(none if logs == none else ["\n".join(lines) if lines else None for lines in logs])
    made = {name: wire.pop(name).made() for name in list(wire)}
    submitted, started, finished = (
        made.pop(name).view("M8[us]") for name in ("submittedUs", "startedUs", "finishedUs")
    )
    attempt = made.pop("attempt")
    missing = attempt == _MISSING
    data = {
        "task_id": made.pop("taskId"),
        "task_type": made.pop("taskType"),
        "status": made.pop("status"),
        "result": made.pop("result"),
        "error_type": errors["type"].made(),
        "error": errors["message"].made(),
        "traceback": errors["traceback"].made(),
        "attempt": pd.arrays.IntegerArray(np.where(missing, 1, attempt), missing),
        "worker": made.pop("worker"),
        "submitted_at": _utc(submitted),
        "started_at": _utc(started),
        "finished_at": _utc(finished),
        "wait": pd.Series(started - submitted),
        "duration": pd.Series(finished - started),
        "progress": made.pop("progress"),
        "progress_text": made.pop("progressText"),
        "log": log.made(),
        **made,
    }
    return pd.DataFrame(data, copy=False)


def _utc(values: Any) -> Any:
    return pd.Series(values).dt.tz_localize("UTC").array


def _text_dtype(arrow: bool) -> str:
    if not arrow:
        return "str"
    if importlib.util.find_spec("pyarrow") is None:
        raise ImportError("expected pyarrow to be installed for dtype_backend='pyarrow': pip install pyarrow")
    return "string[pyarrow]"


def objects(values: Sequence[Any]) -> pd.Series[Any]:
    """Make a column of any values."""
    return _one(_Objects(), values)


def strings(values: Sequence[str | None]) -> pd.Series[Any]:
    """Make a column of text."""
    return pd.Series(values, dtype="str")


def category(values: Sequence[str | None]) -> pd.Series[Any]:
    """Make a column of few texts that come again and again."""
    return _one(_Names(), values)


def statuses(values: Sequence[str | None]) -> pd.Series[Any]:
    """Make a column of statuses, in the order of a task's life."""
    return _one(_Status(), values)


def spans(seconds: Sequence[float | None]) -> pd.Series[Any]:
    """Make a column of spans of time."""
    column = _Whole()
    column.add([None if value is None else round(value * 1e6) for value in seconds])
    return pd.Series(column.made().view("m8[us]"))


def _one(column: _Column, values: Sequence[Any]) -> pd.Series[Any]:
    column.add(values)
    return pd.Series(column.made())
