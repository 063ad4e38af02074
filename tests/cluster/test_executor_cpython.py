"""CPython's own tests of `concurrent.futures`, those of the interpreter that runs this, on `client.executor()`.

In threads: they go by the clock, and a worker's child process may take longer to start than they wait.
"""

from __future__ import annotations

import importlib
import unittest
from typing import Any

import pytest

import nexusq_sdk

#: Those that can't be run on it, and why.
_BY_NAME = "starts another interpreter, which makes an executor by its class's name in concurrent.futures"
NOT_APPLICABLE = {
    "test_interpreter_shutdown": _BY_NAME,
    "test_submit_after_interpreter_shutdown": _BY_NAME,
    "test_hang_gh83386": _BY_NAME,
    "test_hang_issue39205": _BY_NAME,
}
#: Where the mixins stand: since Python 3.12 in a package, before in one module.
HOMES = {
    "ExecutorTest": "executor",
    "WaitTests": "test_wait",
    "AsCompletedTests": "test_as_completed",
    "ExecutorShutdownTest": "test_shutdown",
    "BaseTestCase": "util",
}


def mixin(name: str) -> type[Any]:
    """Give one of CPython's classes of tests."""
    try:
        module = importlib.import_module(f"test.test_concurrent_futures.{HOMES[name]}")
    except ModuleNotFoundError:
        try:
            module = importlib.import_module("test.test_concurrent_futures")
        except ModuleNotFoundError:
            pytest.skip("this Python was installed without its tests of concurrent.futures", allow_module_level=True)
    found: type[Any] = getattr(module, name)
    return found


class OnTheWorkers:
    """What CPython's tests find in ``self``."""

    worker_count = 5
    client: nexusq_sdk.Client
    executor: Any

    @pytest.fixture(autouse=True)
    def _with_client(self, client: nexusq_sdk.Client) -> None:
        self.client = client

    def executor_type(self, max_workers: int | None = None) -> Any:
        return self.client.executor(max_workers, executor="thread")

    def setUp(self) -> None:
        super().setUp()  # type: ignore[misc]
        self.executor = self.executor_type(max_workers=self.worker_count)

    def tearDown(self) -> None:
        self.executor.shutdown(wait=True)
        self.executor = None
        super().tearDown()  # type: ignore[misc]


def on_the_workers(name: str) -> type[unittest.TestCase]:
    left_out = dict.fromkeys((test for test in NOT_APPLICABLE if hasattr(mixin(name), test)), None)
    return type(f"{name}OnTheWorkers", (OnTheWorkers, mixin(name), mixin("BaseTestCase")), left_out)


TestExecutor = on_the_workers("ExecutorTest")
TestWait = on_the_workers("WaitTests")
TestAsCompleted = on_the_workers("AsCompletedTests")
TestShutdown = on_the_workers("ExecutorShutdownTest")


def test_what_is_left_out_is_all_of_one_class_and_the_rest_runs() -> None:
    shutdown = {name for name in dir(mixin("ExecutorShutdownTest")) if name.startswith("test_")}
    others = {name for home in HOMES for name in dir(mixin(home)) if name.startswith("test_")} - shutdown

    assert not others & set(NOT_APPLICABLE)
    assert len(shutdown - set(NOT_APPLICABLE)) >= 3
    assert len(others) >= 15
