"""What a notebook does with the SDK, on the real cluster: rows in, handles, frames out."""

from __future__ import annotations

import io
import itertools
import re
import sys
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import httpx
import numpy as np
import pandas as pd
import pytest

import nexusq_sdk
from nexusq_sdk import Status
from nexusq_sdk.progress import Progress, choose_drawer
from nexusq_sdk.protocol import ids
from tests.conftest import Addresses, eventually

ROWS = pd.DataFrame({"a": [6.0, 1.0, 9.0, 8.0], "b": [2, 0, 3, 4]}, index=["ann", "bob", "cid", "dan"])


@pytest.fixture(scope="module")
def divided(cluster: Addresses) -> Iterator[nexusq_sdk.Batch]:
    """Give a batch that has ended: three rows completed, bob's failed."""
    with nexusq_sdk.Client(cluster.url) as client:
        yield client.submit_batch("DIVIDE", ROWS).wait(timeout=30)


def test_outcomes_join_the_frame_that_was_submitted_by_its_index(divided: nexusq_sdk.Batch) -> None:
    outcomes = ROWS.join(divided.frame())

    assert list(ROWS.index) == list(outcomes.index)
    assert ["COMPLETED", "FAILED", "COMPLETED", "COMPLETED"] == list(outcomes["status"])
    assert [3.0, None, 3.0, 2.0] == list(outcomes["result"])
    assert [f"{divided.id}-{row}" for row in range(4)] == list(outcomes["task_id"])
    assert {"bob": "ZeroDivisionError"} == outcomes["error_type"].dropna().to_dict()
    assert {"bob": "float division by zero"} == outcomes["error"].dropna().to_dict()
    assert (outcomes["submitted_at"] + outcomes["wait"] == outcomes["started_at"]).all()
    assert (outcomes["started_at"] + outcomes["duration"] == outcomes["finished_at"]).all()
    assert {1} == set(outcomes["attempt"])


def test_a_series_gives_its_values_as_payloads_and_keeps_its_index(client: nexusq_sdk.Client) -> None:
    numbers = pd.Series([1.5, None, 3.0], index=pd.date_range("2026-01-01", periods=3))

    batch = client.submit_batch("ECHO", numbers).wait(timeout=30)

    outcome = batch.frame()
    assert [1.5, None, 3.0] == list(outcome["result"])
    assert numbers.index.equals(outcome.index)


def test_payloads_come_back_as_the_rule_has_them(client: nexusq_sdk.Client) -> None:
    frame = pd.DataFrame(
        {
            "n": np.array([1, 2], dtype=np.int16),
            "x": [0.5, np.nan],
            "when": pd.to_datetime(["2026-01-31 12:00", None]).tz_localize("UTC"),
            "span": [timedelta(minutes=1), None],
            "price": [Decimal("1.10"), None],
            "id": [UUID(int=7), None],
            "text": ["Grüße", None],
            "more": [[1, {"a": None}], None],
        }
    )

    batch = client.submit_batch("ECHO", frame).wait(timeout=30)

    first, second = batch.frame(payload=True)["payload"]
    assert first == {
        "n": 1,
        "x": 0.5,
        "when": "2026-01-31T12:00:00+00:00",
        "span": "PT60S",
        "price": "1.10",
        "id": "00000000-0000-0000-0000-000000000007",
        "text": "Grüße",
        "more": [1, {"a": None}],
    }
    assert second == dict.fromkeys(frame.columns) | {"n": 2}
    assert [first, second] == list(batch.results())


def test_an_iterable_is_sent_in_chunks_while_it_is_read(
    client: nexusq_sdk.Client, http: httpx.Client, queue: str
) -> None:
    # given a type that is this test's alone
    name = f"STREAMED_{queue}"
    seen_while_reading: list[int] = []

    def rows() -> Iterator[dict[str, int]]:
        for row in range(12_000):
            if row == 11_000:  # the first chunk of 5,000 was sent before the third one was made

                def arrived() -> None:
                    assert http.get("/tasks", params={"type": name, "limit": 1}).json()["columns"]["taskId"]

                eventually(arrived)
                seen_while_reading.append(row)
            yield {"row": row}

    # when it is submitted
    batch = client.submit_batch(name, rows(), queue=queue, allow_unknown=True)

    # then every row is there once, in its order
    assert [11_000] == seen_while_reading
    assert 12_000 == len(batch)
    assert 12_000 == batch.counts()["QUEUED"]
    payloads = batch.frame(payload=True)["payload"]
    assert [{"row": row} for row in range(12_000)] == list(payloads)
    assert (batch.info().closed, batch.info().queue) == (True, queue)


