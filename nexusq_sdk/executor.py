"""`concurrent.futures.Executor` over tasks: `submit` and `map` run functions on the workers; futures are CPython's.

One thread for all futures of an executor sends, asks and tells: what is submitted within some milliseconds goes as one
batch, and one request asks for the state of thousands. Callbacks run in that thread, as in CPython's pools.
"""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from nexusq_sdk.connection import Connection
from nexusq_sdk.executor_engine import Engine, TaskFuture
from nexusq_sdk.functions import ALONG, ALONG_EACH, Executor, Function, encode_call, send_function
from nexusq_sdk.protocol.calls import run_chunk
from nexusq_sdk.protocol.wire import Options

T = TypeVar("T")


class TaskExecutor(concurrent.futures.Executor):
    """Calls that run on the workers. Made by `Client.executor`; may be used from many threads.

    A future's `cancel` takes back what has not started, as far as was last heard; with `max_workers`, what has not
    been handed over. A future ends with what the function returned, or with `nexusq_sdk.TaskFailed`, which is also of
    the built-in type that was raised. What was submitted goes on when the interpreter ends: it is only waited for
    where `shutdown` waits, as at the end of a ``with`` block.

    Raises
    ------
    ValueError
        If `max_workers` is not greater than 0.
    """

    def __init__(
        self, connection: Connection, said: Options, max_workers: int | None = None, executor: Executor = "process"
    ) -> None:
        if max_workers is not None and max_workers <= 0:
            raise ValueError(f"max_workers must be greater than 0, or None for no limit, got {max_workers!r}")
        if said.idempotency_key is not None:
            raise ValueError("expected no idempotency_key: each call of an executor is work of its own")
        self._connection = connection
        self._executor = executor
        self._engine = Engine(connection, said, max_workers)
        # An executor that nobody has any more takes no further calls: its thread ends with its last future.
        weakref.finalize(self, self._engine.close)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> TaskFuture[T]:
        """Have ``fn(*args, **kwargs)`` called on a worker.

        Returns
        -------
        TaskFuture
            A `concurrent.futures.Future`; its `task_id` is None until it was sent.

        Raises
        ------
        RuntimeError
            After `shutdown`.
        NotPicklable, FunctionsOff, WrongKey
            If it can't be sent.
        """
        self._engine.check_open()
        function = send_function(self._connection, fn, self._executor, along=ALONG)
        return self._call(function, args, kwargs)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Call `fn` for each item, or each tuple of items of several iterables; give the results in their order.

        Parameters
        ----------
        timeout : float, optional
            Seconds from now after which the results' iterator raises TimeoutError.
        chunksize : int
            How many calls are one task: more for calls that take less than some milliseconds.
        buffersize : int, optional
            How many tasks may be on their way, or ended and not asked for: the iterables are then read as results are
            taken, be they endless. Otherwise they are read at once.

        Raises
        ------
        What `submit` raises; the iterator raises what a call raised, and cancels what is left.
        """
        if chunksize < 1:
            raise ValueError(f"chunksize must be >= 1, got {chunksize}")
        if buffersize is not None and not isinstance(buffersize, int):
            raise TypeError(f"buffersize must be an integer or None, got {buffersize!r}")
        if buffersize is not None and buffersize < 1:
            raise ValueError(f"buffersize must be None or > 0, got {buffersize}")
        self._engine.check_open()
        end = None if timeout is None else time.monotonic() + timeout
        items = zip(*iterables, strict=False)
        if chunksize == 1:
            function = send_function(self._connection, fn, self._executor, along=ALONG_EACH)
            return _results(self, function, ((args, {}) for args in items), buffersize, end)
        whole = functools.partial(run_chunk, fn)
        functools.update_wrapper(whole, fn)
        function = send_function(self._connection, whole, self._executor, along=ALONG_EACH)
        chunks = iter(lambda: list(itertools.islice(items, chunksize)), [])
        return _flat(_results(self, function, (((chunk,), {}) for chunk in chunks), buffersize, end))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no further calls.

        Parameters
        ----------
        wait : bool
            Whether to wait for all futures.
        cancel_futures : bool
            Whether to cancel those that have not started.
        """
        self._engine.shutdown(wait, cancel_futures)

    def _call(self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> TaskFuture[Any]:
        return self._engine.add(function.task_type, encode_call(self._connection, function, args, kwargs))

    def __repr__(self) -> str:
        return f"<TaskExecutor {self._connection.url}: {self._engine.describe()}>"


def _results(
    executor: TaskExecutor,
    function: Function,
    calls: Iterator[tuple[tuple[Any, ...], dict[str, Any]]],
    buffersize: int | None,
    end: float | None,
) -> Iterator[Any]:
    """Submit at once what may be, then give an iterator: nothing waits for the first result to be asked for."""
    futures = [executor._call(function, *call) for call in itertools.islice(calls, buffersize)]
    futures.reverse()
    return _iterate(weakref.ref(executor), function, calls if buffersize is not None else None, futures, end)


def _iterate(
    executor: Callable[[], TaskExecutor | None],
    function: Function,
    calls: Iterator[tuple[tuple[Any, ...], dict[str, Any]]] | None,
    futures: list[TaskFuture[Any]],
    end: float | None,
) -> Iterator[Any]:
    try:
        while futures:
            if calls is not None and (alive := executor()) is not None and (call := next(calls, None)) is not None:
                futures.insert(0, alive._call(function, *call))
                del alive, call
            # No reference to a result is kept, nor to the future that has it.
            yield _result(futures.pop(), end)
    finally:
        for future in futures:
            future.cancel()


def _result(future: TaskFuture[Any], end: float | None) -> Any:
    try:
        try:
            return future.result(None if end is None else end - time.monotonic())
        finally:
            future.cancel()
    finally:
        del future


def _flat(lists: Iterator[list[Any]]) -> Iterator[Any]:
    for values in lists:
        values.reverse()
        while values:
            yield values.pop()
