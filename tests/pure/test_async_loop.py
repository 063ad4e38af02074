"""The event loop that runs async handlers: many at once, each with its own limit, cancel and slot."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest

from nexusq_sdk.protocol.words import Status
from nexusq_sdk.tasks import task
from nexusq_server.async_loop import AsyncExecutor
from tests.pure import executor_handlers as handlers
from tests.pure.executor_harness import MAX_RESULT, Ends, claimed, event, handler, id_of, run, value, wait_idle

SHORT = timedelta(seconds=0.05)
_names = itertools.count()


@pytest.fixture
def ends() -> Ends:
    return Ends()


@pytest.fixture
def loop(ends: Ends) -> Iterator[AsyncExecutor]:
    executor = AsyncExecutor(3, ends.slots, 0, ends, MAX_RESULT)
    yield executor
    executor.stop()
    assert executor.join(30)


def sleeping(loop: AsyncExecutor, swallow: bool = False) -> str:
    """Start a task that sleeps; give its id once it does."""
    name = f"async-{next(_names)}"
    started = event(name)
    one = claimed(handlers.nap, started=name, swallow=swallow)
    loop.start(one, handler(handlers.nap), None)
    assert started.wait(30)
    return id_of(one)


def test_a_coroutine_knows_the_task_that_it_runs(loop: AsyncExecutor, ends: Ends) -> None:
    # given several tasks at once
    several = [claimed(handlers.who_async) for _ in range(20)]
    for one in several:
        loop.start(one, handler(handlers.who_async), None)

    # then each was told its own id, and had a slot of its own as its outcome was told
    assert [id_of(one) for one in several] == [value(ends.of(one))["id"] for one in several]
    assert all(id_of(one) in ends.ran_at_end[id_of(one)] for one in several)
    wait_idle(loop)
    assert [] == ends.slots.running()


def test_tasks_run_at_the_same_time_up_to_the_number_of_places(loop: AsyncExecutor, ends: Ends) -> None:
    # given as many sleepers as there are places, and one more
    sleepers = [sleeping(loop) for _ in range(3)]
    one = claimed(handlers.who_async)
    loop.start(one, handler(handlers.who_async), None)

    # then all of them run but the last, which starts once a place is free
    assert sorted(sleepers) == sorted(loop.running()) == sorted(ends.slots.running())
    assert (0, 4) == (loop.free(), loop.in_hand())
    assert id_of(one) not in ends.ended
    assert loop.cancel(sleepers[0])
    assert Status.COMPLETED is ends.of(one).status
    for sleeper in sleepers[1:]:
        assert loop.cancel(sleeper)
    wait_idle(loop)


def test_a_coroutine_that_runs_out_of_time_fails(loop: AsyncExecutor, ends: Ends) -> None:
    ended = run(loop, ends, handlers.nap, SHORT)

    assert (Status.FAILED, "TimeLimitExceeded") == (ended.status, value(ended)["type"])
    assert "time limit of 0.05 s" in value(ended)["message"]
    assert "TimeoutError" in ended.kinds


def test_a_timeout_of_the_handlers_own_is_not_taken_for_the_limit(loop: AsyncExecutor, ends: Ends) -> None:
    ended = run(loop, ends, handlers.own_timeout, timedelta(seconds=60))

    assert ("TimeoutError", "mine") == (value(ended)["type"], value(ended)["message"])


def test_a_coroutine_that_swallows_its_limit_goes_on(loop: AsyncExecutor, ends: Ends) -> None:
    assert "to the end" == value(run(loop, ends, handlers.nap, SHORT, swallow=True))


def test_a_running_coroutine_is_cancelled(loop: AsyncExecutor, ends: Ends) -> None:
    # given a sleeping one
    sleeper = sleeping(loop)

    # when it is cancelled
    assert loop.cancel(sleeper)
    wait_idle(loop)

    # then it ended so, and there is nothing more to cancel
    assert Status.CANCELLED is ends.ended[sleeper].status
    assert not loop.cancel(sleeper)


def test_a_cancel_right_after_the_start_loses_no_task(loop: AsyncExecutor, ends: Ends) -> None:
    # when tasks are cancelled before, while or after they begin
    given = [claimed(handlers.who_async) for _ in range(500)]
    for one in given:
        loop.start(one, handler(handlers.who_async), None)
        loop.cancel(id_of(one))
    wait_idle(loop)

    # then each ended once, in one way or the other
    assert {id_of(one) for one in given} == set(ends.ended)
    assert {ended.status for ended in ends.ended.values()} <= {Status.CANCELLED, Status.COMPLETED}


def test_a_task_that_is_cancelled_before_its_first_step_ends_as_cancelled(loop: AsyncExecutor, ends: Ends) -> None:
    # given a handler that holds the loop up
    started, go_on = event("block-started"), event("block-go-on")
    loop.start(claimed(handlers.block, started="block-started", go_on="block-go-on"), handler(handlers.block), None)
    assert started.wait(30)

    # when a task is begun and cancelled in one go behind it
    one = claimed(handlers.who_async)
    loop.start(one, handler(handlers.who_async), None)
    loop._queued, queued = {}, loop._queued  # taken by the loop already, as far as cancel can see
    assert loop.cancel(id_of(one))
    loop._queued = queued
    go_on.set()

    # then it ends all the same
    assert Status.CANCELLED is ends.of(one).status


def test_what_has_not_started_is_taken_back_and_the_loop_ends_after_the_rest(loop: AsyncExecutor, ends: Ends) -> None:
    # given all places taken, tasks behind them, and a loop that is to end
    sleepers = [sleeping(loop) for _ in range(3)]
    waiting = [claimed(handlers.who_async) for _ in range(2)]
    for one in waiting:
        loop.start(one, handler(handlers.who_async), None)
    loop.stop()
    assert not loop.join(0)

    # when the sleepers are cancelled and what waits is taken back
    back = loop.take_back()
    for sleeper in sleepers:
        loop.cancel(sleeper)

    # then the loop ends, and nothing that was taken back has run
    assert loop.join(30)
    assert [id_of(one) for one in waiting] == [id_of(one) for one in back]
    assert set(sleepers) == set(ends.ended)


def test_an_exception_is_told_without_the_loops_frames(loop: AsyncExecutor, ends: Ends) -> None:
    @task("BREAK_ASYNC")
    async def broken() -> None:
        raise KeyError("x")

    ended = run(loop, ends, broken)

    assert ("KeyError", "builtins.KeyError") == (value(ended)["type"], ended.kinds[0])
    assert "nexusq_server" not in value(ended)["traceback"]


def test_a_payload_that_does_not_fit_is_hopeless(loop: AsyncExecutor, ends: Ends) -> None:
    assert run(loop, ends, handlers.nap, wrong=1).hopeless


def test_what_was_taken_but_has_not_begun_does_not_start_once_the_lease_has_run_out(
    loop: AsyncExecutor, ends: Ends
) -> None:
    held, go = threading.Event(), threading.Event()

    @task("BLOCKS")
    async def blocks() -> None:
        held.set()
        assert go.wait(30)

    @task("OUTLASTS")
    async def outlasts() -> None:
        ends.slots.renew(0.0, anew=False)  # as if the process had been stopped for longer than its lease lasts

    # given two tasks that the loop takes in one turn, and a lease that runs out before the second one begins
    first, second = claimed(outlasts), claimed(outlasts)
    loop.start(claimed(blocks), handler(blocks), None)
    assert held.wait(30)
    for one in (first, second):
        loop.start(one, handler(outlasts), None)
    go.set()

    # then that one is not started, and given up
    assert Status.COMPLETED is ends.of(first).status
    wait_idle(loop)
    assert [second] == loop.lapsed()
    assert id_of(second) not in ends.ended
    assert 3 == loop.free()