def test_a_task_is_asked_for_status_and_result(client: nexusq_sdk.Client) -> None:
    task = client.submit("DIVIDE", {"a": 1, "b": 4})

    assert 0.25 == task.result(timeout=20)
    assert (Status.COMPLETED, True) == (task.status, task.done())
    assert f"<Task {task.id} DIVIDE COMPLETED>" == repr(task)
    assert ("DIVIDE", 1, "default") == (task.info().task_type, task.info().attempt, task.info().queue)
    # from any other kernel
    assert 0.25 == client.task(task.id).result()


def test_waiting_ends_in_time_and_the_task_goes_on(client: nexusq_sdk.Client, queue: str) -> None:
    # given a queue that no worker serves
    task = client.submit("ECHO", 1, queue=queue)
    batch = client.submit_batch("ECHO", [1, 2], queue=queue)

    with pytest.raises(nexusq_sdk.WaitTimeout, match=rf"task {task.id}: QUEUED after 0.1 s; it goes on"):
        task.wait(timeout=0.1)
    with pytest.raises(TimeoutError, match="QUEUED after 0.05 s; it goes on"):
        task.result(timeout=timedelta(milliseconds=50))
    with pytest.raises(nexusq_sdk.WaitTimeout, match=rf"batch {batch.id}: 0 of 2 after 0 s; it goes on"):
        batch.wait(timeout=0)
    with pytest.raises(nexusq_sdk.WaitTimeout):
        batch.results(timeout=0.01)
    assert (Status.QUEUED, False) == (task.status, batch.done())


def test_a_failed_task_raises_with_the_workers_traceback_below(client: nexusq_sdk.Client) -> None:
    task = client.submit("FAIL", {"message": "no luck"})

    with pytest.raises(nexusq_sdk.TaskFailed, match=rf"task {task.id} failed: ValueError: no luck") as failure:
        task.result(timeout=20)

    assert (task.id, "ValueError") == (failure.value.task_id, failure.value.error_type)
    shown = "".join(traceback.format_exception(failure.value))
    assert "On the worker:" in shown
    assert "raise ValueError(message)" in shown
    assert Status.FAILED == task.wait().status  # waiting alone raises nothing


def test_a_batch_is_counted_and_summed_up(divided: nexusq_sdk.Batch) -> None:
    assert {"COMPLETED": 3, "FAILED": 1} == {name: count for name, count in divided.counts().items() if count}
    assert list(Status) == list(divided.counts())
    assert 4 == len(divided)
    assert repr(divided).startswith(f"<Batch {divided.id} DIVIDE: 4 of 4, 1 failed, ")
    assert "1 failed" in divided._repr_html_()
    assert "1 × ZeroDivisionError" in divided._repr_html_()
    report = divided.report()
    assert ["status", "time"] == list(report.index.names)
    assert [3, 1, 4] == list(report.xs("wait", level="time")["tasks"])
    assert ["tasks", "p50", "p95", "p99", "max"] == list(report.columns)
    assert report.loc[("all", "duration"), "max"] == divided.frame()["duration"].max()


def test_results_come_row_by_row_up_to_the_first_that_failed(divided: nexusq_sdk.Batch) -> None:
    results = divided.results()

    assert 3.0 == next(results)
    with pytest.raises(nexusq_sdk.TaskFailed, match=rf"task {divided.id}-1 failed: ZeroDivisionError"):
        next(results)


def test_another_client_takes_a_batch_up_by_its_id(client: nexusq_sdk.Client, divided: nexusq_sdk.Batch) -> None:
    batch = client.batch(divided.id).wait(timeout=1)

    assert divided.counts() == batch.counts()
    pd.testing.assert_frame_equal(divided.frame().reset_index(drop=True), batch.frame())
    assert 3.0 == client.task(f"{divided.id}-0").result()


def test_what_never_was_is_told_apart_from_what_has_expired(client: nexusq_sdk.Client) -> None:
    # given a task and a batch that are kept for a second
    task = client.submit("ECHO", 1, result_ttl=1)
    batch = client.submit_batch("ECHO", [1, 2], result_ttl=timedelta(seconds=1)).wait(timeout=20)

    def expired() -> None:
        for task_id in (task.id, f"{batch.id}-0", f"{batch.id}-1"):
            with pytest.raises(nexusq_sdk.ResultExpired, match=rf"task {task_id} has ended and its state is not kept"):
                client.task(task_id)

    # when it is over
    eventually(lambda: _no_other_failure(expired))

    # then the rows are still there, without a status, and results say why
    assert batch.frame()["status"].isna().all()
    with pytest.raises(nexusq_sdk.ResultExpired):
        list(batch.results())
    with pytest.raises(nexusq_sdk.UnknownTask, match="there is no task"):
        client.task(ids.new_id())
    with pytest.raises(nexusq_sdk.UnknownTask, match="there is no batch"):
        client.batch(ids.new_id())
    for wrong in ("", "a/../b", "..", batch.id.upper(), UUID(batch.id), None):
        with pytest.raises(nexusq_sdk.UnknownTask, match="expected a batch id"):
            client.batch(wrong)  # type: ignore[arg-type]
        with pytest.raises(nexusq_sdk.UnknownTask, match="expected a task id"):
            client.task(wrong)  # type: ignore[arg-type]


