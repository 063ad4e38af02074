"""Rows to payloads: a DataFrame, or an iterable of payloads, becomes JSON, row by row. Pure.

A row of a DataFrame becomes an object with the columns as its fields; an item of a Series or of any other iterable
becomes a payload as it is. What becomes of each value is said in `nexusq_sdk.values`. A refusal names row and column.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import msgspec

from nexusq_sdk.errors import RowError
from nexusq_sdk.protocol.words import MAX_TASK_BYTES
from nexusq_sdk.values import NANOSECONDS, PLAIN, NoForm, convert, duration, infinite, joined

if TYPE_CHECKING:
    import pandas as pd

#: Rows that are converted at a time: bounds memory; column-wise work pays off long before.
SLICE = 5_000
#: Bytes of payloads that are kept from checking a whole frame; of a larger one the rest is encoded again.
KEPT_BYTES = 64_000_000
_encode = msgspec.json.Encoder().encode


class _Column(NamedTuple):
    """A column's values, sliceable, and what turns a slice of them into JSON-like ones."""

    name: str
    values: Any
    convert: Callable[[Any], list[Any]]


def index_of(rows: object) -> pd.Index[Any] | None:
    """Give the index of a DataFrame or Series, else None; without loading pandas to find out."""
    pandas = sys.modules.get("pandas")
    return rows.index if pandas is not None and isinstance(rows, pandas.DataFrame | pandas.Series) else None


def encode_rows(rows: pd.DataFrame | Iterable[Any]) -> Iterator[bytes]:
    """Give each row's payload as JSON. A DataFrame or Series is checked whole before the first one is given.

    Raises
    ------
    RowError
        For a value without a JSON form or a payload that is too large.
    TypeError
        If `rows` is neither a DataFrame nor an iterable of payloads, or a DataFrame's columns have no fit names.
    """
    if index_of(rows) is not None:
        return _checked(rows)
    if isinstance(rows, str | bytes | dict) or not isinstance(rows, Iterable):
        raise TypeError(
            f"expected rows to be a DataFrame or an iterable of payloads (dicts, numbers, text, lists), "
            f"got {type(rows).__name__}{'; use submit() for one task' if isinstance(rows, str | bytes | dict) else ''}"
        )
    return (_encode_item(item, row) for row, item in enumerate(rows))


def encode_payload(payload: Any) -> bytes:
    """Give one task's payload as JSON.

    Raises
    ------
    RowError
        If it has no JSON form or is too large.
    """
    return _encode_item(payload, None)


def _encode_item(item: Any, row: int | None) -> bytes:
    try:
        payload = _encode(convert(item))
    except NoForm as error:
        _refuse(str(error), row, error.path)
    except UnicodeEncodeError as error:
        _refuse(_bad_text(error), row)
    except RecursionError:
        _refuse("expected a payload that ends, got one that is nested too deep or in itself", row)
    if len(payload) > MAX_TASK_BYTES:
        _refuse_size(payload, row)
    return payload


def _checked(rows: Any) -> Iterator[bytes]:
    """Encode all rows, to find what is wrong before anything is sent; keep what fits into memory easily."""
    frame = rows.to_frame(name="") if rows.ndim == 1 else rows
    names = [] if rows.ndim == 1 else field_names(frame)
    columns = [_column(str(name), frame.iloc[:, position]) for position, name in enumerate(frame.columns)]
    kept: list[bytes] = []
    size = 0
    for payload in _encode_frame(frame, names, columns, 0):
        size += len(payload)
        if size <= KEPT_BYTES:
            kept.append(payload)
    return _kept_then_again(kept, lambda start: _encode_frame(frame, names, columns, start), len(frame))


def _kept_then_again(kept: list[bytes], again: Callable[[int], Iterator[bytes]], size: int) -> Iterator[bytes]:
    yield from kept
    if len(kept) < size:
        yield from again(len(kept))


def _encode_frame(frame: pd.DataFrame, names: list[str], columns: list[_Column], first: int) -> Iterator[bytes]:
    for start in range(first, len(frame), SLICE):
        stop = min(start + SLICE, len(frame))
        parts = [_convert_slice(frame, column, start, stop) for column in columns]
        rows: Iterable[Any]
        if names:
            rows = (dict(zip(names, values, strict=True)) for values in zip(*parts, strict=True))
        else:
            # A Series gives its values as they are, a frame without columns objects without fields.
            rows = parts[0] if parts else ({} for _ in range(start, stop))
        for row, value in enumerate(rows, start):
            try:
                payload = _encode(value)
            except UnicodeEncodeError as error:
                _refuse(_bad_text(error), row, _bad_column(value), frame.index[row])
            if len(payload) > MAX_TASK_BYTES:
                _refuse_size(payload, row, frame.index[row])
            yield payload


