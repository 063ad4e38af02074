"""`client.executor()` beyond what CPython's tests ask: what it does on a cluster."""

from __future__ import annotations

import concurrent.futures
import itertools
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import nexusq_sdk
from nexusq_sdk.executor import TaskExecutor
from tests.conftest import ROOT, Addresses, eventually


def test_many_calls_are_a_few_requests(client: nexusq_sdk.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a connection that counts
    requests = []
    call = client._connection._call

    def counted(method: str, path: str, *args: Any, **kwargs: Any) -> Any:
        requests.append(path)
        return call(method, path, *args, **kwargs)

    monkeypatch.setattr(client._connection, "_call", counted)

    # when 1,000 calls are made
    with client.executor(executor="thread") as pool:
        assert list(map(abs, range(1000))) == list(pool.map(abs, range(1000)))

    # then nobody asked for each of them
    assert len(requests) < 300
    assert not [path for path in requests if path.startswith("/tasks/") and path != "/tasks/lookup"]


def test_a_chunk_is_one_task(client: nexusq_sdk.Client, queue: str, http: httpx.Client) -> None:
    with client.executor(executor="thread", queue=queue) as pool:
        results = pool.map(pow, range(10), itertools.repeat(2), chunksize=4)

        def three_are_queued() -> None:
            columns = http.get("/tasks", params={"type": "call.thread:pow", "status": "QUEUED"}).json()["columns"]
            assert 3 == len(columns["taskId"])

        eventually(three_are_queued)
        pool.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(concurrent.futures.CancelledError):
        next(results)


def test_a_buffer_reads_an_endless_iterable_as_far_as_results_are_taken(client: nexusq_sdk.Client) -> None:
    read = []

    def numbers() -> Any:
        for number in itertools.count():
            read.append(number)
            yield number

    with client.executor(executor="thread") as pool:
        results = pool.map(abs, numbers(), buffersize=3)
        assert [0, 1, 2, 3, 4] == list(itertools.islice(results, 5))
        results.close()

    assert len(read) <= 5 + 3


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"chunksize": 0}, ValueError),
        ({"buffersize": 0}, ValueError),
        ({"buffersize": 1.5}, TypeError),
    ],
)
def test_what_map_can_not_do_is_refused_at_once(
    client: nexusq_sdk.Client, asked: dict[str, Any], error: type[Exception]
) -> None:
    with client.executor() as pool, pytest.raises(error, match=next(iter(asked))):
        pool.map(abs, [1], **asked)


def test_a_failed_call_raises_what_was_raised_there(client: nexusq_sdk.Client) -> None:
    def look_up(key: str) -> int:
        return {"a": 1}[key]

    with client.executor(executor="thread") as pool:
        future = pool.submit(look_up, "b")
        with pytest.raises(KeyError) as caught:
            future.result(timeout=30)

    assert isinstance(caught.value, nexusq_sdk.TaskFailed)
    assert 'return {"a": 1}[key]' in caught.value.remote_traceback


def test_a_cancelled_future_cancels_its_task(client: nexusq_sdk.Client, queue: str) -> None:
    # given a call that nobody serves
    with client.executor(queue=queue) as pool:
        future = pool.submit(abs, -1)

        def sent() -> None:
            assert future.task_id is not None

        eventually(sent)
        told: list[Any] = []
        future.add_done_callback(told.append)

        # when it is cancelled
        assert future.cancel()

        # then its task is
        assert future.task_id is not None
        task = client.task(future.task_id)

        def cancelled() -> None:
            assert "CANCELLED" == task.status

        eventually(cancelled)
        assert [future] == told
        assert future in concurrent.futures.wait([future], timeout=30).done


def test_cancelling_all_of_a_batch_is_one_request(client: nexusq_sdk.Client, queue: str) -> None:
    pool = client.executor(queue=queue)
    futures = [pool.submit(abs, number) for number in range(200)]

    pool.shutdown(cancel_futures=True)

    assert all(future.cancelled() for future in futures)
    batches = {str(future.task_id).rpartition("-")[0] for future in futures if future.task_id}
    for batch in batches:

        def cancelled(batch: str = batch) -> None:
            counts = client.batch(batch).counts()
            assert sum(counts.values()) == counts["CANCELLED"]

        eventually(cancelled)


def test_a_pool_of_one_hands_over_one_call_at_a_time(client: nexusq_sdk.Client) -> None:
    def span() -> tuple[float, float]:
        began = time.monotonic()
        time.sleep(0.02)
        return began, time.monotonic()

    with client.executor(1, executor="thread") as pool:
        spans = sorted(future.result() for future in [pool.submit(span) for _ in range(5)])

    assert all(ended <= began for (_, ended), (began, _) in itertools.pairwise(spans))


def test_many_threads_submit_to_one_executor(client: nexusq_sdk.Client) -> None:
    with client.executor(executor="thread") as pool:
        sums: list[int] = []

        def use(first: int) -> None:
            sums.append(sum(pool.submit(abs, number).result() for number in range(first, first + 5)))

        threads = [threading.Thread(target=use, args=(first,)) for first in range(0, 50, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert sum(range(50)) == sum(sums)


def test_arrays_go_there_and_back(client: nexusq_sdk.Client) -> None:
    matrix = np.arange(12.0).reshape(3, 4)

    with client.executor(executor="thread") as pool:
        assert (matrix.T == pool.submit(np.transpose, matrix).result()).all()


def test_what_was_submitted_is_sent_before_the_interpreter_ends(cluster: Addresses, tmp_path: Path) -> None:
    # given a program that submits and ends
    proof = tmp_path / "proof"
    program = textwrap.dedent(f"""
        import nexusq_sdk, pathlib
        pool = nexusq_sdk.Client({cluster.url!r}).executor(1)
        for name in "ab":
            pool.submit(pathlib.Path({str(proof)!r} + name).touch)
    """)

    # when it has ended
    said = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)

    # then the calls are made all the same
    def made() -> None:
        assert {"proofa", "proofb"} == {path.name for path in tmp_path.iterdir()}

    eventually(made)
    assert "" == said.stderr


def test_a_closed_client_is_told_to_those_who_wait(cluster: Addresses, queue: str) -> None:
    client = nexusq_sdk.Client(cluster.url)
    pool = client.executor(queue=queue)
    future = pool.submit(abs, 1)

    client.close()

    with pytest.raises(RuntimeError, match="make a new Client"):
        future.result(timeout=30)
    pool.shutdown()


def test_nothing_is_taken_after_shutdown(client: nexusq_sdk.Client) -> None:
    pool = client.executor()
    pool.shutdown()

    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(abs, 1)
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.map(abs, [1])
    assert "shut down" in repr(pool)


def test_an_idempotency_key_is_refused(client: nexusq_sdk.Client) -> None:
    with pytest.raises(ValueError, match="idempotency_key"):
        client.executor(idempotency_key="k")


def test_an_abandoned_executor_ends_its_thread(client: nexusq_sdk.Client) -> None:
    pool: TaskExecutor | None = client.executor(executor="thread")
    assert pool is not None
    thread_of = pool._engine
    assert 1 == pool.submit(abs, -1).result()

    pool = None

    def ended() -> None:
        assert thread_of._thread is not None
        assert not thread_of._thread.is_alive()

    eventually(ended)
