"""Threads that run handlers: limits and cancels arrive inside the handler, never in the executor or the next task."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from nexusq_sdk.protocol.words import Status
from nexusq_sdk.tasks import current_task, task
from nexusq_server.executors import ThreadExecutor
from tests.pure import executor_handlers as handlers
from tests.pure.executor_harness import MAX_RESULT, Ends, claimed, event, handler, id_of, run, value, wait_idle

SHORT = timedelta(seconds=0.05)
_names = itertools.count()


@pytest.fixture
def ends() -> Ends:
    return Ends()


@pytest.fixture
def threads(ends: Ends) -> Iterator[ThreadExecutor]:
    executor = ThreadExecutor(2, ends.slots, 0, ends, MAX_RESULT)
    yield executor
    executor.stop()
    assert executor.join(30)


@pytest.fixture
def signals() -> tuple[str, str]:
    """Name two new events: the first is set once the handler runs, the second lets it go on."""
    names = (f"started-{next(_names)}", f"go-on-{next(_names)}")
    for name in names:
        event(name)
    return names


def test_a_handler_knows_the_task_that_it_runs(threads: ThreadExecutor, ends: Ends) -> None:
    # given a task
    one = claimed(handlers.who)

    # when it runs
    threads.start(one, handler(handlers.who))
    ended = ends.of(one)

    # then it was told its id, type and attempt, and not that it is cancelled
    told = value(ended)
    assert Status.COMPLETED is ended.status
    assert {"id": id_of(one), "type": "WHO", "attempt": 1, "cancelled": False}.items() <= told.items()


def test_outside_of_a_handler_there_is_no_current_task() -> None:
    with pytest.raises(RuntimeError, match="expected current_task\\(\\) to be called by a handler"):
        current_task()


def test_the_outcome_is_told_before_the_slot_is_emptied(threads: ThreadExecutor, ends: Ends) -> None:
    # given a task that runs in a slot
    one = claimed(handlers.who)

    # when it ends
    threads.start(one, handler(handlers.who))
    ends.of(one)
    wait_idle(threads)

    # then the slot still named it as the outcome was told, and no longer does
    assert [id_of(one)] == ends.ran_at_end[id_of(one)]
    assert [] == ends.slots.running()
    assert [] == threads.running()


def test_a_handler_that_runs_out_of_time_is_interrupted_and_fails(threads: ThreadExecutor, ends: Ends) -> None:
    # when a handler runs longer than its limit
    ended = run(threads, ends, handlers.spinning, SHORT)

    # then it failed as out of time, which says the limit, and can be named in retry_on as what it is and derives from
    assert Status.FAILED is ended.status
    assert "TimeLimitExceeded" == value(ended)["type"]
    assert "expected the task to end within its time limit of 0.05 s, it ran on" == value(ended)["message"]
    assert "spin" in value(ended)["traceback"]
    assert {"nexusq_sdk.tasks.TimeLimitExceeded", "TimeoutError", "Exception"} <= set(ended.kinds)
    assert ended.finished_us - ended.started_us < 5_000_000


def test_the_limits_of_many_tasks_hold_each_by_itself(threads: ThreadExecutor, ends: Ends, signals: Any) -> None:
    # given a task with a long limit that waits, and behind it tasks with shorter and shorter ones
    started, go_on = signals
    patient = claimed(handlers.wait, started=started, go_on=go_on)
    threads.start(patient, handler(handlers.wait), timedelta(seconds=60))
    assert event(started).wait(30)

    # when they run beside it
    others = [run(threads, ends, handlers.spinning, SHORT / divisor) for divisor in (1, 2, 5)]

    # then they ran out of time and the patient one did not
    assert ["TimeLimitExceeded"] * 3 == [value(ended)["type"] for ended in others]
    event(go_on).set()
    assert "waited" == value(ends.of(patient))


def test_a_handler_may_catch_the_limit_and_give_what_it_has(threads: ThreadExecutor, ends: Ends, signals: Any) -> None:
    ended = run(threads, ends, handlers.tidy, SHORT, started=signals[0])

    assert (Status.COMPLETED, "in time") == (ended.status, value(ended))


def test_a_handler_that_swallows_everything_goes_on(threads: ThreadExecutor, ends: Ends, signals: Any) -> None:
    # given a handler that swallowed its limit and goes on
    started, go_on = signals
    one = claimed(handlers.stubborn, started=started, go_on=go_on)
    threads.start(one, handler(handlers.stubborn), SHORT)
    assert event(started).wait(30)

    # when it returns in its own time
    event(go_on).set()

    # then its result counts
    assert "went on after TimeLimitExceeded" == value(ends.of(one))


@pytest.mark.parametrize("function", [handlers.stubborn, handlers.clumsy])
def test_a_running_task_that_is_cancelled_is_interrupted(
    function: Any, threads: ThreadExecutor, ends: Ends, signals: Any
) -> None:
    # given a running task
    started, go_on = signals
    payload = {"started": started} | ({"go_on": go_on} if function is handlers.stubborn else {})
    one = claimed(function, **payload)
    threads.start(one, handler(function))
    assert event(started).wait(30)
    assert [id_of(one)] == threads.running()

    # when it is cancelled
    assert threads.cancel(id_of(one))
    event(go_on).set()

    # then it ends as cancelled whatever it raises on its way out, unless it swallows that and returns
    ended = ends.of(one)
    if function is handlers.clumsy:
        assert (Status.CANCELLED, "TaskCancelled") == (ended.status, value(ended)["type"])
    else:
        assert (Status.COMPLETED, "went on after Cancelled") == (ended.status, value(ended))


def test_the_flag_is_live_in_a_running_handler(threads: ThreadExecutor, ends: Ends, signals: Any) -> None:
    # given a running handler that asked for its task before
    one = claimed(handlers.watchful, started=signals[0])
    threads.start(one, handler(handlers.watchful))
    assert event(signals[0]).wait(30)

    # when the task is cancelled
    assert threads.cancel(id_of(one))

    # then what it holds says so
    assert "cancelled=True" == value(ends.of(one))


def test_a_task_that_is_not_in_hand_can_not_be_cancelled(threads: ThreadExecutor, ends: Ends) -> None:
    # given a task that has ended
    one = claimed(handlers.who)
    threads.start(one, handler(handlers.who))
    ends.of(one)
    wait_idle(threads)

    # then there is nothing to cancel
    assert not threads.cancel(id_of(one))


def fill(threads: ThreadExecutor, signals: Any) -> list[Any]:
    """Occupy both threads."""
    started, go_on = signals
    busy = [claimed(handlers.wait, started=started, go_on=go_on) for _ in range(2)]
    for one in busy:
        threads.start(one, handler(handlers.wait))
    while len(threads.running()) < 2:
        threads.wait_free(0.01)
    return busy


def test_a_task_that_has_not_started_is_cancelled_at_once(threads: ThreadExecutor, ends: Ends, signals: Any) -> None:
    # given a task behind two that occupy both threads
    fill(threads, signals)
    one = claimed(handlers.who)
    threads.start(one, handler(handlers.who))

    # when it is cancelled
    assert threads.cancel(id_of(one))

    # then it has ended already, and is no longer in hand
    assert Status.CANCELLED is ends.ended[id_of(one)].status
    assert 2 == threads.in_hand()
    event(signals[1]).set()
    wait_idle(threads)


def test_what_has_not_started_can_be_taken_back_in_its_order(threads: ThreadExecutor, ends: Ends, signals: Any) -> None:
    # given tasks behind two that occupy both threads
    busy = fill(threads, signals)
    waiting = [claimed(handlers.who) for _ in range(5)]
    for one in waiting:
        threads.start(one, handler(handlers.who))

    # when they are taken back
    back = threads.take_back()

    # then they are those that waited, none of them ever runs, and only the running ones are in hand
    assert [id_of(one) for one in waiting] == [id_of(one) for one in back]
    assert 2 == threads.in_hand()
    event(signals[1]).set()
    wait_idle(threads)
    assert {id_of(one) for one in busy} == set(ends.ended)


def test_a_task_that_was_taken_back_can_be_started_again(threads: ThreadExecutor, ends: Ends, signals: Any) -> None:
    # given a task that was taken back while both threads were busy
    fill(threads, signals)
    one = claimed(handlers.who)
    threads.start(one, handler(handlers.who))
    threads.take_back()

    # when it is started again
    threads.start(one, handler(handlers.who))
    event(signals[1]).set()

    # then it runs, once
    assert Status.COMPLETED is ends.of(one).status
    wait_idle(threads)


def test_taking_back_while_threads_take_loses_nothing_and_runs_nothing_twice(
    threads: ThreadExecutor, ends: Ends
) -> None:
    # given many quick tasks under way
    given = [claimed(handlers.who) for _ in range(3000)]
    back: list[str] = []

    # when what waits is taken back again and again meanwhile
    for index, one in enumerate(given):
        threads.start(one, handler(handlers.who))
        if index % 50 == 49:
            back += map(id_of, threads.take_back())
    wait_idle(threads)

    # then each one either ended once or was given back once
    assert sorted(map(id_of, given)) == sorted([*ends.order, *back])


def test_free_counts_threads_and_what_is_in_hand(threads: ThreadExecutor, ends: Ends, signals: Any) -> None:
    # given both threads free
    assert 2 == threads.free()

    # when they are occupied
    fill(threads, signals)

    # then nothing is free until they end
    assert 0 == threads.free()
    assert not threads.idle()
    event(signals[1]).set()
    wait_idle(threads)
    assert threads.free() >= 2


@task("SWIFT")
def swift(seconds: float) -> str:
    handlers.spin(seconds)
    return "done"


def test_no_late_limit_or_cancel_hits_the_executor_or_the_next_task(ends: Ends) -> None:
    # given tasks whose limits and cancels fall about where their handlers end
    threads = ThreadExecutor(4, ends.slots, 0, ends, MAX_RESULT)
    rng = random.Random(4)
    given = []

    # when many of them run, with harmless ones in between
    for index in range(1200):
        seconds = rng.choice([0.0, 0.0005, 0.001])
        one = claimed(swift, seconds=seconds) if index % 3 else claimed(handlers.who)
        limit = timedelta(seconds=max(1e-6, seconds + rng.uniform(-0.0005, 0.0005))) if index % 3 == 1 else None
        threads.start(one, handler(swift if index % 3 else handlers.who), limit)
        given.append((index % 3, one))
        if index % 3 == 2:
            threads.cancel(id_of(given[rng.randrange(max(0, len(given) - 6), len(given))][1]))
    wait_idle(threads)
    hurt = [thread for thread in threading.enumerate() if thread.name.startswith("handler-")]
    threads.stop()

    # then every task ended once, as what could happen to it, and all threads lived to the end
    assert 1200 == len(ends.order)
    assert len(hurt) >= 4
    for kind, one in given:
        ended = ends.ended[id_of(one)]
        if ended.status is Status.FAILED:
            assert kind == 1
            assert "TimeLimitExceeded" == value(ended)["type"]
    assert threads.join(30)


def test_a_retry_that_is_raised_carries_its_delay(threads: ThreadExecutor, ends: Ends) -> None:
    asked = run(threads, ends, handlers.again, delay=2.5)
    usual = run(threads, ends, handlers.again)

    assert ("Retry", "not yet") == (value(asked)["type"], value(asked)["message"])
    assert (timedelta(seconds=2.5), None) == (asked.retry_in, usual.retry_in)
    assert "nexusq_sdk.tasks.Retry" in asked.kinds


def test_an_exception_is_told_with_its_kinds_and_without_the_executors_frames(
    threads: ThreadExecutor, ends: Ends
) -> None:
    ended = run(threads, ends, handlers.raising, message="no.csv")

    assert ("FileNotFoundError", "no.csv") == (value(ended)["type"], value(ended)["message"])
    assert ("builtins.FileNotFoundError", "FileNotFoundError", "builtins.OSError", "OSError") == ended.kinds[:4]
    assert "nexusq_server" not in value(ended)["traceback"]
    assert not ended.hopeless


def test_a_payload_that_does_not_fit_is_hopeless(threads: ThreadExecutor, ends: Ends) -> None:
    ended = run(threads, ends, handlers.raising, wrong=1)

    assert ("InvalidPayload", True) == (value(ended)["type"], ended.hopeless)


def test_a_result_that_is_too_large_is_refused_by_its_size(threads: ThreadExecutor, ends: Ends) -> None:
    ended = run(threads, ends, handlers.big, kib=9)

    assert "ResultTooLarge" == value(ended)["type"]
    assert "at most 8 KiB as JSON (NEXUSQ_MAX_RESULT_KIB), got 9 KiB" in value(ended)["message"]


def test_ctrl_c_raised_by_a_handler_ends_its_task_alone(threads: ThreadExecutor, ends: Ends) -> None:
    @task("EXIT")
    def leave() -> None:
        raise SystemExit("bye")

    assert "SystemExit" == value(run(threads, ends, leave))["type"]
    assert Status.COMPLETED is run(threads, ends, handlers.who).status