def _no_other_failure(check: Any) -> None:
    try:
        check()
    except pytest.fail.Exception as failure:
        raise AssertionError(str(failure)) from None


def test_the_newest_tasks_are_a_frame_by_filters(client: nexusq_sdk.Client, divided: nexusq_sdk.Batch) -> None:
    listed = client.tasks(batch=divided.id, payload=True)

    newest_first = divided.frame(payload=True).iloc[::-1].reset_index(drop=True)
    pd.testing.assert_frame_equal(newest_first, listed)
    assert [f"{divided.id}-1"] == list(client.tasks(batch=divided.id, status="FAILED")["task_id"])
    assert [f"{divided.id}-3", f"{divided.id}-2"] == list(client.tasks(batch=divided.id, limit=2)["task_id"])
    yesterday = datetime.now(UTC) - timedelta(days=1)
    for since in ("1d", timedelta(days=1), yesterday, pd.Timestamp(yesterday), yesterday.astimezone()):
        assert set(newest_first["task_id"]) <= set(client.tasks(task_type="DIVIDE", since=since)["task_id"])
    for since in (datetime.now(UTC), pd.Timestamp.now(tz="Asia/Kolkata"), pd.Timestamp.now(), datetime.now()):
        assert 0 == len(client.tasks(batch=divided.id, since=since))
    assert 0 == len(client.tasks(batch=divided.id, limit=0))
    newest = client.submit("ECHO", 1).wait(timeout=20)
    assert newest.id in set(client.tasks(since=timedelta(milliseconds=900))["task_id"])
    with pytest.raises(ValueError, match="expected limit to be 0 or more, got -1"):
        client.tasks(limit=-1)
    with pytest.raises(nexusq_sdk.Refused, match="expected status to be one of"):
        client.tasks(status="DONE")


def test_what_workers_offer_and_who_they_are_are_frames(client: nexusq_sdk.Client) -> None:
    types = client.task_types().set_index("task_type")
    assert ("Divide a by b.", "a, b") == tuple(types.loc["DIVIDE"])
    assert {"to", "subject", "body", "sender?"} == set(types.loc["EMAIL_SEND", "fields"].split(", "))
    workers = client.workers()
    assert (workers["concurrency"] >= 1).all()
    assert workers["queues"].map(lambda queues: "default" in queues).any()


def test_labels_that_stand_twice_are_put_side_by_side(client: nexusq_sdk.Client) -> None:
    rows = ROWS.set_axis(["ann", "ann", "bob", "bob"])

    batch = client.submit_batch("DIVIDE", rows).wait(timeout=20)

    outcomes = pd.concat([rows, batch.frame()], axis=1)
    assert [3.0, None, 3.0, 2.0] == list(outcomes["result"])


@pytest.mark.parametrize("ttl", [60, 60.5, np.int64(60), np.float32(60), timedelta(minutes=1), pd.Timedelta("1min")])
def test_times_are_taken_in_every_form_that_notebooks_have_them(client: nexusq_sdk.Client, ttl: Any) -> None:
    assert 1 == client.submit("ECHO", 1, result_ttl=ttl).result(timeout=ttl)


def test_what_is_no_time_is_refused(client: nexusq_sdk.Client) -> None:
    for wrong in ("1h", np.timedelta64(1, "h"), np.timedelta64(1, "ns"), [1]):
        with pytest.raises(TypeError, match="expected result_ttl in seconds or as a timedelta, got "):
            client.submit("ECHO", 1, result_ttl=wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="expected a time in seconds or as a timedelta, got "):
            client.submit("ECHO", 1).wait(timeout=wrong)  # type: ignore[arg-type]
    for endless in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="expected result_ttl to be a finite time"):
            client.submit("ECHO", 1, result_ttl=endless)
    with pytest.raises(nexusq_sdk.Refused, match="expected resultTtlSeconds to be from 1 to ten years, got 0.5"):
        client.submit("ECHO", 1, result_ttl=0.5)


