"""What a handler raised, on this side: of the same built-in type, with the worker's words, as good as any exception."""

from __future__ import annotations

import builtins
import copy
import json
import pickle
import sys
import traceback
from datetime import UTC, datetime, timedelta

import pytest

from nexusq_sdk.errors import (
    BatchFailed,
    NexusQError,
    ResultsExpireSoon,
    TaskFailed,
    batch_failed,
    bounded,
    task_failed,
)
from nexusq_sdk.handles import warn_if_soon

TRACE = 'Traceback (most recent call last):\n  File "h.py", line 1, in f\nValueError: no luck\n'
BUILTIN = sorted(
    name
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, BaseException) and not name.startswith("_")  # Python's own affair
)
#: They would end programs, generators or cells, or want more than a message.
NEVER = {"BaseException", "BaseExceptionGroup", "SystemExit", "KeyboardInterrupt", "GeneratorExit"}
NEAREST = {
    "ExceptionGroup": Exception,
    "StopIteration": Exception,
    "StopAsyncIteration": Exception,
    "SyntaxError": Exception,
    "IndentationError": Exception,
    "TabError": Exception,
}


def failure(error_type: str, message: str = "no luck") -> TaskFailed:
    return task_failed("t-1", error_type, message, TRACE)


@pytest.mark.parametrize("name", BUILTIN)
def test_a_failure_is_also_of_the_builtin_type_that_was_raised_or_the_nearest_that_fits(name: str) -> None:
    error = failure(name)

    assert isinstance(error, TaskFailed)
    if name in NEVER:
        assert not isinstance(error, getattr(builtins, name)) or name == "BaseException"
    else:
        assert isinstance(error, NEAREST.get(name, getattr(builtins, name)))
    assert f"task t-1 failed: {name}: no luck" == str(error)
    assert (name, "no luck", "t-1") == (error.error_type, error.remote_message, error.task_id)
    assert "TaskFailed" == type(error).__name__


@pytest.mark.parametrize("name", [*BUILTIN, "json.decoder.JSONDecodeError", "no.such.Error", ""])
def test_a_failure_can_be_raised_shown_copied_and_pickled(name: str) -> None:
    error = failure(name)
    for made in (error, copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        with pytest.raises(TaskFailed) as caught:
            raise made
        assert type(error) is type(caught.value)
        assert str(error) == str(caught.value)
        assert vars(error) == vars(caught.value)
        shown = "".join(traceback.format_exception(caught.value))
        assert 1 == shown.count("On the worker:\nTraceback (most recent call last):")


def test_the_class_is_made_once_and_kept() -> None:
    assert type(failure("ValueError")) is type(failure("ValueError"))
    assert type(failure("Whatever")) is TaskFailed


def test_a_class_of_a_loaded_module_counts_as_what_it_derives_from_and_nothing_is_imported_to_find_out() -> None:
    assert json.JSONDecodeError.__mro__[1] is ValueError
    assert isinstance(failure("json.decoder.JSONDecodeError"), ValueError)
    assert isinstance(failure("nexusq_sdk.tasks.TimeLimitExceeded"), TimeoutError)
    assert isinstance(failure("TimeLimitExceeded"), TimeoutError)
    sys.modules.pop("antigravity", None)
    assert type(failure("antigravity.FlightError")) is TaskFailed
    assert "antigravity" not in sys.modules
    for no_class in ("json.loads", "os.environ", "print", "ValueError.__init__"):
        assert type(failure(no_class)) is TaskFailed


def test_a_failure_shows_its_row_and_as_much_of_the_payload_as_can_be_read() -> None:
    error = task_failed("t-1", "ValueError", "", TRACE, label="bob", payload='{"a": "' + 1000 * "x" + '"}')

    shown = "".join(traceback.format_exception(error))
    assert "task t-1 failed: ValueError\n" in shown
    assert 'The row \'bob\': {"a": "xxx' in shown
    assert "... (1,009 characters)" in shown
    assert "bob" == error.label


def test_one_failure_of_a_batch_is_raised_as_it_is() -> None:
    error = failure("KeyError")

    assert error is batch_failed("b", 10, [error], {"KeyError": 1})


def test_many_failures_are_one_error_with_a_traceback_and_a_count_for_each_kind() -> None:
    error = batch_failed("b", 1200, [failure("KeyError"), failure("IndexError")], {"KeyError": 2, "IndexError": 1000})

    assert isinstance(error, BatchFailed)
    assert isinstance(error, LookupError)  # what both have in common
    assert not isinstance(error, KeyError)
    said = ["1,002 of 1,200 tasks of batch b failed:", "  1,000 × IndexError: no luck", "  2 × KeyError: no luck"]
    assert said == str(error).splitlines()
    shown = "".join(traceback.format_exception(error))
    assert 2 == shown.count("On the worker:")
    assert "1,000 × IndexError, the first of them: task t-1 failed" in shown
    assert {"KeyError": 2, "IndexError": 1000} == error.counts
    again = pickle.loads(pickle.dumps(error))
    assert (type(error), str(error), error.counts) == (type(again), str(again), again.counts)
    assert isinstance(again, NexusQError)


def test_kinds_beyond_what_can_be_read_are_counted_only() -> None:
    kinds = [failure(f"app.Error{number}") for number in range(15)]

    error = batch_failed("b", 15, kinds, {kind.error_type: 1 for kind in kinds})

    shown = "".join(traceback.format_exception(error))
    assert 10 == shown.count("On the worker:")
    assert "... and 5 more kinds" in shown


def test_a_text_is_cut_where_it_gets_too_long() -> None:
    assert ("abc", "ab... (3 characters)") == (bounded("abc", 3), bounded("abc", 2))


@pytest.mark.parametrize(
    ("kept", "left", "warns"),
    [
        (timedelta(days=1), timedelta(minutes=59), "58 min 59 s|59 min 0 s"),
        (timedelta(days=1), timedelta(hours=2), ""),
        (timedelta(minutes=10), timedelta(minutes=2), "1 min 59 s|2 min 0 s"),
        (timedelta(minutes=10), timedelta(minutes=5), ""),
        (timedelta(seconds=30), timedelta(seconds=1), ""),  # whoever asked for so little knows
        (timedelta(days=1), timedelta(seconds=-1), ""),  # they have expired, which is told otherwise
    ],
)
def test_results_warn_when_they_expire_soon(kept: timedelta, left: timedelta, warns: str) -> None:
    expires = datetime.now(UTC) + left

    if warns:
        with pytest.warns(ResultsExpireSoon, match=f"the results of batch b are kept for ({warns})") as warned:
            warn_if_soon("batch b", expires - kept, expires)
        assert __file__ == warned[0].filename  # where it was asked for, not inside the SDK
    else:
        warn_if_soon("batch b", expires - kept, expires)
