"""Named batches: submitted once, whoever runs the cell again, and found by their name from any kernel."""

from __future__ import annotations

import concurrent.futures
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pandas as pd
import pytest
import redis

import nexusq_sdk
from nexusq_sdk import sending
from nexusq_sdk.connection import Connection
from nexusq_sdk.protocol import ids
from tests.conftest import Addresses, eventually


@pytest.fixture
def name() -> str:
    """Give a name that is this test's alone."""
    return f"exp-{secrets.token_hex(4)}"


ROWS = pd.DataFrame({"a": [6.0, 9.0], "b": [2, 3]}, index=["ann", "bob"])


def test_running_a_cell_again_takes_the_batch_up_again(
    client: nexusq_sdk.Client, cluster: Addresses, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a batch that has ended
    first = client.submit_batch("DIVIDE", ROWS, name=name).wait(timeout=20)

    # when the cell runs again, here and in another kernel
    sent: list[bytes] = []
    monkeypatch.setattr(Connection, "submit_chunk", lambda self, body: sent.append(body))
    again = client.submit_batch("DIVIDE", ROWS, name=name, priority="high")
    with nexusq_sdk.Client(cluster.url) as other:
        elsewhere = other.submit_batch("DIVIDE", ({"a": 3.0 * n, "b": n} for n in (2, 3)), name=name)
        found = other.batch(name)

    # then it is the same one, nothing was sent, and its frame has this kernel's labels
    assert 1 == len({batch.id for batch in (first, again, elsewhere, found)})
    assert [] == sent
    assert (name, name) == (first.name, found.name)
    assert again.done()
    assert {"ann": 3.0, "bob": 3.0} == again.frame()["result"].to_dict()
    assert f"'{name}'" in repr(found)


def test_other_inputs_under_a_name_are_refused_and_nothing_is_submitted(
    client: nexusq_sdk.Client, name: str, queue: str
) -> None:
    batch = client.submit_batch("ECHO", [1, 2], name=name)

    for task_type, rows, options in (
        ("ECHO", [1, 3], {}),
        ("ECHO", [2, 1], {}),
        ("ECHO", [1, 2, 3], {}),
        ("SLEEP", [1, 2], {"allow_unknown": True}),
        ("ECHO", [1, 2], {"queue": queue}),
    ):
        with pytest.raises(nexusq_sdk.NameTaken, match=rf"batch '{name}' \({batch.id}\)") as refusal:
            client.submit_batch(task_type, rows, name=name, **options)  # type: ignore[arg-type]
        assert "new=True" in str(refusal.value)
    assert 2 == len(client.batch(name))
    assert list(client.batches()["name"]).count(name) == 1


def test_a_new_batch_takes_the_name_and_the_old_one_keeps_its_id(
    client: nexusq_sdk.Client, name: str, redis_client: redis.Redis
) -> None:
    old = client.submit_batch("ECHO", [1], name=name).wait(timeout=20)

    new = client.submit_batch("ECHO", [1, 2], name=name, new=True).wait(timeout=20)

    assert old.id != new.id
    assert new.id == client.batch(name).id == client.submit_batch("ECHO", [1, 2], name=name).id
    assert [1] == list(client.batch(old.id).results())
    assert "name" not in redis_client.hgetall(f"nexusq:batch:{old.id}")
    with pytest.raises(ValueError, match="expected new=True together with a name"):
        client.submit_batch("ECHO", [1], new=True)


def test_kernels_that_race_submit_one_batch(cluster: Addresses, name: str) -> None:
    def submit(_: int) -> tuple[str, int]:
        with nexusq_sdk.Client(cluster.url) as client:
            batch = client.submit_batch("ECHO", ({"n": n} for n in range(200)), name=name).wait(timeout=60)
            return batch.id, batch.counts()["COMPLETED"]

    with concurrent.futures.ThreadPoolExecutor(6) as kernels:
        submitted = set(kernels.map(submit, range(6)))

    assert 1 == len(submitted)
    assert {200} == {completed for _, completed in submitted}


def test_a_submit_that_broke_off_is_completed_by_the_next_run(
    client: nexusq_sdk.Client, name: str, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a kernel that died between two chunks
    monkeypatch.setattr(sending, "CHUNK_TASKS", 10)
    submit, sent = Connection.submit_chunk, []

    def dies(self: Connection, body: bytes) -> object:
        sent.append(body)
        if len(sent) > 1:
            raise nexusq_sdk.ConnectionFailed("the kernel died")
        return submit(self, body)

    monkeypatch.setattr(Connection, "submit_chunk", dies)
    with pytest.raises(nexusq_sdk.ConnectionFailed):
        client.submit_batch("ECHO", range(30), name=name, queue=queue)
    monkeypatch.setattr(Connection, "submit_chunk", submit)
    assert (10, False) == (len(client.batch(name)), client.batch(name).info().closed)

    # when the cell runs again
    batch = client.submit_batch("ECHO", range(30), name=name, queue=queue)

    # then it is the same batch, whole
    assert batch.id == client.batch(name).id
    assert (30, True) == (batch.info().size, batch.info().closed)
    assert 30 == batch.counts()["QUEUED"]


def test_rows_beyond_memory_wait_in_a_file(
    client: nexusq_sdk.Client, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nexusq_sdk.naming.SPOOLED_BYTES", 100)

    def rows() -> Iterator[str]:
        yield from (f"line\nbreak {n}" for n in range(100))

    batch = client.submit_batch("ECHO", rows(), name=name).wait(timeout=20)

    assert list(rows()) == list(batch.results())


def test_a_name_goes_when_its_batch_is_forgotten(
    client: nexusq_sdk.Client, name: str, redis_client: redis.Redis, queue: str
) -> None:
    # given a name whose batch waits, one whose batch has ended, and one of which no task ever came
    waits = client.submit_batch("ECHO", [1], name=f"{name}-w", queue=queue)
    ended = client.submit_batch("ECHO", [1], name=f"{name}-e").wait(timeout=20)
    client._connection.name_batch(f"{name}-n", ids.new_id(), "d", new=False)

    def left(key: str) -> int:
        return int(redis_client.ttl(f"nexusq:{key}"))

    assert (-1, -1) == (left(f"name:{name}-w"), left(f"batch:{waits.id}"))
    assert left(f"name:{name}-e") == pytest.approx(left(f"batch:{ended.id}"), abs=2)
    assert 3500 < left(f"name:{name}-n") <= 3600
    with pytest.raises(nexusq_sdk.UnknownTask, match="there is no batch"):
        client.batch(f"{name}-n")

    # when they are forgotten
    redis_client.delete(f"nexusq:name:{name}-e", f"nexusq:batch:{ended.id}")

    # then the name is free
    with pytest.raises(nexusq_sdk.UnknownTask, match=f"there is no batch named '{name}-e'"):
        client.batch(f"{name}-e")
    assert 2 == len(client.submit_batch("ECHO", [1, 2], name=f"{name}-e"))


def test_a_function_over_the_same_rows_is_mapped_once(client: nexusq_sdk.Client, cluster: Addresses, name: str) -> None:
    def cell(file: str, factor: int) -> Callable[..., int]:
        names: dict[str, Any] = {"__name__": "__main__", "FACTOR": factor}
        exec(compile("def work(x):\n    return x * FACTOR\n", file, "exec"), names)
        work: Callable[..., int] = names["work"]
        return work

    here = cell("/tmp/ipykernel_1/1.py", 2)
    first = client.map(here, [1, 2], name=name, executor="thread").wait(timeout=60)

    with nexusq_sdk.Client(cluster.url) as other:
        again = other.map(cell("/tmp/ipykernel_777/1.py", 2), [1, 2], name=name, executor="thread")
        assert (first.id, [2, 4]) == (again.id, list(again.results()))
        with pytest.raises(nexusq_sdk.NameTaken):
            other.map(cell("/tmp/ipykernel_777/1.py", 3), [1, 2], name=name, executor="thread")


def test_what_can_be_no_name_is_refused_on_both_sides(client: nexusq_sdk.Client, http: httpx.Client) -> None:
    for wrong in ("a b", "", ids.new_id()):
        with pytest.raises(ValueError, match="expected a batch's name to be such as 'exp-7'"):
            client.submit_batch("ECHO", [1], name=wrong)
    with pytest.raises(ValueError, match="expected name or idempotency_key, got both"):
        client.submit_batch("ECHO", [1], name="a", idempotency_key="b")
    for path, body, field in (
        (f"/names/{ids.new_id()}", {"batchId": ids.new_id(), "digest": "d"}, "name"),
        ("/names/a", {"batchId": "b", "digest": "d"}, "batchId"),
        ("/names/a", {"batchId": ids.new_id(), "digest": ""}, "digest"),
        ("/names/a", {"batchId": ids.new_id(), "digset": "d"}, "digset"),
    ):
        refusal = http.put(path, json=body)
        assert (422, field) == (refusal.status_code, refusal.json()["errors"][0]["field"])
    assert 404 == http.get("/names/never-was").status_code


def test_a_batch_that_waits_is_found_by_its_name_straight_from_redis(
    client: nexusq_sdk.Client, cluster: Addresses, name: str, queue: str
) -> None:
    batch = client.submit_batch("ECHO", [1], name=name, queue=queue)

    view = nexusq_sdk.RedisView(cluster.redis_url)

    assert batch.id == view.batch_id(name) == view.batch_id(batch.id)
    assert name == view.batch(batch.id).name
    with pytest.raises(nexusq_sdk.UnknownTask, match="there is no batch named 'never-was'"):
        view.batch_id("never-was")
    eventually(lambda: _same(client._connection.batch(batch.id), view.batch(batch.id)))


def _same(one: object, other: object) -> None:
    assert one == other