def test_a_refusal_names_row_and_field_and_nothing_was_submitted(client: nexusq_sdk.Client) -> None:
    mails = pd.DataFrame({"to": ["a@example.com", "b@example.com"], "subject": "s", "boddy": "b"})

    with pytest.raises(nexusq_sdk.Refused, match=r"EMAIL_SEND: row 0: .*2 of 2 rows are wrong") as refusal:
        client.submit_batch("EMAIL_SEND", mails)

    assert {(0, "body"), (0, "boddy"), (1, "body"), (1, "boddy")} == {(e.row, e.field) for e in refusal.value.errors}
    assert "row 1: 'body' is missing" in str(refusal.value)
    assert "did you mean 'body'?" in str(refusal.value)
    assert not hasattr(refusal.value, "__notes__")
    with pytest.raises(nexusq_sdk.UnknownTaskType, match="did you mean EMAIL_SEND"):
        client.submit("EMAIL_SEDN", {})
    with pytest.raises(ValueError, match="expected queue to be a name such as 'reports'"):
        client.submit("ECHO", 1, queue="dead")
    with pytest.raises(ValueError, match="expected the task type to be a name such as 'EMAIL_SEND', got 'E CHO'"):
        client.submit("E CHO", 1)


@pytest.mark.parametrize("bad", [{"n": "ten"}, {"n": {1}}])
def test_an_iterable_that_breaks_off_tells_what_was_accepted_and_that_batch_ends(
    client: nexusq_sdk.Client, bad: dict[str, Any]
) -> None:
    # given rows of which one is wrong in the second chunk, for the server or already here
    rows = itertools.chain(({"seconds": 0} for _ in range(7000)), [{"seconds": bad["n"]}])

    with pytest.raises((nexusq_sdk.Refused, nexusq_sdk.RowError), match="row 7000") as refusal:
        client.submit_batch("SLEEP", rows)

    # then the note leads to the batch of what was accepted, and it ends
    [note] = refusal.value.__notes__
    assert note.startswith("The 5000 rows before were accepted as batch ")
    batch = client.batch(note.partition("client.batch('")[2][:36])
    assert 5000 == batch.wait(timeout=30).counts()["COMPLETED"]


class Terminal(io.StringIO):
    """What a program's stderr is in a terminal."""

    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True


def test_progress_is_a_bar_in_a_terminal(client: nexusq_sdk.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setitem(sys.modules, "rich", None)  # as where it is not installed
    monkeypatch.setattr("sys.stderr", terminal)
    batch = client.submit_batch("DIVIDE", ROWS)

    shown = batch.progress()
    batch.wait(timeout=30)

    assert not shown.is_alive()
    last = terminal.getvalue().rpartition("\r\x1b[2K")[2]
    assert last.startswith(f"DIVIDE |{'█' * 30}| 100% 4 of 4, 1 failed, ")
    assert re.search(r", in [\d.]+ m?s\n$", last)
    assert 1 == terminal.getvalue().count("\n")


def test_progress_is_lines_in_a_log_and_no_longer_than_the_client_is_open(
    client: nexusq_sdk.Client, monkeypatch: pytest.MonkeyPatch, queue: str
) -> None:
    log = io.StringIO()
    monkeypatch.setattr("sys.stderr", log)
    batch = client.submit_batch("ECHO", range(2000))

    shown = batch.progress()
    batch.wait(timeout=30)

    lines = log.getvalue().splitlines()
    assert f"ECHO {batch.id}: 2,000 of 2,000, " in lines[-1]
    assert 1 <= len(lines) <= 12
    assert "<Progress, ended>" == repr(shown)
    # one that no worker takes goes on until it is closed
    waiting = client.submit_batch("ECHO", [1], queue=queue).progress()
    eventually(lambda: _has(log, ": 0 of 1\n"))
    assert "<Progress, live>" == repr(waiting)
    client.close()
    waiting.join(10)
    assert not waiting.is_alive()


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()])
def test_progress_on_a_stream_that_was_closed_disturbs_nothing(
    client: nexusq_sdk.Client, monkeypatch: pytest.MonkeyPatch, stream: io.StringIO
) -> None:
    batch = client.submit_batch("ECHO", range(100))
    monkeypatch.setattr("sys.stderr", stream)
    drawer = choose_drawer()
    stream.close()

    shown = Progress(batch.info, drawer)
    shown.start()
    batch.wait(timeout=30)
    shown.join(10)

    assert "<Progress, ended>" == repr(shown)


def _has(stream: io.StringIO, text: str) -> None:
    assert text in stream.getvalue()
