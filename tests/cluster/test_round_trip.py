"""Any DataFrame goes through the real cluster and comes back unchanged by the stated rule, or is refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any
from uuid import uuid4

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nexusq_sdk
from tests.conftest import Addresses
from tests.pure.test_rows import KINDS, REFUSED, frames, without_nan

Example = tuple[pd.DataFrame, list[dict[str, Any]], list[str]]


@pytest.fixture(scope="module")
def echo(cluster: Addresses) -> Iterator[nexusq_sdk.Client]:
    """Give a client that serves all examples of a test."""
    with nexusq_sdk.Client(cluster.url) as client:
        yield client


def labelled(frame: pd.DataFrame) -> pd.DataFrame:
    """Give the frame under labels of its own, none of which is a position."""
    return frame.set_axis([f"row {number}" for number in range(len(frame))])


def exactly(rows: list[dict[str, Any]]) -> str:
    """Write rows so that types and digits count: 1, 1.0 and True are equal. A fold says nothing without a time zone."""
    return repr(
        [
            {name: cell.replace(fold=0) if isinstance(cell, datetime) else cell for name, cell in row.items()}
            for row in rows
        ]
    )


def read_back(values: list[Any], kinds: list[str]) -> list[dict[str, Any]]:
    """Read rows that came as JSON as the columns' dtypes say."""
    readers = {f"c{number}": KINDS[kind][1] for number, kind in enumerate(kinds)}
    return [{name: None if cell is None else readers[name](cell) for name, cell in row.items()} for row in values]


@settings(max_examples=60)
@given(frames())
def test_a_supported_frame_comes_back_from_the_workers_by_the_rule(echo: nexusq_sdk.Client, example: Example) -> None:
    # given a frame of supported dtypes
    frame, rows, kinds = example
    frame = labelled(frame)

    # when its rows are submitted to a handler that returns what it is given
    batch = echo.submit_batch("ECHO", frame).wait(timeout=30)
    outcomes = batch.frame(payload=True)

    # then payloads and results are its rows to the last digit and type, under its labels
    expected = exactly([without_nan(row) for row in rows])
    assert expected == exactly(read_back(list(outcomes["payload"]), kinds))
    assert expected == exactly(read_back(list(outcomes["result"]), kinds))
    assert expected == exactly(read_back(list(batch.results()), kinds))
    assert list(frame.index) == list(outcomes.index)

    # and made into columns of the same dtypes they are the frame
    for number, kind in enumerate(kinds):
        name = f"c{number}"
        values = [row[name] for row in read_back(list(outcomes["result"]), kinds)]
        again = pd.Series(values, index=frame.index, name=name, dtype=None if kind == "category" else kind)
        again = again.astype("category") if kind == "category" else again
        if kind != "object":  # where a nested NaN has become null, as the rule says
            pd.testing.assert_series_equal(frame[name], again)


@settings(max_examples=60)
@given(frames().filter(lambda example: len(example[0]) > 0), st.sampled_from(REFUSED), st.data())
def test_a_frame_with_a_value_outside_the_rule_is_refused_by_its_name_and_nothing_was_sent(
    echo: nexusq_sdk.Client, example: Example, refused: tuple[Any, str], data: st.DataObject
) -> None:
    # given a frame with one cell more that has no JSON form
    value, said = refused
    frame = labelled(example[0])
    bad = data.draw(st.integers(0, len(frame) - 1))
    cells: list[Any] = [None] * len(frame)
    cells[bad] = value
    frame["bad"] = pd.Series(cells, index=frame.index, dtype=object)
    name = f"refused-{uuid4()}"

    # when it is submitted, then the refusal names row, label, column and what to do
    with pytest.raises(nexusq_sdk.RowError, match=said) as refusal:
        echo.submit_batch("ECHO", frame, name=name)
    assert (bad, "bad") == (refusal.value.row, (refusal.value.column or "")[:3])
    assert f"row {bad} (index 'row {bad}'), column 'bad" in str(refusal.value)

    # and there is no batch
    with pytest.raises(nexusq_sdk.UnknownTask, match=f"there is no batch named '{name}'"):
        echo.batch(name)
