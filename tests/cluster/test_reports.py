"""What is there, as DataFrames: batches, queues, workers; and the same straight from Redis."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import httpx
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell

import nexusq_sdk
from nexusq_sdk import frames
from tests.conftest import Addresses, WorkerProcess, eventually


def test_batches_are_a_frame_newest_first_with_their_counts_and_times(client: nexusq_sdk.Client, queue: str) -> None:
    # given a batch that has ended and one that waits
    ended = client.submit_batch("DIVIDE", [{"a": 1, "b": 1}, {"a": 1, "b": 0}], name=f"{queue}-e").wait(timeout=20)
    waits = client.submit_batch("ECHO", [1, 2, 3], queue=queue)

    listed = client.batches(since="5m")

    assert [waits.id, ended.id] == [id_ for id_ in listed["batch_id"] if id_ in {waits.id, ended.id}]
    rows = listed.set_index("batch_id")
    row = rows.loc[ended.id]
    assert (f"{queue}-e", "DIVIDE", "default", 2) == tuple(row[["name", "task_type", "queue", "size"]])
    assert (1, 1, 0) == tuple(row[["completed", "failed", "queued"]])
    assert row["finished_at"] >= row["started_at"] >= row["submitted_at"]
    assert pd.Timedelta(0) < row["p50"] <= row["p95"]
    row = rows.loc[waits.id]
    assert (3, 0, queue) == tuple(row[["queued", "completed", "queue"]])
    assert pd.isna(row[["name", "started_at", "finished_at", "p50"]]).all()


def test_batches_are_limited_by_number_and_time_and_have_their_dtypes_even_if_there_are_none(
    client: nexusq_sdk.Client,
) -> None:
    for _ in range(3):
        client.submit_batch("ECHO", [1])
    client.submit("ECHO", 1)  # no batch

    assert 2 == len(client.batches(limit=2))
    none = client.batches(since=datetime.now(UTC) + timedelta(minutes=1))
    assert 0 == len(none)
    some = client.batches(limit=1)
    assert some.dtypes.to_dict().keys() == none.dtypes.to_dict().keys()
    for name in ("size", "failed", "rate", "p50", "p95", "submitted_at", "finished_at"):
        assert some[name].dtype == none[name].dtype
    with pytest.raises(nexusq_sdk.Refused, match="expected since to be a span"):
        client.batches(since="yesterday")


def test_pages_of_batches_hold_each_one_once(http: httpx.Client, client: nexusq_sdk.Client) -> None:
    made = [client.submit_batch("ECHO", [1]).id for _ in range(7)]

    seen: list[str] = []
    cursor: dict[str, str] = {}
    while not set(made) <= set(seen):
        page = http.get("/batches", params={"limit": "2", "since": "5m", **cursor}).json()
        assert len(page["batches"]) <= 2
        seen += [batch["batchId"] for batch in page["batches"]]
        cursor = {"cursor": page["nextCursor"]}

    assert made[::-1] == [id_ for id_ in seen if id_ in made]
    assert len(set(seen)) == len(seen)
    for wrong in ("nonsense", "WyJ4IiwieSJd"):
        assert 422 == http.get("/batches", params={"cursor": wrong}).status_code


def lanes(client: nexusq_sdk.Client, queue: str) -> pd.DataFrame:
    table = client.queues()
    return table[table["queue"] == queue].set_index("priority")


def test_queues_show_what_waits_what_runs_and_what_is_due_by_priority(
    client: nexusq_sdk.Client, queue: str, start_worker: Callable[..., WorkerProcess]
) -> None:
    # given tasks of two priorities that nobody serves
    client.submit_batch("SLEEP", [{"seconds": 30}] * 2, queue=queue, priority="high")
    client.submit_batch("ECHO", [1] * 5, queue=queue)

    def waiting() -> None:
        table = lanes(client, queue)
        assert {"high": 2, "normal": 5, "low": 0} == table["lag"].to_dict()
        assert {0} == set(table["workers"]) | set(table["in_progress"]) | set(table["due"])

    eventually(waiting)

    # when a worker comes, and a task that has time
    client.submit("ECHO", 1, queue=queue, delay=600, priority="low")
    start_worker(queue)

    # then the quick ones are done with, the slow ones run, and the late one waits for its time
    def working() -> None:
        table = lanes(client, queue)
        assert {"high": 2, "normal": 0, "low": 0} == table["in_progress"].to_dict()
        assert {"high": 0, "normal": 0, "low": 1} == table["due"].to_dict()
        assert (2, 0, 1) == (table.loc["high", "lag"], table.loc["normal", "lag"], table.loc["normal", "workers"])
        assert table["rate"].notna().all()

    eventually(working)


def test_workers_are_a_frame_even_if_there_are_none(client: nexusq_sdk.Client) -> None:
    workers = client.workers()

    assert (workers["concurrency"] >= 1).all()
    assert "datetime64[us, UTC]" == str(workers["started_at"].dtype)
    assert list(workers.columns) == list(frames.worker_frame([]).columns)


def test_a_magic_shows_how_the_cluster_stands(
    client: nexusq_sdk.Client, cluster: Addresses, queue: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shell = InteractiveShell()
    nexusq_sdk.load_ipython_extension(shell)
    client.submit_batch("ECHO", [1, 2], name=queue, queue=queue)

    for line in ("", cluster.url):
        state = shell.run_line_magic("nexusq", line)
        assert queue in state._repr_html_()
        assert f"NexusQ at {cluster.url}: " in repr(state)
        assert len(state.workers) >= 1

    assert shell.run_line_magic("nexusq", "http://127.0.0.1:1") is None
    assert "ConnectionFailed: expected a NexusQ to answer at http://127.0.0.1:1" in capsys.readouterr().out


@pytest.mark.parametrize("payload", [False, True])
def test_a_frame_straight_from_redis_is_the_one_that_the_api_gives(
    client: nexusq_sdk.Client, cluster: Addresses, queue: str, payload: bool
) -> None:
    name = f"{queue}-{payload}"
    rows = [{"a": row, "b": row % 3} for row in range(50)]
    batch = client.submit_batch("DIVIDE", rows, name=name).wait(timeout=30)

    for source in (batch.id, name):
        straight = frames.from_redis(cluster.redis_url, batch=source, payload=payload)
        pd.testing.assert_frame_equal(batch.frame(payload=payload), straight)
    with pytest.raises(nexusq_sdk.UnknownTask):
        frames.from_redis(cluster.redis_url, batch="never-was")
