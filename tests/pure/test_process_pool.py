"""Child processes that run handlers: whatever becomes of one, its attempt alone fails and the pool heals."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from nexusq_sdk.protocol.words import Status
from nexusq_server.process_pool import ProcessExecutor, environment_of
from nexusq_server.settings import load_settings
from tests.pure import executor_handlers as handlers
from tests.pure.executor_harness import MAX_RESULT, Ends, claimed, handler, id_of, run, value, wait_idle

ENVIRONMENT = {"NEXUSQ_TASKS": "tests.pure.executor_handlers"}
SHORT = timedelta(seconds=0.2)
_marks = itertools.count()


@pytest.fixture
def ends() -> Ends:
    return Ends()


@pytest.fixture
def start(ends: Ends) -> Iterator[Callable[..., ProcessExecutor]]:
    started: list[ProcessExecutor] = []

    def start(**options: Any) -> ProcessExecutor:
        started.append(ProcessExecutor(1, ends.slots, 0, ends, MAX_RESULT, environment=ENVIRONMENT, **options))
        return started[-1]

    yield start
    for pool in started:
        pool.stop()
        assert pool.join(30)


@pytest.fixture
def pool(start: Callable[..., ProcessExecutor]) -> ProcessExecutor:
    return start()


def read_when_there(path: Path, seconds: float = 30) -> str:
    until = time.monotonic() + seconds
    while not path.exists() or not path.read_text():
        assert time.monotonic() < until, f"{path} was not written"
    return path.read_text()


def wait_gone(pid: int, seconds: float = 30) -> None:
    """Wait until a process has ended with all its threads (one that nobody has reaped counts as ended)."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
        except (FileNotFoundError, ProcessLookupError):
            return
        if state == "Z" and threads == 1:
            return
    raise AssertionError(f"process {pid} still runs")


def test_a_handler_runs_in_a_child_that_serves_the_next_task_too(pool: ProcessExecutor, ends: Ends) -> None:
    # given a handler that prints and reads stdin, where the child talks to its parent
    one = claimed(handlers.who, print_this="x" * 100_000)

    # when it runs, and another one after it
    pool.start(one, handler(handlers.who), None)
    told, again = value(ends.of(one)), value(run(pool, ends, handlers.who))

    # then it knew its task, in one other process, and harmed nothing
    assert {"id": id_of(one), "type": "WHO", "attempt": 1, "cancelled": False, "stdin": ""}.items() <= told.items()
    assert os.getpid() != told["pid"] == again["pid"]
    assert [id_of(one)] == ends.ran_at_end[id_of(one)]


def test_async_handlers_run_in_a_child_as_well(pool: ProcessExecutor, ends: Ends) -> None:
    told = value(run(pool, ends, handlers.who_async))

    assert ("WHO_ASYNC", True) == (told["type"], told["pid"] != os.getpid())


@pytest.mark.parametrize(
    ("function", "payload", "says"),
    [
        (handlers.exit_now, {"code": 0}, "ended with exit code 0"),
        (handlers.exit_now, {"code": 7}, "ended with exit code 7"),
        (handlers.segfault, {}, "was killed by SIGSEGV"),
        (handlers.killed, {}, "was killed by SIGKILL (out of memory?)"),
    ],
)
def test_a_child_that_dies_fails_its_attempt_alone_and_the_pool_heals(
    function: Any, payload: dict[str, int], says: str, pool: ProcessExecutor, ends: Ends
) -> None:
    # when a handler takes its process down
    ended = run(pool, ends, function, **payload)

    # then the attempt failed as WorkerLost with the cause, and can be named in retry_on
    assert (Status.FAILED, "WorkerLost") == (ended.status, value(ended)["type"])
    assert f"the handler's process {says}" == value(ended)["message"]
    assert {"nexusq_sdk.tasks.WorkerLost", "Exception"} <= set(ended.kinds)
    assert not ended.hopeless

    # and the next task runs
    assert Status.COMPLETED is run(pool, ends, handlers.who).status


def test_a_death_is_noticed_though_something_else_holds_the_pipe(
    pool: ProcessExecutor, ends: Ends, tmp_path: Path
) -> None:
    # when a handler dies and leaves a forked process behind
    mark = tmp_path / "left"
    ended = run(pool, ends, handlers.leave_one_behind, mark=str(mark))

    # then the death is noticed, and what was left behind is gone too
    assert "the handler's process ended with exit code 3" == value(ended)["message"]
    wait_gone(int(mark.read_text()))


def test_a_task_beyond_its_limit_is_killed_with_what_it_has_started(
    pool: ProcessExecutor, ends: Ends, tmp_path: Path
) -> None:
    # given a child that is ready: its start is not counted
    run(pool, ends, handlers.who)

    # when a handler that waits for another program runs longer than its limit
    mark = tmp_path / "program"
    ended = run(pool, ends, handlers.go_on_after, timedelta(seconds=1), mark=str(mark))

    # then it failed as out of time, and the program is gone
    assert (Status.FAILED, "TimeLimitExceeded") == (ended.status, value(ended)["type"])
    assert "time limit of 1 s" in value(ended)["message"]
    wait_gone(int(read_when_there(mark)))
    assert Status.COMPLETED is run(pool, ends, handlers.who, SHORT).status


def test_a_childs_start_is_not_charged_to_a_tasks_limit(pool: ProcessExecutor, ends: Ends) -> None:
    assert Status.COMPLETED is run(pool, ends, handlers.who, timedelta(seconds=0.05)).status


