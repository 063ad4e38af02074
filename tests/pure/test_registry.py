"""Handlers: parameters are the payload's fields, type hints its schema; what can't serve is refused by name."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nexusq_sdk import tasks
from nexusq_sdk.protocol.words import TASK_TYPE
from nexusq_server.registry import Handler, HandlerError, InvalidPayload, load_handlers


@dataclass
class Box:
    left: int
    top: int = 0


def handler(function: Callable[..., Any]) -> Handler:
    return Handler("T", function)


def test_the_payloads_fields_are_the_parameters_converted_by_their_hints() -> None:
    def crop(path: str, box: Box, *, when: datetime, times: int = 2) -> list[Any]:
        return [path, box.left, box.top, when.year, times]

    payload = b'{"path":"a.png","box":{"left":3},"when":"2026-01-02T03:04:05Z"}'

    assert ["a.png", 3, 0, 2026, 2] == json.loads(handler(crop).run(payload))


def test_a_positional_only_parameter_takes_the_whole_payload() -> None:
    def total(values: list[float], /) -> float:
        return sum(values)

    assert b"6.5" == handler(total).run(b"[1, 2, 3.5]")
    with pytest.raises(InvalidPayload, match="float"):
        handler(total).run(b'["a"]')


def test_fields_beyond_the_parameters_go_to_the_keywords_that_take_them() -> None:
    def collect(first: int, **others: Any) -> dict[str, Any]:
        return {"first": first, "others": others}

    answer = json.loads(handler(collect).run(b'{"first":1,"b":[2]}'))

    assert {"first": 1, "others": {"b": [2]}} == answer


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (b"{}", "missing required field `seconds`"),
        (b'{"seconds":"1"}', r"\$\.seconds"),
        (b'{"seconds":1,"minutes":2}', "minutes"),
        (b"3", "T: Expected `object`"),
    ],
)
def test_a_payload_that_does_not_fit_is_refused_by_field(payload: bytes, says: str) -> None:
    def wait(seconds: float) -> None: ...

    with pytest.raises(InvalidPayload, match=says):
        handler(wait).run(payload)


def test_the_schema_says_what_is_needed_and_refuses_what_is_unknown() -> None:
    def resize(path: str, width: int = 800) -> None:
        """Resize an image.

        At length.
        """

    described = handler(resize).described()

    assert "Resize an image." == described.description
    assert ["path"] == described.payload_schema["required"]
    assert {"type": "integer", "default": 800} == described.payload_schema["properties"]["width"]
    assert False is described.payload_schema["additionalProperties"]


def test_numpy_results_have_a_json_form() -> None:
    def means() -> dict[str, Any]:
        return {"mean": np.float64(0.5), "rows": np.arange(3), "n": np.int64(7)}

    assert {"mean": 0.5, "rows": [0, 1, 2], "n": 7} == json.loads(handler(means).run(b"{}"))


def test_a_result_without_a_json_form_is_refused_by_its_type() -> None:
    def give() -> object:
        return {"x": object()}

    with pytest.raises(TypeError, match="expected the result of T to have a JSON form.*builtins.object"):
        handler(give).run(b"{}")


def test_a_mutable_default_is_the_functions_own() -> None:
    def keep(item: int, seen: list[int] = []) -> int:  # noqa: B006 - the very thing that is tested
        seen.append(item)
        return len(seen)

    one = handler(keep)

    assert (b"1", b"2") == (one.run(b'{"item":1}'), one.run(b'{"item":1}'))


def test_parameters_that_json_can_not_give_are_refused_at_the_start() -> None:
    def show(image: np.ndarray[Any, Any]) -> None: ...

    with pytest.raises(HandlerError, match="show.*expected parameters that can be read from JSON"):
        handler(show)


def test_an_async_handler_runs_on_the_loop_or_in_one_of_its_own() -> None:
    async def double(x: int) -> int:
        return 2 * x

    one = handler(double)

    assert "async" == one.executor
    assert (b"4", b"6") == (asyncio.run(one.run_async(b'{"x":2}')), one.run(b'{"x":3}'))
    with pytest.raises(InvalidPayload, match="missing required field"):
        asyncio.run(one.run_async(b"{}"))


def test_a_handler_carries_what_was_declared(modules: Callable[[str, str], str]) -> None:
    # given a module whose handler says where, how long and how often it runs
    name = modules(
        "mine_b",
        "from nexusq_sdk.tasks import task\n"
        "@task('A', executor='process', timeout=1.5, max_attempts=3, backoff=(1, 9), retry_on=OSError)\n"
        "def a(): ...\n"
        "@task('B')\n"
        "def b(): ...\n",
    )

    # when it is loaded
    loaded = load_handlers([name], [])

    # then the handler says so too, and another one nothing
    second = timedelta(seconds=1)
    assert ("process", 1.5 * second) == (loaded["A"].executor, loaded["A"].timeout)
    assert (3, (second, 9 * second), (OSError,)) == (
        loaded["A"].policy.max_attempts,
        loaded["A"].policy.backoff,
        loaded["A"].policy.retry_on,
    )
    assert ("thread", None, None) == (loaded["B"].executor, loaded["B"].timeout, loaded["B"].policy.max_attempts)


@pytest.fixture
def modules(tmp_path: Path) -> Iterator[Callable[[str, str], str]]:
    """Write a module that can be imported for the time of one test."""
    before = set(sys.modules)

    def write(name: str, text: str) -> str:
        (tmp_path / f"{name}.py").write_text(text)
        return name

    sys.path.insert(0, str(tmp_path))
    yield write
    sys.path.remove(str(tmp_path))
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_a_modules_declared_functions_are_its_handlers(modules: Callable[[str, str], str]) -> None:
    name = modules("mine_a", 'from nexusq_sdk.tasks import task\n@task("A_B")\ndef ab(x: int): return x\n')

    assert ["A_B"] == list(load_handlers([name], []))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import nowhere_to_be_found", "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("x = 1", "found none"),
        ("1 / 0", "ZeroDivisionError"),
        (
            "from nexusq_sdk.tasks import task\n@task('A')\ndef f(): ...\n@task('A')\ndef g(): ...\n",
            "expected one handler for 'A', got two: .*f and .*g",
        ),
    ],
)
def test_a_module_that_can_not_serve_is_refused(modules: Callable[[str, str], str], text: str, says: str) -> None:
    name = modules(f"mine_{abs(hash(text))}", text)

    with pytest.raises(HandlerError, match=says):
        load_handlers([name], [])


def test_a_module_that_is_not_there_is_refused_with_where_it_was_looked_for() -> None:
    with pytest.raises(HandlerError, match="--tasks no_such_module .*looked in"):
        load_handlers(["no_such_module"], [])


@pytest.mark.parametrize("name", ["", "1A", "A B", "Ä", "A" * 101, None, "A/B"])
def test_a_task_type_must_be_a_name(name: Any) -> None:
    with pytest.raises(ValueError, match="expected the task type to be a name"):
        tasks.task(name)
    assert name is None or TASK_TYPE.fullmatch(name) is None


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"executor": "fiber"}, "expected executor to be 'thread' or 'process', got 'fiber'"),
        ({"timeout": 0}, "expected timeout to be a time above zero, got 0"),
        ({"timeout": -1.0}, "expected timeout to be a time above zero, got -1.0"),
        ({"timeout": float("nan")}, "expected timeout to be a time above zero, got nan"),
        ({"timeout": float("inf")}, "expected timeout to be a time above zero, got inf"),
        ({"timeout": "10s"}, "expected timeout to be seconds or a timedelta, got '10s'"),
        ({"timeout": True}, "expected timeout to be seconds or a timedelta, got True"),
        ({"max_attempts": 0}, "expected max_attempts to be a whole number from 1, got 0"),
        ({"max_attempts": 2.0}, "expected max_attempts to be a whole number from 1, got 2.0"),
        ({"max_attempts": True}, "expected max_attempts to be a whole number from 1, got True"),
        ({"backoff": (1, 2, 3)}, r"expected backoff to be a time or a pair \(initial, cap\), got \(1, 2, 3\)"),
        ({"backoff": (5, 1)}, "expected backoff's cap to be no shorter than its initial"),
        ({"backoff": "1s"}, "expected backoff to be seconds or a timedelta, got '1s'"),
        ({"retry_on": "OSError"}, "expected retry_on to be exception classes, got 'O'"),
        ({"retry_on": int}, "expected retry_on to be exception classes, got <class 'int'>"),
        ({"no_retry_on": [OSError, 3]}, "expected no_retry_on to be exception classes, got 3"),
    ],
)
def test_an_option_that_can_not_be_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises((TypeError, ValueError), match=says):
        tasks.task("T", **options)


def test_an_async_function_has_no_other_executor() -> None:
    async def fetch() -> None: ...

    with pytest.raises(ValueError, match="expected executor to be left out for T, an async function"):
        tasks.task("T", executor="process")(fetch)


@pytest.mark.parametrize(
    ("given", "kept"),
    [(2, (2, 300)), (timedelta(minutes=10), (600, 600)), ((1, 2.5), (1, 2.5)), ([0, timedelta(seconds=1)], (0, 1))],
)
def test_a_backoff_is_a_time_or_a_pair(given: Any, kept: tuple[float, float]) -> None:
    @tasks.task("T", backoff=given)
    def handle() -> None: ...

    declared = getattr(handle, tasks.HANDLER_ATTRIBUTE)

    assert kept == tuple(time.total_seconds() for time in declared.backoff)


def test_a_retrys_delay_must_be_a_time() -> None:
    assert timedelta(0) == tasks.Retry("now", delay=0).delay
    with pytest.raises(ValueError, match="expected delay to be a time at least zero, got -1"):
        tasks.Retry("before", delay=-1)
