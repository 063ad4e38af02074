"""What the handles of tasks and batches do on the real cluster, beyond waiting: results, errors, frames, repeats."""

from __future__ import annotations

import _thread
import io
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import matplotlib as mpl
import pandas as pd
import pytest
import redis

import nexusq_sdk
from nexusq_sdk import frames
from nexusq_sdk.connection import Connection
from nexusq_sdk.protocol import ids
from nexusq_sdk.task_handle import Task
from tests.conftest import Addresses, WorkerProcess, eventually

ROWS = pd.DataFrame({"a": [6.0, 1.0, 9.0, 8.0], "b": [2, 0, 3, 4]}, index=["ann", "bob", "cid", "dan"])


@pytest.fixture(scope="module")
def divided(cluster: Addresses) -> Iterator[nexusq_sdk.Batch]:
    """Give a batch that has ended: three rows completed, bob's failed."""
    with nexusq_sdk.Client(cluster.url) as client:
        yield client.submit_batch("DIVIDE", ROWS).wait(timeout=30)


@pytest.fixture(scope="module")
def mixed(cluster: Addresses) -> Iterator[nexusq_sdk.Batch]:
    """Give a batch that has ended: of 60 rows each third failed by a division, each other by a missing file."""

    def work(n: int) -> float:
        if n % 3 == 1:
            open(f"/nonexistent/{n}")  # noqa: SIM115, PTH123
        return 1 / (n % 3)

    with nexusq_sdk.Client(cluster.url) as client:
        yield client.map(work, range(60), executor="thread").wait(timeout=60)


def test_results_leave_failed_rows_out_or_give_their_errors_in_their_place(divided: nexusq_sdk.Batch) -> None:
    assert [3.0, 3.0, 2.0] == list(divided.results(errors="skip"))
    first, error, *rest = divided.results(errors="return")
    assert (3.0, [3.0, 2.0]) == (first, rest)
    assert isinstance(error, nexusq_sdk.TaskFailed)
    assert isinstance(error, ZeroDivisionError)
    with pytest.raises(ValueError, match="expected errors to be 'raise', 'return' or 'skip', got 'ignore'"):
        divided.results(errors="ignore")  # type: ignore[arg-type]


def test_a_failed_row_raises_what_was_raised_with_its_label_payload_and_the_workers_traceback(
    divided: nexusq_sdk.Batch,
) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        list(divided.results())

    assert isinstance(caught.value, nexusq_sdk.TaskFailed)
    assert "bob" == caught.value.label
    shown = "".join(traceback.format_exception(caught.value))
    assert shown.index("On the worker:") > shown.index("outcomes.py")  # below the local one
    assert "return a / b" in shown
    assert 'The row \'bob\': {"a":1.0,"b":0}' in shown


def test_many_failures_are_one_error_with_a_traceback_for_each_kind(mixed: nexusq_sdk.Batch) -> None:
    with pytest.raises(nexusq_sdk.BatchFailed) as caught:
        list(mixed.results())

    assert {"ZeroDivisionError": 20, "FileNotFoundError": 20} == caught.value.counts
    assert str(caught.value).startswith(f"40 of 60 tasks of batch {mixed.id} failed:")
    assert 2 == "".join(traceback.format_exception(caught.value)).count("On the worker:")


def test_errors_are_counted_by_type_and_shown_with_the_times(mixed: nexusq_sdk.Batch) -> None:
    view = mixed.info()

    assert {"ZeroDivisionError": 20, "FileNotFoundError": 20} == {kind.type: kind.count for kind in view.errors}
    for kind in view.errors:
        error = mixed._reads.task(kind.task_id).error
        assert error is not None
        assert kind.type == error.type
    measured = mixed.frame()["duration"].dt.total_seconds()
    assert view.p50_seconds == pytest.approx(measured.quantile(0.5), rel=0.2, abs=1e-4)
    assert "20 × FileNotFoundError" in mixed._repr_html_()


