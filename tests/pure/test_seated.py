"""Threads and processes have their next tasks at hand while tasks are short, and hold none back while they are long."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nexusq_server.executors import ThreadExecutor
from nexusq_server.process_pool import ProcessExecutor
from nexusq_server.seated import SeatedExecutor
from tests.conftest import eventually
from tests.pure import executor_handlers as handlers
from tests.pure.executor_harness import MAX_RESULT, Ends, claimed, handler, run, wait_idle


def threads(ends: Ends) -> SeatedExecutor:
    return ThreadExecutor(1, ends.slots, 0, ends, MAX_RESULT)


def processes(ends: Ends) -> SeatedExecutor:
    environment = {"NEXUSQ_TASKS": "tests.pure.executor_handlers"}
    return ProcessExecutor(1, ends.slots, 0, ends, MAX_RESULT, environment=environment)


@pytest.mark.parametrize("make", [threads, processes])
def test_tasks_are_claimed_ahead_while_they_are_short(make: Callable[[Ends], SeatedExecutor]) -> None:
    # given an executor that knows of no task yet: it asks for as many as it can run
    ends = Ends()
    executor = make(ends)
    try:
        assert 1 == executor.free()

        # when as many have ended as it can run at once, and took no time, then it asks for more
        run(executor, ends, handlers.who)
        wait_idle(executor)
        assert executor.free() > 1
        short = executor.lasts(1000)

        # when one takes long, then it asks for none that would wait behind it
        long = claimed(handlers.spinning)
        executor.start(long, handler(handlers.spinning))
        eventually(lambda: _none(executor))

        # ... and what waits will do for longer
        assert executor.lasts(1000) > 2 * short
        executor.cancel(long.id)
        ends.of(long)
    finally:
        executor.stop()
        assert executor.join(30)


def _none(executor: SeatedExecutor) -> None:
    assert 0 == executor.free()