def test_a_running_task_that_is_cancelled_is_killed(pool: ProcessExecutor, ends: Ends, tmp_path: Path) -> None:
    # given a running task
    mark = tmp_path / "mark"
    one = claimed(handlers.spinning, mark=str(mark))
    pool.start(one, handler(handlers.spinning), None)
    child = int(read_when_there(mark))
    assert [id_of(one)] == pool.running() == ends.slots.running()

    # when it is cancelled
    assert pool.cancel(id_of(one))

    # then it ends as cancelled, its process is gone and the next task runs
    assert Status.CANCELLED is ends.of(one).status
    wait_gone(child)
    assert Status.COMPLETED is run(pool, ends, handlers.who).status


def test_a_task_that_waits_for_a_child_has_not_started_and_can_be_taken_back(
    start: Callable[..., ProcessExecutor], ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a pool whose children can not start
    monkeypatch.setitem(ENVIRONMENT, "NEXUSQ_TASKS", "no_such_module")
    pool = start()
    one, two = claimed(handlers.who), claimed(handlers.who)
    pool.start(one, handler(handlers.who), None)
    pool.start(two, handler(handlers.who), None)

    # then neither has started, one can be cancelled and the other taken back
    assert [] == pool.running()
    assert pool.cancel(id_of(one))
    assert Status.CANCELLED is ends.of(one).status
    assert [id_of(two)] == [id_of(back) for back in pool.take_back()]
    assert pool.idle()


def test_children_are_recycled_after_so_many_tasks(start: Callable[..., ProcessExecutor], ends: Ends) -> None:
    pool = start(recycle_tasks=2)

    pids = [value(run(pool, ends, handlers.who))["pid"] for _ in range(4)]

    assert pids[0] == pids[1] != pids[2] == pids[3]


def test_a_child_that_has_grown_too_large_is_recycled(start: Callable[..., ProcessExecutor], ends: Ends) -> None:
    pool = start(recycle_mib=150)

    pids = [value(run(pool, ends, handlers.grow, mib=size)) for size in (1, 120, 1)]

    assert pids[0] == pids[1] != pids[2]


def test_an_idle_child_that_was_killed_is_replaced_before_a_task_meets_it(pool: ProcessExecutor, ends: Ends) -> None:
    # given a child that was killed while it had nothing to do
    child = value(run(pool, ends, handlers.who))["pid"]
    os.kill(child, signal.SIGKILL)
    wait_gone(child)

    # then the next task does not notice
    assert Status.COMPLETED is run(pool, ends, handlers.who).status


def test_a_child_does_not_end_by_the_signals_for_its_worker(pool: ProcessExecutor, ends: Ends, tmp_path: Path) -> None:
    # given a child
    child = value(run(pool, ends, handlers.who))["pid"]

    # when it gets what a terminal or a service manager sends to all
    os.kill(child, signal.SIGINT)
    os.kill(child, signal.SIGTERM)

    # then it goes on, while what it forks ends by SIGTERM as usual
    assert child == value(run(pool, ends, handlers.who))["pid"]
    assert -signal.SIGTERM == value(run(pool, ends, handlers.fork_and_stop))


@pytest.mark.parametrize("function", ["spinning", "who"])
def test_a_child_ends_when_its_parent_is_killed(function: str, tmp_path: Path) -> None:
    # given another process with a pool whose child is busy, or idle
    mark = tmp_path / "mark"
    program = f"""
import sys; sys.path[:0] = {sys.path!r}
import pathlib, threading
from tests.pure import executor_handlers as handlers, executor_harness as harness
from nexusq_server.process_pool import ProcessExecutor
ends = harness.Ends()
pool = ProcessExecutor(1, ends.slots, 0, ends, 9999, environment={ENVIRONMENT!r})
if {function!r} == "who":
    pathlib.Path({str(mark)!r}).write_text(str(harness.value(harness.run(pool, ends, handlers.who))["pid"]))
else:
    harness.run(pool, ends, handlers.spinning, mark={str(mark)!r})
threading.Event().wait()
"""
    parent = subprocess.Popen([sys.executable, "-c", program])
    child = int(read_when_there(mark))

    # when that process is killed
    parent.kill()
    parent.wait()

    # then its child is gone soon
    wait_gone(child)


def test_retries_payloads_and_results_mean_the_same_in_a_child(pool: ProcessExecutor, ends: Ends) -> None:
    asked = run(pool, ends, handlers.again, delay=2.5)
    wrong = run(pool, ends, handlers.raising, wrong=1)
    large = run(pool, ends, handlers.big, kib=9)
    missing = run(pool, ends, handlers.raising, message="no.csv")

    assert (timedelta(seconds=2.5), "Retry") == (asked.retry_in, value(asked)["type"])
    assert ("InvalidPayload", True) == (value(wrong)["type"], wrong.hopeless)
    assert "ResultTooLarge" == value(large)["type"]
    assert ("FileNotFoundError", "builtins.FileNotFoundError") == (value(missing)["type"], missing.kinds[0])
    assert "nexusq_server" not in value(missing)["traceback"]


def test_a_pool_without_work_has_all_its_places_free(pool: ProcessExecutor, ends: Ends) -> None:
    assert 1 == pool.free()

    run(pool, ends, handlers.who)
    wait_idle(pool)

    assert pool.free() >= 1


def test_a_child_loads_neither_kafkas_client_nor_rediss() -> None:
    program = "import sys, nexusq_server.process_child; print([m for m in ('kafka', 'redis') if m in sys.modules])"

    assert "[]\n" == subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def test_settings_survive_the_way_to_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    # given settings of every kind
    given = load_settings(tasks="a,b", queues="x", lease="1500ms", smtp_starttls=False, concurrency=3)

    # when they are put into an environment and read from there
    for name, text in environment_of(given).items():
        monkeypatch.setenv(name, text)

    # then they are the same
    assert given == load_settings()