def test_tasks_come_as_they_end_with_their_labels_and_outcomes_read_in_bulk(
    client: nexusq_sdk.Client, queue: str, start_worker: Callable[..., WorkerProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    # given rows of which the first takes longest
    rows = pd.DataFrame({"seconds": [1.5, *[0.01] * 30]}, index=[f"row{n}" for n in range(31)])
    start_worker(queue)
    asked: list[str] = []
    task = Connection.task
    monkeypatch.setattr(Connection, "task", lambda self, task_id: asked.append(task_id) or task(self, task_id))

    # when they are taken as they end
    batch = client.submit_batch("SLEEP", rows, queue=queue)
    labels = [(ended.label, ended.done(), ended.exception()) for ended in batch.as_completed(timeout=60)]

    # then the slow one comes last, each came once, and none was asked for by itself
    assert ("row0", True, None) == labels[-1]
    assert set(rows.index) == {label for label, *_ in labels}
    assert 31 == len(labels)
    assert [] == asked


def test_taking_tasks_as_they_end_gives_up_in_time_and_they_go_on(client: nexusq_sdk.Client, queue: str) -> None:
    batch = client.submit_batch("ECHO", [1, 2], queue=queue)

    with pytest.raises(nexusq_sdk.WaitTimeout, match=rf"batch {batch.id}: 0 of 2 after 0.1 s; it goes on"):
        list(batch.as_completed(timeout=0.1))
    assert [] == list(client.submit_batch("ECHO", []).as_completed(timeout=5))


def test_results_that_are_dicts_become_columns(client: nexusq_sdk.Client) -> None:
    rows = [{"loss": 0.5, "model": "a"}, {"loss": 0.25}, 7]

    batch = client.submit_batch("ECHO", rows).wait(timeout=20)

    wide = batch.frame(expand=True)
    assert [0.5, 0.25] == wide["result.loss"].dropna().tolist()
    assert ["a"] == wide["result.model"].dropna().tolist()
    assert [None, None, 7] == wide["result"].tolist()
    assert "result" in batch.frame()


def test_failed_rows_are_a_frame_with_payload_error_and_label(divided: nexusq_sdk.Batch) -> None:
    failed = divided.failed()

    assert ["bob"] == list(failed.index)
    assert {"a": 1.0, "b": 0} == failed.loc["bob", "payload"]
    assert "ZeroDivisionError" == failed.loc["bob", "error_type"]
    assert list(divided.frame(payload=True).columns) == list(failed.columns)


def test_failed_rows_are_submitted_again_as_a_batch_of_the_same_kind(
    client: nexusq_sdk.Client, divided: nexusq_sdk.Batch
) -> None:
    again = divided.resubmit().wait(timeout=20)
    elsewhere = client.batch(divided.id).resubmit(pd.DataFrame({"a": [1.0], "b": [4]}, index=["eve"])).wait(timeout=20)

    assert (1, ["bob"]) == (len(again), list(again.frame().index))
    assert "DIVIDE" == again.info().task_type
    assert {"eve": 0.25} == elsewhere.frame()["result"].to_dict()


def test_a_functions_batch_is_submitted_again_with_other_rows_from_any_kernel(client: nexusq_sdk.Client) -> None:
    offset = 100
    batch = client.map(lambda n: n + offset, [1, 2], executor="thread")
    framed = client.map(lambda a, b: a * b + offset, pd.DataFrame({"a": [1], "b": [2]}), executor="thread")

    assert [103, 104] == list(batch.resubmit([3, 4]).results(timeout=60))
    assert [105] == list(client.batch(batch.id).resubmit([5]).results(timeout=60))
    again = client.batch(framed.id).resubmit(pd.DataFrame({"a": [3], "b": [4]}, index=["x"])).wait(timeout=60)
    assert {"x": 112} == again.frame()["result"].to_dict()


def test_a_handle_notices_that_its_tasks_were_taken_back(client: nexusq_sdk.Client, cluster: Addresses) -> None:
    # given handles of what has failed
    batch = client.submit_batch("FLAKY", [{"until": 99}]).wait(timeout=30)
    task = client.submit("FLAKY", {"until": 99})
    assert isinstance(task.exception(timeout=30), nexusq_sdk.TaskFailed)

    # when they are taken back with all their attempts before them, by this client or by another one
    ended = [batch.info().finished_at, task.info().finished_at]
    assert 2 == client.requeue([f"{batch.id}-0", task.id])
    batch.wait(timeout=30)
    assert isinstance(task.exception(timeout=30), nexusq_sdk.TaskFailed)
    eventually(lambda: _differ([batch.info().finished_at, task.info().finished_at], ended))
    with nexusq_sdk.Client(cluster.url) as other:
        ended = [batch.info().finished_at, task.info().finished_at]
        assert 2 == other.requeue([f"{batch.id}-0", task.id])
        eventually(lambda: _differ([batch.info().finished_at, task.info().finished_at], ended))


def _differ(found: list[Any], before: list[Any]) -> None:
    assert all(has is not None and has != had for has, had in zip(found, before, strict=True))


def test_a_task_that_came_as_it_ended_tells_everything_when_it_is_asked(client: nexusq_sdk.Client) -> None:
    [task] = client.submit_batch("FLAKY", [{"until": 1}], priority="high").as_completed(timeout=30)

    info = task.info()

    assert ("high", b'{"until":1}') == (info.priority, bytes(info.payload))  # type: ignore[arg-type]


def test_options_are_those_of_the_first_time_from_any_kernel(
    client: nexusq_sdk.Client, http: httpx.Client, queue: str
) -> None:
    batch = client.submit_batch("ECHO", [1], queue=queue, priority="low", max_attempts=3, timeout=5, result_ttl=600)
    wanted = {"maxAttempts": 3, "timeoutSeconds": 5.0, "resultTtlSeconds": 600.0}

    for handle in (batch, client.batch(batch.id)):
        again = handle.resubmit([2])
        task = http.get(f"/tasks/{ids.task_id(again.id, 0)}").json()
        assert (queue, "low", 2) == (task["queue"], task["priority"], task["payload"])
        assert wanted.items() <= task["options"].items()
        again.cancel()


def test_only_a_clients_handle_submits(cluster: Addresses, divided: nexusq_sdk.Batch) -> None:
    straight = nexusq_sdk.Batch(divided.id, nexusq_sdk.RedisView(cluster.redis_url))

    with pytest.raises(TypeError, match="expected a handle of a Client"):
        straight.resubmit()
    assert repr(divided) == repr(straight)


def test_a_batch_is_drawn_without_touching_anybodys_figures(mixed: nexusq_sdk.Batch) -> None:
    figure = mixed.plot()

    timeline, histogram = figure.axes
    assert "seconds since the first one began" == timeline.get_xlabel()
    assert "tasks" == histogram.get_ylabel()
    figure.savefig(io.BytesIO())
    # a notebook shows it although nobody has prepared pyplot for that
    assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]
    said = [text.get_text() for text in histogram.get_legend().get_texts()]
    assert ["p50", "p95"] == [text.split()[0] for text in said]
    assert "matplotlib.pyplot" not in vars(mpl)


def test_a_missing_matplotlib_is_told_with_what_to_do(
    divided: nexusq_sdk.Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "nexusq_sdk.plots")
    monkeypatch.delattr(nexusq_sdk, "plots")

    with pytest.raises(ImportError, match=r"expected matplotlib to be installed for batch.plot\(\): pip install"):
        divided.plot()


def test_what_a_handle_shows_asks_once_a_second_and_never_raises(
    client: nexusq_sdk.Client, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given handles of what waits, and a count of what is asked
    batch, task = client.submit_batch("ECHO", [1], queue=queue), client.submit("ECHO", 1, queue=queue)
    fresh = nexusq_sdk.Batch(batch.id, batch._reads)
    asked: list[str] = []
    read = Connection.batch
    monkeypatch.setattr(Connection, "batch", lambda self, name: asked.append(name) or read(self, name))

    # when they are shown over and over
    for _ in range(20):
        assert "0 of 1" in repr(fresh)
        assert "queued" in fresh._repr_html_()

    # then they were asked for once, and a client that is closed, or a batch that never was, harms nothing
    assert [batch.id] == asked
    client.close()
    for handle in (nexusq_sdk.Batch(ids.new_id(), batch._reads), Task(ids.new_id(), batch._reads), fresh, batch, task):
        assert handle.id in repr(handle)
        assert handle.id in handle._repr_html_()


def interrupted(wait: Callable[[], Any]) -> KeyboardInterrupt:
    """Interrupt a wait as the stop button does; give what was raised."""
    timer = threading.Timer(0.3, _thread.interrupt_main)
    timer.start()
    with pytest.raises(KeyboardInterrupt) as caught:
        wait()
    timer.join()
    return caught.value


def test_an_interrupted_wait_leaves_the_work_and_says_how_to_take_it_up_again(
    client: nexusq_sdk.Client, queue: str
) -> None:
    batch, task = client.submit_batch("ECHO", [1, 2], queue=queue), client.submit("ECHO", 1, queue=queue)

    for wait in (batch.wait, lambda: list(batch.results()), lambda: list(batch.as_completed())):
        [note] = interrupted(wait).__notes__
        assert f"The batch goes on (0 of 2). Take it up again, from any kernel: client.batch('{batch.id}')" == note
    [note] = interrupted(task.result).__notes__
    assert f"The task goes on (QUEUED). Take it up again, from any kernel: client.task('{task.id}')" == note

    assert 2 == client.batch(batch.id).counts()["QUEUED"]


def test_an_interrupted_wait_cancels_if_that_was_said(client: nexusq_sdk.Client, queue: str) -> None:
    batch, task = client.submit_batch("ECHO", [1, 2], queue=queue), client.submit("ECHO", 1, queue=queue)

    [note] = interrupted(lambda: batch.wait(on_interrupt="cancel")).__notes__
    interrupted(lambda: task.wait(on_interrupt="cancel"))

    assert f"The batch was cancelled (2 of 2, 2 cancelled): client.batch('{batch.id}')" == note
    assert (2, "CANCELLED") == (batch.counts()["CANCELLED"], task.status)
    with pytest.raises(nexusq_sdk.TaskCancelled, match=f"task {task.id} was cancelled"):
        task.result()
    with pytest.raises(ValueError, match="expected on_interrupt to be 'leave' or 'cancel', got 'stop'"):
        batch.wait(on_interrupt="stop")  # type: ignore[arg-type]


def test_results_that_expire_soon_warn_with_the_time_left(client: nexusq_sdk.Client, redis_client: redis.Redis) -> None:
    batch = client.submit_batch("ECHO", [1, 2]).wait(timeout=20)
    task = client.submit("ECHO", 1).wait(timeout=20)
    assert [1, 2] == list(batch.results())  # kept for a day

    # when they ended a day ago and are kept for 90 seconds more
    yesterday = (time.time_ns() - 86_400 * 10**9) // 1000
    for name in (ids.task_id(batch.id, 0), task.id):
        redis_client.expire(f"nexusq:task:{name}", 90)
        redis_client.hset(f"nexusq:task:{name}", "finishedUs", yesterday)
    redis_client.hset(f"nexusq:batch:{batch.id}", "finishedUs", yesterday)

    with pytest.warns(nexusq_sdk.ResultsExpireSoon, match=f"the results of batch {batch.id} are kept for 1 min"):
        client.batch(batch.id).results()
    with pytest.warns(nexusq_sdk.ResultsExpireSoon, match="batch"):
        client.batch(batch.id).frame()
    with pytest.warns(nexusq_sdk.ResultsExpireSoon, match=f"task {task.id}"):
        client.task(task.id).result()


def test_retried_failures_are_counted_no_more_until_they_fail_again(client: nexusq_sdk.Client) -> None:
    batch = client.submit_batch("FAIL", [{"message": "no"}] * 3).wait(timeout=20)
    assert [("ValueError", 3)] == [(kind.type, kind.count) for kind in batch.info().errors]

    assert 3 == batch.retry_failed()

    batch.wait(timeout=20)
    assert [("ValueError", 3)] == [(kind.type, kind.count) for kind in batch.info().errors]
    assert 3 == batch.counts()["FAILED"]


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_a_frame_comes_back_from_a_file_as_it_was(
    client: nexusq_sdk.Client, divided: nexusq_sdk.Batch, form: str, tmp_path: Any
) -> None:
    anything = client.submit_batch("ECHO", [{"a": [1, None]}, "text", 1.5, None, True, []]).wait(timeout=20)
    for frame in (divided.frame(payload=True), anything.frame(payload=True)):
        text, path = frames.to_text(frame), tmp_path / f"frame.{form}"
        getattr(text, f"to_{form}")(path)
        read = frames.from_text(pd.read_parquet(path)) if form == "parquet" else frames.read_csv(path)
        pd.testing.assert_frame_equal(frame, read)


def test_text_is_kept_in_arrows_strings_where_that_is_asked_for(divided: nexusq_sdk.Batch) -> None:
    frame = divided.frame(dtype_backend="pyarrow")

    assert {"string"} == {str(frame[name].dtype) for name in ("task_id", "error", "traceback")}
    assert "pyarrow" == frame["error"].dtype.storage
    assert list(divided.frame()["task_id"]) == list(frame["task_id"])
    with pytest.raises(ValueError, match="expected dtype_backend to be 'pyarrow' or left out"):
        divided.frame(dtype_backend="arrow")  # type: ignore[arg-type]


def test_a_function_that_is_cancelled_is_told_apart_from_one_that_failed(client: nexusq_sdk.Client, queue: str) -> None:
    batch = client.submit_batch("ECHO", [1], queue=queue).cancel()

    [error] = batch.results(errors="return")
    assert isinstance(error, nexusq_sdk.TaskCancelled)
    [task] = batch.as_completed(timeout=10)
    assert isinstance(task.exception(), nexusq_sdk.TaskCancelled)
    eventually(lambda: _is(batch.done()))


def _is(value: bool) -> None:
    assert value
