"""Columns from the wire to DataFrames: the documented dtypes, whatever they hold."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexusq_sdk.frames import report_frame, rows_where, task_frame
from nexusq_sdk.protocol.wire import COLUMNS
from nexusq_sdk.protocol.words import Status
from nexusq_sdk.task_frames import STATUS

MOMENTS = st.integers(0, 4_000_000_000_000_000)
ERRORS = st.fixed_dictionaries({"type": st.text(max_size=5), "message": st.text(max_size=5), "traceback": st.just("")})
CELLS: dict[str, st.SearchStrategy[Any]] = {
    "taskId": st.text(max_size=5),
    "taskType": st.sampled_from(["ECHO", "SLEEP"]),
    "status": st.sampled_from([*Status]),
    "result": st.lists(st.integers(), max_size=2) | st.dictionaries(st.text(max_size=2), st.floats(), max_size=2),
    "error": st.none() | ERRORS,
    "attempt": st.integers(0, 9),
    "worker": st.none() | st.sampled_from(["w1", "w2"]),
    "submittedUs": MOMENTS,
    "startedUs": st.none() | MOMENTS,
    "finishedUs": st.none() | MOMENTS,
    "progress": st.none() | st.floats(0, 1),
    "progressText": st.none() | st.text(max_size=5),
    "log": st.none() | st.lists(st.text(max_size=5), max_size=3),
}
#: What Redis still knows of an expired task.
EXPIRED = dict.fromkeys(CELLS) | {"taskId": "gone"}
ROWS = st.lists(st.fixed_dictionaries(CELLS) | st.just(EXPIRED), max_size=6)
TEXT = pd.Series(["x"], dtype="str").dtype


def columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in COLUMNS}


def task(**cells: Any) -> dict[str, Any]:
    return EXPIRED | {"taskType": "ECHO", "status": "QUEUED", "attempt": 0, "submittedUs": 0} | cells


@given(st.lists(ROWS, max_size=3))
def test_dtypes_are_the_documented_ones_whatever_the_columns_hold(pages: list[list[dict[str, Any]]]) -> None:
    frame = task_frame(map(columns, pages))

    category, utc, span = "category", "datetime64[us, UTC]", "timedelta64[us]"
    expected = {"task_id": TEXT, "task_type": category, "status": STATUS, "result": object, "error_type": category}
    expected |= {"error": TEXT, "traceback": TEXT, "attempt": "Int64", "worker": category, "submitted_at": utc}
    expected |= {"started_at": utc, "finished_at": utc, "wait": span, "duration": span}
    expected |= {"progress": "float64", "progress_text": TEXT, "log": TEXT}
    assert list(expected) == list(frame.columns)
    assert {} == {name: dtype for name, dtype in frame.dtypes.items() if dtype != expected[str(name)]}


@given(st.lists(ROWS, max_size=3))
def test_every_cell_is_what_the_wire_said(pages: list[list[dict[str, Any]]]) -> None:
    frame = task_frame(map(columns, pages))

    rows = [row for page in pages for row in page]
    assert list(range(len(rows))) == frame.index.tolist()
    for row, cells in zip(frame.itertuples(), rows, strict=True):
        assert cells["taskId"] == row.task_id
        assert cells["result"] is row.result
        log = "\n".join(cells["log"]) if cells["log"] else None
        assert log == row.log if log is not None else pd.isna(row.log)
        same = [("status", row.status), ("worker", row.worker), ("attempt", row.attempt), ("taskType", row.task_type)]
        same += [("progress", row.progress), ("progressText", row.progress_text)]
        for name, shown in same:
            assert shown == cells[name] if cells[name] is not None else pd.isna(shown)
        if cells["error"] is None:
            assert pd.isna(row.error)
        else:
            assert (cells["error"]["type"], cells["error"]["message"]) == (row.error_type, row.error)
        if cells["startedUs"] is None:
            assert pd.isna(row.wait)
        else:
            assert pd.Timestamp(cells["startedUs"], unit="us", tz="UTC") == row.started_at
            assert pd.Timedelta(cells["startedUs"] - cells["submittedUs"], unit="us") == row.wait


def test_a_status_of_a_newer_server_is_shown_as_missing() -> None:
    assert [True] == task_frame([columns([task(status="PAUSED")])])["status"].isna().tolist()


def test_statuses_compare_in_the_order_of_a_tasks_life() -> None:
    frame = task_frame([columns([task(status="FAILED"), task(status="QUEUED")])])

    assert [True, False] == (frame["status"] > "IN_PROGRESS").tolist()


def test_rows_of_all_pages_are_picked_by_a_columns_values_with_their_positions() -> None:
    pages = [columns([task(taskId="a"), task(taskId="b", status="FAILED")]), columns([task(taskId="c")])]
    pages.append(columns([task(taskId="d", status="FAILED")]))
    positions: list[int] = []

    frame = task_frame(rows_where(pages, "status", {"FAILED"}, positions))

    assert (["b", "d"], [1, 3]) == (frame["task_id"].tolist(), positions)


def test_a_frame_takes_little_more_memory_while_it_is_made_than_it_holds() -> None:
    # given pages whose rows are made as they are asked for
    def pages() -> Iterator[dict[str, list[Any]]]:
        for page in range(20):
            first = 1000 * page
            rows = [task(taskId=f"task-{first + row}", result={"n": first + row}) for row in range(1000)]
            yield columns(rows)

    task_frame(pages())  # what is loaded with the first frame does not count
    tracemalloc.start()
    frame = task_frame(pages())
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert 20_000 == len(frame)
    assert peak < 1.5 * held


def test_a_report_counts_each_status_and_gives_percentiles_of_waiting_and_running() -> None:
    # given 100 tasks that waited 1 … 100 ms and ran for 2 ms, and one that waits
    ended = [task(status="COMPLETED", startedUs=row * 1000, finishedUs=row * 1000 + 2000) for row in range(1, 101)]

    # when they are summed up
    report = report_frame(task_frame([columns([*ended, task()])]))

    # then
    assert [("QUEUED", "wait"), ("QUEUED", "duration"), ("COMPLETED", "wait")] == report.index.tolist()[:3]
    assert [1, 1, 100, 100, 101, 101] == report["tasks"].tolist()
    assert pd.Timedelta(milliseconds=50.5) == report.loc[("COMPLETED", "wait"), "p50"]
    assert pd.Timedelta(milliseconds=100) == report.loc[("all", "wait"), "max"]
    assert pd.Timedelta(milliseconds=2) == report.loc[("all", "duration"), "p99"]
    assert pd.isna(report.loc[("QUEUED", "wait"), "p50"])
    assert {"timedelta64[us]"} == {str(report[name].dtype) for name in ("p50", "p95", "p99", "max")}


@pytest.mark.parametrize("rows", [[], [EXPIRED]])
def test_a_report_of_nothing_or_of_what_expired_is_a_report(rows: list[dict[str, Any]]) -> None:
    assert [len(rows)] * 2 == report_frame(task_frame([columns(rows)]))["tasks"].tolist()
