"""Functions by value on the real cluster: what a notebook's cells define runs on the workers."""

from __future__ import annotations

import base64
import importlib
import json
import os
import pickle
import secrets
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import httpx
import numpy as np
import pandas as pd
import pytest
import redis

import nexusq_sdk
from nexusq_sdk import FunctionsOff, NotPicklable, TaskFailed, WrongKey, functions
from nexusq_sdk.protocol import blobs, calls
from tests.conftest import Addresses, WorkerProcess, eventually
from tests.handlers import divide

OTHER_KEY = secrets.token_hex(32)


class Evil:
    """Leaves a trace where it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return Path.touch, (self.proof,)


@pytest.fixture
def keyless(cluster: Addresses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[nexusq_sdk.Client]:
    monkeypatch.setenv("NEXUSQ_CACHE", str(tmp_path))
    monkeypatch.delenv("NEXUSQ_SIGNING_KEY", raising=False)
    with nexusq_sdk.Client(cluster.url) as client:
        yield client


def test_a_function_of_a_cell_is_called_with_each_row_of_a_frame(client: nexusq_sdk.Client) -> None:
    # given what a cell defines: a function, what it refers to, a class
    offset = 100

    class Rectangle:
        def __init__(self, area: float) -> None:
            self.area = area

    def rectangle(width: int, height: int, *, name: str = "") -> Rectangle:
        return Rectangle(width * height + offset)

    rows = pd.DataFrame({"width": [1, 2], "height": [3, 4], "name": ["a", "b"]}, index=["ann", "bob"])

    # when it is mapped
    batch = client.map(rectangle, rows).wait(timeout=90)

    # then the results are the very objects, by the rows' labels
    outcomes = rows.join(batch.frame())
    assert [103, 108] == [result.area for result in outcomes["result"]]
    assert all(isinstance(result, Rectangle) for result in batch.results())
    assert {"call:rectangle"} == set(outcomes["task_type"])


def test_values_of_an_iterable_are_passed_one_by_one_whatever_they_are(client: nexusq_sdk.Client) -> None:
    values = [1, "text", (1, 2), {"a": 1}, None, np.float32(2.5), pd.Timestamp("2026-01-31"), {1, 2}]

    batch = client.map(lambda value: value, values, executor="thread").wait(timeout=60)

    assert values == list(batch.results())
    with nexusq_sdk.Client(client.url) as another:
        assert values == list(another.batch(batch.id).results())


def test_threads_that_are_the_first_to_need_packages_get_them_whole(
    client: nexusq_sdk.Client, queue: str, start_worker: Callable[..., WorkerProcess]
) -> None:
    # given a worker that has loaded neither numpy nor pandas
    key = client._connection.signing_key
    assert key is not None
    start_worker(queue, NEXUSQ_SIGNING_KEY=key.hex(), NEXUSQ_CONCURRENCY="8")

    # when all its threads are given values that need them
    values = [np.float32(1), pd.Timestamp("2026-01-31"), np.arange(3), pd.Series([1])] * 4
    batch = client.map(lambda value: type(value).__name__, values, executor="thread", queue=queue)

    # then none of them fails
    assert [type(value).__name__ for value in values] == list(batch.results(timeout=90))


def test_a_series_gives_its_values(client: nexusq_sdk.Client) -> None:
    numbers = pd.Series([1.5, 2.5], index=["a", "b"])

    frame = client.map(lambda x: 2 * x, numbers, executor="thread").wait(timeout=60).frame()

    assert {"a": 3.0, "b": 5.0} == frame["result"].to_dict()


def test_a_call_takes_arguments_and_options_apart(client: nexusq_sdk.Client, queue: str) -> None:
    assert 1024 == client.submit(pow, 2, 10).result(timeout=60)

    view = client.options(queue=queue, priority="high")
    waiting = view.submit(lambda queue: queue, queue="mine").info()

    assert (queue, "high") == (waiting.queue, waiting.priority)
    assert "default" == client.submit(abs, 1).wait(60).info().queue
    with pytest.raises(TypeError, match="did you mean 'priority'"):
        client.options(prioriti="high")  # type: ignore[call-arg]


def test_what_a_function_prints_can_be_read_back(client: nexusq_sdk.Client) -> None:
    def talk(name: str) -> int:
        print("hello,", name)
        return 7

    task = client.submit(talk, "Grüße")

    assert "hello, Grüße\n" == task.stdout(timeout=60)
    assert 7 == task.result()


def test_large_frames_among_arguments_are_shared(client: nexusq_sdk.Client, redis_client: redis.Redis) -> None:
    frame = pd.DataFrame({"x": np.random.default_rng(3).random(60_000)})
    before = set(redis_client.scan_iter("nexusq:blob:*"))

    with client.executor(executor="thread") as pool:
        sums = [future.result() for future in [pool.submit(lambda f, n: f["x"].sum() * n, frame, n) for n in (1, 2, 3)]]

    assert [frame["x"].sum() * n for n in (1, 2, 3)] == sums
    [blob] = set(redis_client.scan_iter("nexusq:blob:*")) - before
    assert redis_client.ttl(blob) > 29 * 86_400


def test_a_failure_shows_the_functions_own_lines(client: nexusq_sdk.Client) -> None:
    def train(alpha: float) -> float:
        return 1 / alpha  # alpha must not be zero

    with pytest.raises(ZeroDivisionError) as caught:
        client.submit(train, 0).result(timeout=60)

    assert isinstance(caught.value, TaskFailed)
    assert "return 1 / alpha  # alpha must not be zero" in caught.value.remote_traceback
    assert "handlers/call.py" not in caught.value.remote_traceback


def test_what_can_not_be_pickled_is_refused_before_anything_is_sent(client: nexusq_sdk.Client) -> None:
    connection = socket.socket()
    with connection:
        with pytest.raises(NotPicklable, match="it refers to 'connection', a socket"):
            client.map(lambda x: connection.send(x) + 1, [b""])
        with pytest.raises(NotPicklable, match="row 1: expected values that can be pickled") as caught:
            client.map(abs, [1, connection], executor="thread")
        with pytest.raises(NotPicklable, match="that is 'argument 2', a socket; make inside the function"):
            client.submit(max, 1, connection)
    assert not getattr(caught.value, "__notes__", [])


def test_a_result_that_can_not_be_pickled_or_is_too_large_fails_its_task(client: nexusq_sdk.Client) -> None:
    with pytest.raises(TypeError, match="result to be one that can be pickled, got generator"):
        client.submit(lambda: (n for n in range(3))).result(timeout=60)
    with pytest.raises(
        TaskFailed, match="ResultTooLarge: expected the result to have at most 512 KiB .*MAX_RESULT_KIB"
    ):
        client.submit(lambda: "x" * 600_000).result(timeout=60)


def test_a_module_that_the_worker_lacks_is_named_and_may_be_sent_along(
    client: nexusq_sdk.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a file beside the notebook
    name = f"helpers_{secrets.token_hex(4)}"
    (tmp_path / f"{name}.py").write_text("def triple(x):\n    return 3 * x\n")
    monkeypatch.syspath_prepend(tmp_path)
    helpers = importlib.import_module(name)

    # when a function that uses it is sent
    with pytest.raises(ModuleNotFoundError, match=rf"module '{name}', which triple needs.*register_pickle_by_value"):
        client.submit(helpers.triple, 2).result(timeout=60)

    # then doing what the message says helps
    cloudpickle.register_pickle_by_value(helpers)
    try:
        assert 6 == client.submit(helpers.triple, 2).result(timeout=60)
    finally:
        cloudpickle.unregister_pickle_by_value(helpers)


@pytest.mark.parametrize(
    ("python", "packages", "said"),
    [
        ("3.7", {}, r"this worker's Python 3.\d+, got one of Python 3.7"),
        (None, {"msgspec": ("msgspec", "99.1")}, r"this worker's msgspec \S+, got one made with msgspec 99.1"),
        (None, {"no_such_module": ("no-such", "1.0")}, r"module 'no_such_module' \(no-such 1.0\), which f needs"),
    ],
)
def test_a_worker_that_differs_says_in_what(
    client: nexusq_sdk.Client, python: str | None, packages: dict[str, tuple[str, str]], said: str
) -> None:
    key = client._connection.signing_key
    assert key is not None
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    blob = calls.pack_function(key, calls.Head(python=python or here, name="f", packages=packages), pickle.dumps(abs))
    function = functions.Function(blobs.blob_id(blob), "call.thread:f", calls.to_text(blob))

    payload = functions.encode_call(client._connection, function, (1,), {})
    task = client.submit("call.thread:f", json.loads(payload))

    with pytest.raises(ImportError, match=said):
        task.result(timeout=60)


def test_unsigned_bytes_are_unpickled_on_neither_side(
    client: nexusq_sdk.Client, redis_client: redis.Redis, tmp_path: Path
) -> None:
    # given a pickle that leaves a trace, put where signed ones are expected
    evil = base64.b64encode(pickle.dumps(Evil(tmp_path / "unpickled"))).decode()
    good = client.submit(abs, -1)
    assert 1 == good.result(timeout=60)

    # when it comes as a function, as arguments, as a result
    as_function = {"function": "0" * 64, "arguments": evil, "code": evil}
    function = functions.send_function(client._connection, abs, along=10_000)
    as_arguments = {"function": function.blob_id, "arguments": evil, "code": function.code}
    for payload in (as_function, as_arguments):
        with pytest.raises(TaskFailed, match="BadSignature"):
            client.submit("call.thread:abs", payload).result(timeout=60)
    redis_client.hset(f"nexusq:task:{good.id}", "result", f'{{"pickle":"{evil}"}}')
    with pytest.raises(WrongKey, match="was not opened"):
        client.task(good.id).result()
    tasks = client.tasks(task_type=good.info().task_type)

    # then nobody has opened it
    assert "<pickled:" in tasks.set_index("task_id").loc[good.id, "result"]
    assert not (tmp_path / "unpickled").exists()


def test_a_result_is_not_opened_in_anothers_place(client: nexusq_sdk.Client, redis_client: redis.Redis) -> None:
    one, two = client.submit(abs, 1), client.submit(abs, 2)
    assert (1, 2) == (one.result(timeout=60), two.result(timeout=60))

    redis_client.hset(f"nexusq:task:{one.id}", "result", redis_client.hget(f"nexusq:task:{two.id}", "result"))

    with pytest.raises(WrongKey, match="put there by hand"):
        client.task(one.id).result()


def test_a_client_without_the_key_sends_nothing_and_sees_that_there_is_a_result(
    client: nexusq_sdk.Client, keyless: nexusq_sdk.Client
) -> None:
    batch = client.map(abs, [-1, -2], executor="thread").wait(timeout=60)

    with pytest.raises(FunctionsOff, match="NEXUSQ_SIGNING_KEY"):
        keyless.map(abs, [1])
    seen = keyless.batch(batch.id)
    assert [functions.UNREAD] * 2 == list(seen.frame()["result"])
    with pytest.raises(FunctionsOff, match=r"Client\(signing_key=...\)"):
        list(seen.results())


def test_another_key_is_refused_on_both_ways(cluster: Addresses, client: nexusq_sdk.Client) -> None:
    batch = client.map(abs, [-1], executor="thread").wait(timeout=60)

    with nexusq_sdk.Client(cluster.url, signing_key=OTHER_KEY) as other:
        with pytest.raises(WrongKey, match="give the client the server's key"):
            other.map(abs, [1])
        with pytest.raises(TaskFailed, match="BadSignature"):
            other.submit(abs, 1).result(timeout=60)
        with pytest.raises(WrongKey, match="signed with another one"):
            list(other.batch(batch.id).results())
    with pytest.raises(ValueError, match="64 hexadecimal characters or more"):
        nexusq_sdk.Client(cluster.url, signing_key="secret")


def test_a_server_without_a_key_says_how_to_turn_functions_on(cluster: Addresses, tmp_path: Path) -> None:
    # given an API without a key
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    told = {"NEXUSQ_REDIS": cluster.redis_url, "NEXUSQ_KAFKA": cluster.kafka, "NEXUSQ_SIGNING_KEY": ""}
    command = [sys.executable, "-m", "nexusq_server", "api", "--port", str(port)]
    with (tmp_path / "api.log").open("w") as log:
        api = subprocess.Popen(command, env=os.environ | told, stderr=log)
    try:

        def answers() -> None:
            try:
                assert httpx.get(f"http://127.0.0.1:{port}/healthz").is_success
            except httpx.TransportError as error:
                raise AssertionError from error

        eventually(answers, 60)

        # when a function is sent
        client = nexusq_sdk.Client(f"http://127.0.0.1:{port}", signing_key=OTHER_KEY)
        with client, pytest.raises(FunctionsOff, match="are off here: to turn them on, set NEXUSQ_SIGNING_KEY"):
            client.map(abs, [1])
    finally:
        api.kill()
        api.wait()


def test_a_function_that_is_not_kept_any_more_says_so(client: nexusq_sdk.Client, redis_client: redis.Redis) -> None:
    def unheard_of(x: int, salt: str = secrets.token_hex(4)) -> int:
        return x

    function = functions.send_function(client._connection, unheard_of)
    redis_client.delete(f"nexusq:blob:{function.blob_id}")
    payload = functions.encode_call(client._connection, function, (1,), {})

    with pytest.raises(LookupError, match="NEXUSQ_BLOB_TTL"):
        client.submit("call.thread:abs", json.loads(payload)).result(timeout=60)


def test_a_blob_is_what_its_name_says(http: httpx.Client, client: nexusq_sdk.Client) -> None:
    key = client._connection.signing_key
    assert key is not None
    data = blobs.sign(key, secrets.token_bytes(20))
    name = blobs.blob_id(data)

    assert 404 == http.get(f"/blobs/{name}").status_code
    assert 422 == http.put(f"/blobs/{'0' * 64}", content=data).status_code
    assert {"blobId": name, "bytes": len(data)} == http.put(f"/blobs/{name}", content=data).json()
    assert {"blobId": name, "bytes": len(data)} == http.get(f"/blobs/{name}").json()
    large = b"x" * (33 * 2**20)
    refusal = http.put(f"/blobs/{blobs.blob_id(large)}", content=large)
    assert 413 == refusal.status_code
    assert "NEXUSQ_MAX_BLOB_MIB" in refusal.json()["detail"]


def test_results_are_read_straight_from_redis_with_the_key(client: nexusq_sdk.Client, cluster: Addresses) -> None:
    batch = client.map(abs, [-1, -2], executor="thread").wait(timeout=60)
    key = client._connection.signing_key
    assert key is not None

    view = nexusq_sdk.RedisView(cluster.redis_url, signing_key=key.hex())

    assert [1, 2] == list(nexusq_sdk.Batch(batch.id, view).results())
    pd.testing.assert_frame_equal(batch.frame(), nexusq_sdk.Batch(batch.id, view).frame())


def test_a_declared_function_is_submitted_by_its_type(client: nexusq_sdk.Client) -> None:
    batch = divide.map(pd.DataFrame({"a": [6.0, 9.0], "b": [2, 3]}), client).wait(timeout=30)

    assert [3.0, 3.0] == list(batch.results())
    assert "DIVIDE" == batch.info().task_type
    assert 4.0 == divide.submit(8, b=2).result(timeout=30)
