"""What a handler says of its task while it runs: progress and log lines, from threads, processes and the event loop."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
import redis

import nexusq_sdk
from nexusq_sdk.protocol import ids
from nexusq_sdk.tasks import CurrentTask
from nexusq_server.clock import now_us
from nexusq_server.states import NewTask
from nexusq_server.store import Store
from tests.asking import claim
from tests.conftest import WorkerProcess, eventually


@pytest.mark.parametrize("task_type", ["TELL", "TELL_APART"])
def test_progress_and_the_last_log_lines_are_seen_while_the_task_runs(
    client: nexusq_sdk.Client, queue: str, start_worker: Callable[..., WorkerProcess], task_type: str
) -> None:
    worker = start_worker(queue)
    task = client.submit(task_type, {"steps": 40, "seconds": 0.1}, queue=queue)

    def halfway() -> None:
        info = task.info()
        assert "IN_PROGRESS" == info.status
        assert info.progress is not None
        assert 0 < info.progress < 1
        assert (info.progress_text or "").startswith("step ")
        assert info.log[0] == "loss 1.00"
        assert "loss 1.00" in task._repr_html_()

    eventually(halfway)

    # once it has ended, the last that was said stays
    assert 40 == task.result(timeout=30)

    def told() -> None:
        info = client.task(task.id).info()
        assert (40 / 41, "step 40/40") == (info.progress, info.progress_text)
        assert [f"loss {1 / (step + 1):.2f}" for step in range(20, 40)] == info.log

    eventually(told)
    assert worker.process.poll() is None


def test_what_is_said_at_the_very_end_and_on_the_event_loop_is_kept_too(client: nexusq_sdk.Client) -> None:
    tasks = [client.submit("TELL", {"steps": 1}), client.submit("TELL_ASYNC", {})]

    for task in tasks:
        task.result(timeout=30)

    def told() -> None:
        assert [0.5, 0.5] == [client.task(task.id).info().progress for task in tasks]
        assert ["step 1/1", "halfway"] == [client.task(task.id).info().progress_text for task in tasks]

    eventually(told)


def test_a_share_that_can_not_be_is_refused_and_lines_are_bounded() -> None:
    task = CurrentTask("t", "T", 1)

    for wrong in (1.5, -0.1, "half", None):
        with pytest.raises(ValueError, match="expected the progress to be a number from 0 to 1"):
            task.progress(wrong)  # type: ignore[arg-type]
    task.log("\n".join(map(str, range(100))))
    task.log("x" * 1000)
    assert task._said is not None
    assert (20, "81", 500) == (len(task._said.lines), task._said.lines[0], len(task._said.lines[-1]))


def test_what_another_worker_or_attempt_says_is_not_written(store: Store, redis_client: redis.Redis) -> None:
    # given a task that worker a has claimed for the first time
    task = NewTask(ids.new_id(), "ECHO", b"1", "default", None, now_us())
    store.submit([task])
    claim(store, "a", [(task, 1)])
    key = f"nexusq:task:{task.task_id}"

    # when others speak of it, or of a task that is not there
    said = (0.5, "half", ("line",))
    assert 0 == store.note("b", [(task.task_id, 1, *said)])
    assert 0 == store.note("a", [(task.task_id, 2, *said), (ids.new_id(), 1, *said)])

    # then nothing is written; what the worker itself says is, and only what it says
    assert {"progress", "progressText", "log"}.isdisjoint(redis_client.hgetall(key))
    assert 1 == store.note("a", [(task.task_id, 1, None, "", ("line",))])
    assert ["line"] == msgspec.json.decode(redis_client.hget(key, "log"))
    assert "progress" not in redis_client.hgetall(key)
    assert 1 == store.note("a", [(task.task_id, 1, 0.5, "half", ())])
    assert ("0.5", "half") == (redis_client.hget(key, "progress"), redis_client.hget(key, "progressText"))
