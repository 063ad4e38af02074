"""The two ways to read, over HTTP and straight from Redis, give the same: values, frames and refusals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pandas as pd
import pytest
import redis

import nexusq_sdk
from nexusq_sdk.connection import Connection
from nexusq_sdk.handles import Reads
from nexusq_sdk.protocol import columns, ids, redis_layout
from nexusq_sdk.protocol.wire import TaskPage
from tests.conftest import Addresses, WorkerProcess, eventually


@pytest.fixture(scope="module")
def connection(cluster: Addresses) -> Iterator[Connection]:
    connection = Connection(cluster.url, timeout=20)
    yield connection
    connection.close()


@pytest.fixture(scope="module")
def view(cluster: Addresses) -> nexusq_sdk.RedisView:
    return nexusq_sdk.RedisView(cluster.redis_url)


@pytest.fixture(scope="module")
def mixed(cluster: Addresses) -> nexusq_sdk.Batch:
    """Give a batch that has ended: rows that completed and, each third one, rows that failed."""
    rows = ({"a": row, "b": row % 3} for row in range(50))
    with nexusq_sdk.Client(cluster.url) as client:
        return client.submit_batch("DIVIDE", rows).wait(timeout=30)


def whole(pages: Iterator[TaskPage]) -> dict[str, list[Any]]:
    read: dict[str, list[Any]] = {}
    for page in pages:
        for name, values in page.columns.items():
            read.setdefault(name, []).extend(values)
    return read


def test_a_task_reads_the_same_whether_it_completed_or_failed(
    connection: Connection, view: nexusq_sdk.RedisView, mixed: nexusq_sdk.Batch
) -> None:
    for row, status in ((0, "FAILED"), (1, "COMPLETED")):
        seen = connection.task(f"{mixed.id}-{row}")
        assert (status, mixed.id) == (seen.status, seen.batch_id)
        assert seen == view.task(f"{mixed.id}-{row}")
    assert ("ZeroDivisionError", msgspec.UNSET) == (
        connection.task(f"{mixed.id}-0").error.type,  # type: ignore[union-attr]
        view.task(f"{mixed.id}-0").result,
    )


def test_a_waiting_task_of_its_own_queue_reads_the_same(
    connection: Connection, view: nexusq_sdk.RedisView, client: nexusq_sdk.Client, queue: str
) -> None:
    task = client.submit("ECHO", {"é": [None, 1.5]}, queue=queue)
    batch = client.submit_batch("ECHO", [1, None, "x"], queue=queue)

    seen = connection.task(task.id)

    assert ("QUEUED", queue, None, 0) == (seen.status, seen.queue, seen.started_at, seen.attempt)
    assert seen == view.task(task.id)
    counted = connection.batch(batch.id)
    assert (3, queue, 0.0) == (counted.counts["QUEUED"], counted.queue, counted.rate_per_second)
    assert counted == view.batch(batch.id)
    read = whole(connection.batch_tasks(batch.id, payload=True))
    assert [1, None, "x"] == read["payload"]
    assert read == whole(view.batch_tasks(batch.id, payload=True))


def test_a_batchs_counters_read_the_same(
    connection: Connection, view: nexusq_sdk.RedisView, mixed: nexusq_sdk.Batch
) -> None:
    seen = connection.batch(mixed.id)

    assert (33, 17) == (seen.counts["COMPLETED"], seen.counts["FAILED"])
    assert seen.finished_at is not None
    assert seen == view.batch(mixed.id)


@pytest.mark.parametrize("payload", [False, True])
def test_frames_of_one_batch_are_equal(
    connection: Connection,
    view: nexusq_sdk.RedisView,
    mixed: nexusq_sdk.Batch,
    payload: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # given that both give several pages
    monkeypatch.setattr(columns, "LOT", 7)
    monkeypatch.setattr("nexusq_sdk.connection.PAGE", 15)
    assert [15, 15, 15, 5] == [len(page.columns["taskId"]) for page in connection.batch_tasks(mixed.id)]

    over_http = nexusq_sdk.Batch(mixed.id, connection)
    from_redis = nexusq_sdk.Batch(mixed.id, view)

    frame = over_http.frame(payload=payload)
    assert {"COMPLETED": 33, "FAILED": 17} == {k: v for k, v in frame["status"].value_counts().items() if v}
    assert payload == ("payload" in frame)
    pd.testing.assert_frame_equal(frame, from_redis.frame(payload=payload))
    pd.testing.assert_frame_equal(over_http.report(), from_redis.report())
    assert repr(over_http.wait()) == repr(from_redis.wait())


def test_an_empty_batch_and_one_that_has_expired_read_the_same(
    connection: Connection, view: nexusq_sdk.RedisView, client: nexusq_sdk.Client
) -> None:
    empty = client.submit_batch("ECHO", [])
    gone = client.submit_batch("ECHO", [1, 2], result_ttl=1).wait(timeout=20)

    eventually(lambda: _expired(gone))

    for batch in (empty, gone):
        assert connection.batch(batch.id) == view.batch(batch.id)
        frame = nexusq_sdk.Batch(batch.id, view).frame(payload=True)
        assert len(batch) == len(frame)
        pd.testing.assert_frame_equal(batch.frame(payload=True), frame)


def _expired(batch: nexusq_sdk.Batch) -> None:
    assert batch.frame()["status"].isna().all()


def test_what_running_tasks_say_reads_the_same(
    connection: Connection,
    view: nexusq_sdk.RedisView,
    client: nexusq_sdk.Client,
    queue: str,
    start_worker: Callable[..., WorkerProcess],
) -> None:
    # given a batch whose tasks say how far they are, one of them for long
    start_worker(queue)
    batch = client.submit_batch("TELL", [{"steps": 1}, {"steps": 20, "seconds": 2}], queue=queue)

    # then both ways show what the running one says, and in the frame what each has said last
    def told() -> None:
        found = connection.batch(batch.id).said
        assert [f"{batch.id}-1"] == [said.task_id for said in found]
        [said] = found
        assert said.log[-1].startswith("loss ")
        assert (said.progress_text or "").startswith("step ")
        assert [said] == view.batch(batch.id).said
        frame = batch.frame()
        assert 0.5 == frame["progress"][0]
        assert 0 < frame["progress"][1] < 1
        assert frame["progress_text"][1].startswith("step ")
        assert "loss " in frame["log"][1]
        pd.testing.assert_frame_equal(frame, nexusq_sdk.Batch(batch.id, view).frame())
        listed = client.tasks(batch=batch.id).set_index("task_id")
        assert 0.5 == listed["progress"][f"{batch.id}-0"]

    eventually(told)
    assert "step " in client.batch(batch.id)._repr_html_()

    # and nothing is said any more once it has ended
    batch.cancel().wait(timeout=30)
    assert [] == connection.batch(batch.id).said == view.batch(batch.id).said


def test_rows_come_in_their_order_wherever_a_page_begins(
    connection: Connection, view: nexusq_sdk.RedisView, client: nexusq_sdk.Client, cluster: Addresses
) -> None:
    # given a batch of more than a thousand rows, and a Redis that has not the list that rows are named by
    batch = client.submit_batch("ECHO", range(2105)).wait(timeout=60)
    with redis.Redis.from_url(cluster.redis_url) as client_of_redis:
        for reads in (connection, view):
            for first in (0, 9, 99, 990, 1000, 1999, 2104):
                client_of_redis.delete(redis_layout.ROWS)
                read = whole(reads.batch_tasks(batch.id, first=first))
                assert list(range(first, 2105)) == read["result"]
                assert [f"{batch.id}-{row}" for row in range(first, 2105)] == read["taskId"]
                assert {"COMPLETED"} == set(read["status"])
        assert 2000 == client_of_redis.llen(redis_layout.ROWS)


def test_a_frame_straight_from_redis_goes_on_where_its_connection_broke(
    client: nexusq_sdk.Client, cluster: Addresses
) -> None:
    batch = client.submit_batch("ECHO", range(1500)).wait(timeout=60)
    with (
        redis.Redis.from_url(cluster.redis_url, client_name="frame-reader") as reader,
        redis.Redis.from_url(cluster.redis_url) as other,
    ):

        def killed() -> int:
            found = [seen["id"] for seen in other.client_list() if seen["name"] == "frame-reader"]
            return sum(int(other.client_kill_filter(_id=name)) for name in found)

        read: list[int] = []
        for number, page in enumerate(nexusq_sdk.RedisView(reader).batch_tasks(batch.id)):
            assert number or killed()
            read += page.columns["result"]

        assert list(range(1500)) == read


def test_rows_that_are_very_large_come_in_smaller_pages(
    connection: Connection, view: nexusq_sdk.RedisView, client: nexusq_sdk.Client
) -> None:
    batch = client.submit_batch("ECHO", ["x" * 400_000 for _ in range(60)]).wait(timeout=60)

    for reads in (connection, view):
        pages = [len(page.columns["taskId"]) for page in reads.batch_tasks(batch.id)]
        assert 60 == sum(pages)
        assert max(pages) <= 22
    assert [400_000] * 60 == batch.frame()["result"].str.len().tolist()
    assert [400_000] * 60 == client.tasks(batch=batch.id)["result"].str.len().tolist()


READS: dict[str, Callable[[Reads, str], object]] = {
    "task": lambda reads, batch_id: reads.task(f"{batch_id}-7"),
    "batch": lambda reads, batch_id: reads.batch(batch_id),
    "tasks": lambda reads, batch_id: list(reads.batch_tasks(batch_id)),
    "no task id": lambda reads, batch_id: reads.task("a/../b"),
    "no batch id": lambda reads, batch_id: reads.batch(batch_id.upper()),
}


@pytest.mark.parametrize("read", READS)
def test_what_never_was_is_refused_in_the_same_words(
    connection: Connection, view: nexusq_sdk.RedisView, read: str
) -> None:
    batch_id = ids.new_id()

    said = []
    for reads in (connection, view):
        with pytest.raises(nexusq_sdk.UnknownTask) as refusal:
            READS[read](reads, batch_id)
        said.append(str(refusal.value))

    assert said[0] == said[1]


def test_what_has_expired_is_refused_in_the_same_words(
    connection: Connection, view: nexusq_sdk.RedisView, client: nexusq_sdk.Client
) -> None:
    single = client.submit("ECHO", 1, result_ttl=1).wait(timeout=20)
    batch = client.submit_batch("ECHO", [1], result_ttl=1).wait(timeout=20)

    def gone() -> None:
        for task_id in (single.id, f"{batch.id}-0"):
            said = []
            for reads in (connection, view):
                try:
                    status = reads.task(task_id).status
                except nexusq_sdk.ResultExpired as refusal:
                    said.append(str(refusal))
                else:
                    raise AssertionError(f"{task_id} is still {status}")
            assert said[0] == said[1]

    eventually(gone)


def test_a_redis_that_does_not_answer_is_told_as_such() -> None:
    view = nexusq_sdk.RedisView("redis://127.0.0.1:1/0")

    with pytest.raises(nexusq_sdk.ConnectionFailed, match="expected Redis to answer, got ConnectionError"):
        view.batch(ids.new_id())


def test_a_redis_client_that_decodes_is_refused(cluster: Addresses) -> None:
    with (
        redis.Redis.from_url(cluster.redis_url, decode_responses=True) as client,
        pytest.raises(ValueError, match="expected a Redis client that gives bytes"),
    ):
        nexusq_sdk.RedisView(client)