def _convert_slice(frame: pd.DataFrame, column: _Column, start: int, stop: int) -> list[Any]:
    try:
        return column.convert(column.values[start:stop])
    except (NoForm, RecursionError):
        for row in range(start, stop):
            try:
                column.convert(column.values[row : row + 1])
            except NoForm as error:
                _refuse(str(error), row, joined(column.name, error.path), frame.index[row])
            except RecursionError:
                _refuse("expected a value that ends, got one that is nested too deep", row, column.name)
        raise


def _refuse(message: str, row: int | None, column: str | None = None, label: object = None) -> NoReturn:
    where = "the payload" if row is None else f"row {row}"
    if label is not None and label != row:
        where += f" (index {label!r})"
    if column:
        where += f", {'field' if row is None else 'column'} {column!r}"
    raise RowError(f"{where}: {message}", row=row, column=column or None) from None


def _refuse_size(payload: bytes, row: int | None, label: object = None) -> NoReturn:
    _refuse(
        f"expected a payload of at most {MAX_TASK_BYTES // 1000} kB, got {len(payload) // 1000} kB; "
        f"store what is large and send where it is",
        row,
        None,
        label,
    )


def _bad_text(error: UnicodeEncodeError) -> str:
    return f"expected text that is Unicode, got {error.object[error.start : error.end]!r} in it ({error.reason})"


def _bad_column(value: Any) -> str | None:
    for name, item in value.items() if isinstance(value, dict) else ():
        try:
            _encode(item)
        except UnicodeEncodeError:
            return str(name)
    return None


def field_names(frame: pd.DataFrame) -> list[str]:
    """Give the names of a frame's columns. Raises TypeError where they can't be names of fields."""
    names = list(frame.columns)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(
                f"expected the names of columns to be strings, since they become the payload's fields, got {name!r}; "
                f"rename them, for example by frame.set_axis([...], axis=1)"
            )
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise TypeError(f"expected each column once, got {', '.join(map(repr, twice))} more than once")
    return [str(name) for name in names]


def _column(name: str, series: pd.Series[Any]) -> _Column:
    """Choose how a column is converted, by its dtype: whole slices at once where numpy can."""
    import numpy as np  # noqa: PLC0415 - loaded already: there is a DataFrame
    import pandas as pd  # noqa: PLC0415

    dtype = series.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return _Column(name, series.cat.codes.to_numpy(), _from_codes(dtype.categories))
    if isinstance(dtype, pd.DatetimeTZDtype):
        return _Column(name, series, _times)
    if isinstance(dtype, pd.StringDtype):
        return _Column(name, series, _texts)
    if isinstance(dtype, np.dtype):
        if dtype.kind in "biu":
            return _Column(name, series.to_numpy(), _plain)
        if dtype.kind == "f":
            return _Column(name, series.to_numpy(dtype=np.float64), _floats)
        if dtype.kind == "M":
            return _Column(name, series, _times)
        if dtype.kind == "m":
            return _Column(name, series.to_numpy(), _spans)
    return _Column(name, series.astype(object).to_numpy(), _objects)


def _plain(values: Any) -> list[Any]:
    converted: list[Any] = values.tolist()
    return converted


def _floats(values: Any) -> list[Any]:
    """NaN stays: the encoder writes it as null."""
    import numpy as np  # noqa: PLC0415 - loaded already

    wrong = np.isinf(values)
    if wrong.any():
        raise infinite(values[wrong][0])
    return _plain(values)


def _times(values: Any) -> list[Any]:
    return [None if value != value else value.isoformat() for value in values.astype(object)]  # noqa: PLR0124 - NaT


def _spans(values: Any) -> list[Any]:
    import numpy as np  # noqa: PLC0415 - loaded already

    unit = NANOSECONDS[np.datetime_data(values.dtype)[0]]
    missing = np.iinfo(np.int64).min  # NaT
    return [None if value == missing else duration(value * unit) for value in values.view("i8").tolist()]


def _texts(values: Any) -> list[Any]:
    return [value if isinstance(value, str) else None for value in values.tolist()]


def _objects(values: Any) -> list[Any]:
    return [value if value.__class__ in PLAIN else convert(value) for value in values]


def _from_codes(categories: pd.Index[Any]) -> Callable[[Any], list[Any]]:
    """Convert each category once. One without a JSON form is refused only where it occurs."""
    known: dict[int, Any] = {-1: None}
    wrong: dict[int, NoForm] = {}
    for code, category in enumerate(categories.astype(object)):
        try:
            known[code] = convert(category)
        except NoForm as error:
            wrong[code] = error

    def values(codes: Any) -> list[Any]:
        listed = codes.tolist()
        for code in listed if wrong else ():
            if code in wrong:
                raise wrong[code]
        return [known[code] for code in listed]

    return values
