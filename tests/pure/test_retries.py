"""Whether there is another attempt, and when: a submit wins over the handler, the handler over the server."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexusq_sdk.protocol.wire import Backoff, Options, TaskError
from nexusq_sdk.protocol.words import Status
from nexusq_sdk.tasks import Declaration, Retry, WorkerLost
from nexusq_server.retries import ASKED_TRIES, Policy, decide, longest_wait, policy_for
from nexusq_server.work import Ended, cancelled, completed, failed, kinds_of

RNG = random.Random(1)
SECOND = timedelta(seconds=1)
times = st.timedeltas(timedelta(0), timedelta(days=30))


def fault(error: type[BaseException] = ValueError, **more: Any) -> Ended:
    return failed(TaskError(type="E", message=""), 0, kinds=kinds_of(error), **more)


def tries_made(policy: Policy, ended: Ended) -> int:
    """Count the tries that a task gets which ends so every time."""
    tries = 1
    while decide(policy, tries, ended, RNG) is not None:
        tries += 1
    return tries


@given(attempts=st.integers(1, 50), error=st.sampled_from([ValueError, OSError, SystemExit, WorkerLost]))
def test_a_task_that_always_fails_is_tried_max_attempts_times(attempts: int, error: type[BaseException]) -> None:
    assert attempts == tries_made(Policy(max_attempts=attempts), fault(error))


@given(initial=times, cap=times, tries=st.integers(1, 10_000), seed=st.integers())
def test_the_wait_is_random_up_to_the_doubled_initial_and_never_beyond_the_cap(
    initial: timedelta, cap: timedelta, tries: int, seed: int
) -> None:
    # given any backoff
    policy = Policy(tries + 1, initial, cap)

    # when the wait after any number of tries is drawn
    wait = decide(policy, tries, fault(), random.Random(seed))

    # then it is within its bounds
    assert wait is not None
    assert timedelta(0) <= wait <= cap
    if tries < 20:
        assert wait <= initial * 2 ** (tries - 1)


def test_the_longest_wait_doubles_up_to_the_cap() -> None:
    policy = Policy(9, SECOND, 10 * SECOND)

    assert [1, 2, 4, 8, 10, 10] == [longest_wait(policy, tries).total_seconds() for tries in range(1, 7)]


def test_waits_are_spread_over_the_whole_time() -> None:
    # given many tasks that fail at the same time
    waits = [decide(Policy(9), 1, fault(), random.Random(seed)) for seed in range(1000)]

    # then they come back all over the first second, not together
    seconds = [wait.total_seconds() for wait in waits if wait is not None]
    assert min(seconds) < 0.05
    assert max(seconds) > 0.95
    assert 0.45 < sum(seconds) / 1000 < 0.55


@pytest.mark.parametrize(
    "ended",
    [completed(b"1", 0), cancelled(0), fault(hopeless=True), fault(Retry, hopeless=True)],
    ids=["completed", "cancelled", "hopeless", "hopeless retry"],
)
def test_what_can_not_end_otherwise_is_not_tried_again(ended: Ended) -> None:
    assert decide(Policy(9), 1, ended, RNG) is None


@given(delay=times)
def test_a_raised_retry_waits_exactly_as_long_as_it_asked(delay: timedelta) -> None:
    assert delay == decide(Policy(3), 1, fault(Retry, retry_in=delay), RNG)
    assert decide(Policy(3), 3, fault(Retry, retry_in=delay), RNG) is None


@pytest.mark.parametrize(
    ("declared", "options", "default", "tries"),
    [
        (None, None, Policy(), ASKED_TRIES),
        (None, None, Policy(4), 4),
        (Declaration("T", max_attempts=1), None, Policy(), 1),
        (Declaration("T", max_attempts=3), None, Policy(), 3),
        (Declaration("T", max_attempts=3), Options(max_attempts=1), Policy(), 1),
        (None, Options(max_attempts=15), Policy(), 15),
    ],
)
def test_a_raised_retry_has_ten_tries_unless_something_says_how_many(
    declared: Declaration | None, options: Options | None, default: Policy, tries: int
) -> None:
    assert tries == tries_made(policy_for(declared, options, default), fault(Retry))


@pytest.mark.parametrize(
    ("retry_on", "no_retry_on", "error", "again"),
    [
        (None, (), FileNotFoundError, True),
        (("OSError",), (), FileNotFoundError, True),
        (("builtins.OSError",), (), FileNotFoundError, True),
        (("FileNotFoundError",), (), OSError, False),
        ((), (), OSError, False),
        (None, ("OSError",), FileNotFoundError, False),
        (("FileNotFoundError",), ("OSError",), FileNotFoundError, False),
        (("OSError",), ("FileNotFoundError",), PermissionError, True),
        (("nexusq_sdk.tasks.WorkerLost",), (), WorkerLost, True),
        (("ValueError",), ("Exception",), Retry, True),
    ],
)
def test_exceptions_are_matched_by_any_of_their_classes_and_no_retry_wins(
    retry_on: tuple[str, ...] | None, no_retry_on: tuple[str, ...], error: type[BaseException], again: bool
) -> None:
    policy = Policy(5, retry_on=retry_on, no_retry_on=no_retry_on)

    assert again is (decide(policy, 1, fault(error), RNG) is not None)


def test_a_submit_wins_over_the_handler_and_the_handler_over_the_server() -> None:
    # given a server, a handler and a submit that each say something
    server = Policy(2, SECOND, 60 * SECOND)
    declared = Declaration(
        "T", max_attempts=3, backoff=(2 * SECOND, 9 * SECOND), retry_on=(OSError,), no_retry_on=(PermissionError,)
    )
    options = Options(max_attempts=7, backoff=Backoff(initial_seconds=0.5, cap_seconds=4))

    # when they are put together
    alone, handlers, all_three = (
        policy_for(None, None, server),
        policy_for(declared, Options(queue="x"), server),
        policy_for(declared, options, server),
    )

    # then the nearest to the task goes
    assert server == alone
    assert (3, 2 * SECOND, 9 * SECOND) == (handlers.max_attempts, handlers.backoff_initial, handlers.backoff_cap)
    assert (("builtins.OSError",), ("builtins.PermissionError",)) == (handlers.retry_on, handlers.no_retry_on)
    assert (7, SECOND / 2, 4 * SECOND) == (all_three.max_attempts, all_three.backoff_initial, all_three.backoff_cap)
    assert handlers.retry_on == all_three.retry_on


def test_names_of_an_exceptions_classes_run_from_the_most_derived_to_the_least() -> None:
    class Late(TimeoutError): ...

    kinds = kinds_of(Late)

    assert f"{__name__}.{Late.__qualname__}" == kinds[0]
    assert ("builtins.BaseException", "BaseException") == kinds[-2:]
    assert "object" not in kinds
    assert Status.FAILED is fault(Late).status
