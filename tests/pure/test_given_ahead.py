"""A child has its next tasks at hand while they are short: none is lost, run twice or charged for what befell another.

`jot` writes a line when it begins: what the file has is what has run.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from nexusq_sdk.protocol.words import Status
from nexusq_server.process_pool import HAND_TASKS, ProcessExecutor
from nexusq_server.slots import Slots
from nexusq_server.work import Claimed
from tests.conftest import eventually
from tests.pure import executor_handlers as handlers
from tests.pure.executor_harness import Ends, claimed, handler, run, value, wait_idle
from tests.pure.test_process_pool import ENVIRONMENT, wait_gone

#: So many that a child has all that it may have at hand, and others wait.
MANY = 4 * HAND_TASKS
#: More than a pipe holds.
LARGEST = 100_000


class Jots:
    """A pool, and a file that says what has run on it."""

    def __init__(self, path: Path, ends: Ends, pool: ProcessExecutor) -> None:
        self.path = path
        self.ends = ends
        self.pool = pool
        self._words = itertools.count()

    def start(
        self, function: Callable[..., Any] = handlers.jot, limit: timedelta | None = None, **more: Any
    ) -> Claimed:
        task = claimed(function, path=str(self.path), word=str(next(self._words)), **more)
        self.pool.start(task, handler(function), limit)
        return task

    def many(self, count: int = MANY) -> list[Claimed]:
        return [self.start() for _ in range(count)]

    def warm_up(self) -> None:
        """Let it learn that tasks are short, so that it gives ahead."""

        def short() -> None:
            for task in self.many(50):
                self.ends.of(task)
            wait_idle(self.pool)
            assert self.pool.free() > 100 * self.pool.places

        eventually(short)
        self.path.unlink()

    def begin(self, tmp_path: Path) -> tuple[Claimed, list[Claimed], Path]:
        """Give a task that has begun, those behind it, at hand or not, and the file that it waits for."""
        gate, go_on = tmp_path / "gate", tmp_path / "go_on"
        first = self.start(handlers.jot_and_wait, until=str(gate))
        head, rest = self.start(handlers.jot_and_wait, until=str(go_on)), self.many()
        gate.touch()
        self.ends.of(first)
        self.wait_ran(head)
        self.path.write_text(f"{word(head)}\n")
        return head, rest, go_on

    def ran(self) -> list[str]:
        return self.path.read_text().split() if self.path.exists() else []

    def wait_ran(self, task: Claimed) -> None:
        def begun() -> None:
            assert word(task) in self.ran()

        eventually(begun)


def word(task: Claimed) -> str:
    return str(json.loads(bytes(task.received.record.payload))["word"])


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[int], Jots]]:
    made: list[Jots] = []

    def make(processes: int) -> Jots:
        ends = Ends()
        pool = ProcessExecutor(processes, ends.slots, 0, ends, LARGEST, environment=ENVIRONMENT)
        made.append(Jots(tmp_path / "jots", ends, pool))
        made[-1].warm_up()
        return made[-1]

    yield make
    for jots in made:
        jots.pool.stop()
        assert jots.pool.join(30)


def test_a_death_is_charged_to_what_ran_alone_and_the_rest_runs_once(make: Callable[[int], Jots]) -> None:
    # given many short tasks, one of which takes its process down
    jots = make(1)
    before = jots.many()
    deadly = jots.start(handlers.jot_and_die)
    after = jots.many()

    # when all have ended
    ended = [jots.ends.of(task) for task in (*before, *after)]

    # then it alone has failed, and each has run once
    assert "WorkerLost" == value(jots.ends.of(deadly))["type"]
    assert {Status.COMPLETED} == {end.status for end in ended}
    assert sorted(map(word, [*before, deadly, *after])) == sorted(jots.ran())


def test_what_is_at_hand_behind_a_long_task_runs_elsewhere(make: Callable[[int], Jots], tmp_path: Path) -> None:
    # given two children, and a long task among short ones
    jots, go_on = make(2), tmp_path / "go_on"
    before = jots.many()
    long = jots.start(handlers.jot_and_wait, until=str(go_on))
    after = jots.many()

    # then all others end while it runs
    for task in (*before, *after):
        jots.ends.of(task)
    assert [long.id] == jots.pool.running()

    # ... each once
    go_on.touch()
    assert Status.COMPLETED is jots.ends.of(long).status
    assert sorted(map(word, [*before, long, *after])) == sorted(jots.ran())


def test_a_task_at_hand_is_cancelled_at_once_and_never_begins(make: Callable[[int], Jots], tmp_path: Path) -> None:
    # given a task that runs, and others that its child has at hand
    jots = make(1)
    head, rest, _ = jots.begin(tmp_path)

    # when the next one is cancelled, and then the one that runs
    assert jots.pool.cancel(rest[0].id)
    assert Status.CANCELLED is jots.ends.of(rest[0]).status
    assert jots.pool.cancel(head.id)

    # then neither ends otherwise, and all others run, once
    assert Status.CANCELLED is jots.ends.of(head).status
    assert {Status.COMPLETED} == {jots.ends.of(task).status for task in rest[1:]}
    assert sorted(map(word, [head, *rest[1:]])) == sorted(jots.ran())


def test_what_is_at_hand_behind_a_cancelled_task_runs_once(make: Callable[[int], Jots], tmp_path: Path) -> None:
    # given a task that runs, and others that its child has at hand
    jots = make(1)
    head, rest, _ = jots.begin(tmp_path)

    # when the one that runs is cancelled, which kills the child
    assert jots.pool.cancel(head.id)

    # then it ends as cancelled, and the others run
    assert Status.CANCELLED is jots.ends.of(head).status
    assert {Status.COMPLETED} == {jots.ends.of(task).status for task in rest}
    assert sorted(map(word, [head, *rest])) == sorted(jots.ran())


def test_what_is_at_hand_can_be_taken_back(make: Callable[[int], Jots], tmp_path: Path) -> None:
    # given a task that runs, and others that its child has at hand
    jots = make(1)
    head, rest, go_on = jots.begin(tmp_path)

    # when all is taken back that has not begun
    back = jots.pool.take_back()

    # then that is all but the one that runs, and nothing else begins
    assert {task.id for task in rest} == {task.id for task in back}
    go_on.touch()
    assert Status.COMPLETED is jots.ends.of(head).status
    wait_idle(jots.pool)
    assert [word(head)] == jots.ran()

    # ... nor do they in the way of what comes next
    later = jots.many()
    assert {Status.COMPLETED} == {jots.ends.of(task).status for task in later}
    assert sorted(map(word, [head, *later])) == sorted(jots.ran())


def test_nothing_at_hand_begins_once_its_lease_has_run_out(make: Callable[[int], Jots], tmp_path: Path) -> None:
    # given a task that runs, and others that its child has at hand
    jots = make(1)
    head, rest, go_on = jots.begin(tmp_path)

    # when the lease under which they were claimed is over, before the first one ends
    jots.ends.slots.renew(float("inf"), anew=True)
    go_on.touch()

    # then none of them begins: they may be another worker's
    assert Status.COMPLETED is jots.ends.of(head).status
    wait_idle(jots.pool)
    assert {task.id for task in rest} == {task.id for task in jots.pool.lapsed()}
    assert [word(head)] == jots.ran()


def test_what_a_frozen_child_was_given_is_run_once_it_goes_on(make: Callable[[int], Jots]) -> None:
    # given a child that is frozen before it begins what it was given
    jots = make(1)
    child = value(run(jots.pool, jots.ends, handlers.who))["pid"]
    wait_idle(jots.pool)
    os.kill(child, signal.SIGSTOP)
    tasks = jots.many()

    # when one of them is cancelled
    assert jots.pool.cancel(tasks[1].id)

    # then it alone has ended, and the others run once the child goes on
    assert Status.CANCELLED is jots.ends.of(tasks[1]).status
    assert [] == jots.ran()
    os.kill(child, signal.SIGCONT)
    others = [tasks[0], *tasks[2:]]
    assert {Status.COMPLETED} == {jots.ends.of(task).status for task in others}
    assert sorted(map(word, others)) == sorted(jots.ran())


def test_a_task_with_a_limit_has_its_turn_and_its_limit_among_others(make: Callable[[int], Jots]) -> None:
    # given short tasks, and among them one with a limit that is too long for it, and one that keeps to it
    jots = make(1)
    before = jots.many()
    late = jots.start(limit=timedelta(seconds=0.2), seconds=30)
    between = jots.many()
    punctual = jots.start(limit=timedelta(seconds=20))
    after = jots.many()

    # then that one alone fails, and each has run once
    assert "TimeLimitExceeded" == value(jots.ends.of(late))["type"]
    others = [*before, *between, punctual, *after]
    assert {Status.COMPLETED} == {jots.ends.of(task).status for task in others}
    assert sorted(map(word, [*others, late])) == sorted(jots.ran())


def test_large_payloads_and_results_pass_among_small_ones(make: Callable[[int], Jots]) -> None:
    # given tasks whose payloads or results do not fit into a pipe, and small ones, in any order
    jots, rng = make(1), random.Random(1)
    tasks = []
    for number in range(2 * MANY):
        kind = rng.choice(["small", "payload", "result"])
        text = f"{number} {'x' * (LARGEST - 99 if kind == 'result' else 0)}"
        pad = "x" * (3 * LARGEST if kind == "payload" else 0)
        tasks.append(claimed(handlers.jot, path=str(jots.path), word=text, pad=pad))
        jots.pool.start(tasks[-1], handler(handlers.jot))

    # then all end
    assert {Status.COMPLETED} == {jots.ends.of(task).status for task in tasks}


@pytest.mark.parametrize("seed", range(4))
def test_whatever_befalls_each_task_ends_once_and_as_it_should(
    seed: int, make: Callable[[int], Jots], tmp_path: Path
) -> None:
    # given tasks of all sorts in any order, some of which are cancelled meanwhile
    rng, jots = random.Random(seed), make(2)
    deadly, cancelled, late, tasks = set(), set(), set(), []
    for _ in range(200):
        sort = rng.choices(["short", "slow", "deadly", "late", "limited"], [80, 6, 3, 1, 10])[0]
        if sort == "deadly":
            tasks.append(jots.start(handlers.jot_and_die))
            deadly.add(tasks[-1])
        elif sort == "late":
            tasks.append(jots.start(limit=timedelta(seconds=0.02), seconds=30))
            late.add(tasks[-1])
        elif sort == "limited":
            tasks.append(jots.start(limit=timedelta(seconds=20)))
        else:
            tasks.append(jots.start(seconds=rng.choice([0.05, 0.15]) if sort == "slow" else 0.0))
        if rng.random() < 0.1:
            task = rng.choice(tasks)
            if jots.pool.cancel(task.id):
                cancelled.add(task)

    # when all have ended (none twice: that is looked at where they are told)
    ends = {task: jots.ends.of(task) for task in tasks}
    wait_idle(jots.pool)

    # then each did as itself, and none ran more than once
    for task, end in ends.items():
        failed = "WorkerLost" if task in deadly else "TimeLimitExceeded" if task in late else None
        if task not in cancelled or end.status is not Status.CANCELLED:
            assert (Status.FAILED if failed else Status.COMPLETED) is end.status, end
            assert failed is None or failed == value(end)["type"]
    ran = jots.ran()
    assert len(ran) == len(set(ran))
    assert {word(task) for task, end in ends.items() if end.status is not Status.CANCELLED} <= set(ran)


def test_when_its_parent_is_killed_the_slots_name_what_had_begun_alone(tmp_path: Path) -> None:
    # given another process with a pool whose child has begun one task and has more at hand
    path, slots = tmp_path / "jots", Slots(8)
    slots.renew(float("inf"), anew=False)
    program = f"""
import sys; sys.path[:0] = {sys.path!r}
import pathlib, threading
from tests.pure import executor_handlers as handlers, executor_harness as harness, test_given_ahead as ahead
from nexusq_server.process_pool import ProcessExecutor
from nexusq_server.slots import Slots
ends = harness.Ends()
ends.slots = Slots(8, {slots.fileno})
pool = ProcessExecutor(1, ends.slots, 0, ends, 9999, environment={ENVIRONMENT!r})
jots = ahead.Jots(pathlib.Path({str(path)!r}), ends, pool)
jots.warm_up()
child = harness.value(harness.run(jots.pool, ends, handlers.who))["pid"]
head, *_ = jots.begin(pathlib.Path({str(tmp_path)!r}))
print(head.id, child, flush=True)
threading.Event().wait()
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, pass_fds=[slots.fileno]
    )
    assert parent.stdout is not None
    with parent.stdout:
        head, child = parent.stdout.readline().split()

    # when that process is killed
    parent.kill()
    parent.wait()
    wait_gone(int(child))

    # then the page names that one
    assert [head] == slots.running()
    slots.close()
