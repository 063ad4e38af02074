"""Rows to JSON: every supported value comes back by the rule, every other one is refused by row and column."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexusq_sdk import rows as rows_
from nexusq_sdk.errors import RowError
from nexusq_sdk.rows import encode_payload, encode_rows

MISSING = st.none()
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NAIVE = st.datetimes(min_value=datetime(1700, 1, 1), max_value=datetime(2200, 1, 1))
SPANS = st.timedeltas(min_value=timedelta(days=-36500), max_value=timedelta(days=36500))


def read_span(text: str) -> timedelta:
    return msgspec.convert(text, timedelta)


def same(value: Any) -> Any:
    return value


#: dtype → what may stand in such a column, and how its JSON is read back.
KINDS: dict[str, tuple[st.SearchStrategy[Any], Callable[[Any], Any]]] = {
    "int64": (st.integers(-(2**63), 2**63 - 1), same),
    "uint64": (st.integers(0, 2**64 - 1), same),
    "float64": (st.floats(allow_infinity=False, allow_nan=False) | MISSING, same),
    "bool": (st.booleans(), same),
    "str": (TEXT, same),
    "string": (TEXT | MISSING, same),
    "Int64": (st.integers(-(2**63), 2**63 - 1) | MISSING, same),
    "boolean": (st.booleans() | MISSING, same),
    "category": (TEXT | MISSING, same),
    "datetime64[us]": (NAIVE | MISSING, datetime.fromisoformat),
    "datetime64[us, UTC]": (NAIVE.map(lambda when: when.replace(tzinfo=UTC)) | MISSING, datetime.fromisoformat),
    "timedelta64[us]": (SPANS | MISSING, read_span),
    "object": (
        st.recursive(
            st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_infinity=False) | TEXT,
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
            max_leaves=6,
        ),
        same,
    ),
}


def without_nan(value: Any) -> Any:
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return {name: without_nan(item) for name, item in value.items()} if isinstance(value, dict) else value


@st.composite
def frames(draw: st.DrawFn) -> tuple[pd.DataFrame, list[dict[str, Any]], list[str]]:
    """Give a frame, the same as plain rows, and the dtype of each column."""
    kinds = draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=4))
    size = draw(st.integers(0, 8))
    cells = [draw(st.lists(KINDS[kind][0], min_size=size, max_size=size)) for kind in kinds]
    columns = {}
    for number, (kind, values) in enumerate(zip(kinds, cells, strict=True)):
        series = pd.Series(values, dtype=None if kind == "category" else kind)
        columns[f"c{number}"] = series.astype("category") if kind == "category" else series
    rows = [{f"c{number}": cells[number][row] for number in range(len(kinds))} for row in range(size)]
    return pd.DataFrame(columns), rows, kinds


@given(frames())
def test_a_supported_frame_comes_back_by_the_rule(
    example: tuple[pd.DataFrame, list[dict[str, Any]], list[str]],
) -> None:
    frame, rows, kinds = example

    encoded = [json.loads(payload) for payload in encode_rows(frame)]

    readers = {f"c{number}": KINDS[kind][1] for number, kind in enumerate(kinds)}
    back = [{name: None if value is None else readers[name](value) for name, value in row.items()} for row in encoded]
    assert [without_nan(row) for row in rows] == back


@given(st.lists(KINDS["object"][0], max_size=5))
def test_items_of_an_iterable_are_payloads_as_they_are(items: list[Any]) -> None:
    assert [without_nan(item) for item in items] == [json.loads(payload) for payload in encode_rows(iter(items))]


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    y: float


class Pair(NamedTuple):
    left: int
    right: Any


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.int8(-3), -3),
        (np.float32(0.5), 0.5),
        (np.longdouble(0.5), 0.5),
        (np.bool_(True), True),
        (np.str_("x"), "x"),
        (np.float64("nan"), None),
        (pd.NaT, None),
        (pd.NA, None),
        (Decimal("NaN"), None),
        (Decimal("1.10"), "1.10"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Colour.RED, "red"),
        (Point(1, float("nan")), {"x": 1, "y": None}),
        (Pair(1, [date(2026, 1, 2)]), {"left": 1, "right": ["2026-01-02"]}),
        ((1, (2, None)), [1, [2, None]]),
        (datetime(2026, 1, 2, 3, 4, 5), "2026-01-02T03:04:05"),
        (datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=2))), "2026-01-02T00:00:00+02:00"),
        (pd.Timestamp("2026-01-02T03:04:05.000000007", tz="UTC"), "2026-01-02T03:04:05.000000007+00:00"),
        (np.datetime64("2026-01-02T03:04:05.500", "ns"), "2026-01-02T03:04:05.5"),
        (np.datetime64("NaT", "ns"), None),
        (timedelta(days=1, seconds=2.5), "P1DT2.5S"),
        (timedelta(seconds=-1), "-PT1S"),
        (pd.Timedelta("-1 days +00:00:00.000000001"), "-PT86399.999999999S"),
        (np.timedelta64(1500, "ms"), "PT1.5S"),
        (np.timedelta64("NaT", "s"), None),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (np.array(7), 7),
        (np.array([1.0, np.nan]), [1.0, None]),
        (np.array(["2026-01-02T03:04:05"], dtype="M8[ns]"), ["2026-01-02T03:04:05"]),
    ],
    ids=repr,
)
def test_a_value_is_the_same_json_alone_in_a_dict_and_in_a_cell(value: Any, expected: Any) -> None:
    # given a column that holds the value as an object among others
    cells = np.empty(2, dtype=object)
    cells[0], cells[1] = value, "other"
    frame = pd.DataFrame({"c": pd.Series(cells, dtype=object)})

    # then all three ways give the same
    assert expected == json.loads(encode_payload(value))
    assert {"c": expected} == json.loads(encode_payload({"c": value}))
    assert {"c": expected} == json.loads(next(encode_rows(frame)))


def test_what_pandas_holds_in_other_ways_is_written_as_its_values() -> None:
    frame = pd.DataFrame(
        {
            "sparse": pd.arrays.SparseArray([0.0, 1.5]),
            "when": pd.Series(["2026-01-02", None], dtype="datetime64[ns]").dt.tz_localize("Europe/Berlin"),
            "days": pd.Categorical([date(2026, 1, 2), None]),
            "seconds": pd.Series([90, None], dtype="timedelta64[s]"),
            "short": np.array([0.5, 2.0], dtype=np.float16),
        }
    )

    first, second = (json.loads(payload) for payload in encode_rows(frame))

    when = "2026-01-02T00:00:00+01:00"
    assert {"sparse": 0.0, "when": when, "days": "2026-01-02", "seconds": "PT90S", "short": 0.5} == first
    assert {"sparse": 1.5, "when": None, "days": None, "seconds": None, "short": 2.0} == second


def test_a_series_gives_its_values_as_payloads_and_a_frame_without_columns_empty_objects() -> None:
    assert [b"1.5", b"null"] == list(encode_rows(pd.Series([1.5, None])))
    assert [b"{}", b"{}"] == list(encode_rows(pd.DataFrame(index=range(2))))


REFUSED: list[tuple[Any, str]] = [
    (b"x", "base64"),
    ({1}, "make a list"),
    (1j, "parts"),
    (float("inf"), "finite"),
    (Decimal("-Infinity"), "finite"),
    (np.float32("inf"), "finite"),
    (2**64, "64 bits"),
    (object(), "object"),
    ({"a": {3: 1}}, "strings"),
    (pd.Period("2026-01"), "Period"),
    (np.timedelta64(1, "Y"), "weeks"),
    ("\ud800", "Unicode"),
]


@pytest.mark.parametrize(("value", "said"), REFUSED, ids=lambda value: repr(value)[:30])
def test_what_has_no_json_form_is_refused_naming_row_and_column(value: Any, said: str) -> None:
    # given a frame of two slices whose last row but one has the value
    size = rows_.SLICE + 2
    cells = np.full(size, "fine", dtype=object)
    cells[size - 2] = value
    frame = pd.DataFrame({"ok": 1, "bad": pd.Series(cells, dtype=object)})
    frame.index = [f"n{row}" for row in range(size)]

    # when it is encoded, then nothing comes but the refusal
    with pytest.raises(RowError, match=said) as refusal:
        encode_rows(frame)
    assert (size - 2, "bad") == (refusal.value.row, (refusal.value.column or "")[:3])
    assert f"row {size - 2} (index 'n{size - 2}'), column 'bad" in str(refusal.value)


@pytest.mark.parametrize("column", ["floats", "categories"])
def test_a_bad_value_in_a_typed_column_is_named_as_well(column: str) -> None:
    frame = pd.DataFrame(
        {"floats": [1.0, np.nan, np.inf], "categories": pd.Categorical([Decimal(1), None, Decimal("Infinity")])}
    )

    with pytest.raises(RowError, match=f"row 2, column '{column}': expected a finite number") as refusal:
        encode_rows(frame[[column]])

    assert (2, column) == (refusal.value.row, refusal.value.column)


def test_a_category_without_a_json_form_that_does_not_occur_is_no_fault() -> None:
    frame = pd.DataFrame({"c": pd.Categorical(["a"], categories=["a", b"x"])})

    assert [b'{"c":"a"}'] == list(encode_rows(frame))


def test_a_refusal_in_an_iterable_names_the_row_and_the_place_in_it() -> None:
    payloads = encode_rows([{"a": 1}, {"a": {"b": [0, {"c": {1, 2}}]}}])

    assert b'{"a":1}' == next(payloads)
    with pytest.raises(RowError, match="row 1, column 'a.b\\[1\\].c': .* got set") as refusal:
        next(payloads)
    assert (1, "a.b[1].c") == (refusal.value.row, refusal.value.column)


def test_what_contains_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)

    with pytest.raises(RowError, match="nested too deep or in itself"):
        encode_payload(endless)


def test_a_payload_that_kafka_would_not_take_is_refused_with_its_row() -> None:
    with pytest.raises(RowError, match="row 1: expected a payload of at most 900 kB, got 950 kB"):
        encode_rows(pd.DataFrame({"text": ["x", "x" * 950_000]}))
    with pytest.raises(RowError, match="row 1: expected a payload of at most 900 kB"):
        list(encode_rows(["x", "x" * 950_000]))


def test_columns_that_can_not_be_fields_are_refused() -> None:
    with pytest.raises(TypeError, match="got 0; rename them"):
        encode_rows(pd.DataFrame([[1]]))
    with pytest.raises(TypeError, match=r"got \('a', 'b'\)"):
        encode_rows(pd.DataFrame({("a", "b"): [1]}))
    with pytest.raises(TypeError, match="each column once, got 'a'"):
        encode_rows(pd.DataFrame([[1, 2]], columns=["a", "a"]))


@pytest.mark.parametrize("rows", [5, "text", {"a": 1}, None])
def test_what_is_no_collection_of_rows_is_refused(rows: Any) -> None:
    with pytest.raises(TypeError, match="expected rows to be a DataFrame or an iterable of payloads"):
        encode_rows(rows)


def test_an_iterable_is_read_only_as_far_as_rows_are_taken() -> None:
    taken: list[int] = []

    def endless() -> Iterator[int]:
        while True:
            taken.append(len(taken))
            yield taken[-1]

    payloads = encode_rows(endless())

    assert [b"0", b"1", b"2"] == [next(payloads) for _ in range(3)]
    assert [0, 1, 2] == taken


def test_a_frame_that_is_too_large_to_keep_is_encoded_again_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = pd.DataFrame({"a": range(20)}, index=range(100, 120))
    whole = list(encode_rows(frame))

    monkeypatch.setattr(rows_, "KEPT_BYTES", 50)

    assert whole == list(encode_rows(frame))
