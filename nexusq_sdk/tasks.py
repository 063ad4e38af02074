"""What an author of handlers imports: ``@task`` declares a function as the handler of a task type.

The exceptions here end an attempt in a way of its own, and `current_task` says what is being run.
Standard library only: a module of handlers costs a worker nothing but itself.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal, ParamSpec, Protocol, TypeVar, cast

from nexusq_sdk.protocol.words import TASK_TYPE

HANDLER_ATTRIBUTE: Final = "__nexusq_task__"

Seconds = float | timedelta
Exceptions = type[BaseException] | Iterable[type[BaseException]]
P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)


class TaskFunction(Protocol[P, R_co]):
    """What `task` makes of a function: the function, and how to submit it."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Call the function here."""

    def map(self, rows: Any, client: Any = None, **options: Any) -> Any:
        """Submit a task of its type for each row; give the `nexusq_sdk.Batch`."""

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Submit one task of its type with these arguments; give the `nexusq_sdk.Task`."""


class Retry(Exception):
    """Raise it in a handler to ask for another attempt, after `delay` where it is given, else after the usual backoff.

    It counts as an attempt. Where nothing says how many a task may have, ten are made for it.
    """

    def __init__(self, why: str = "", *, delay: Seconds | None = None) -> None:
        super().__init__(why)
        self.delay = None if delay is None else _time("delay", delay, zero=True)


class Cancelled(BaseException):
    """Raised inside a handler whose task was cancelled; ``except Exception`` does not catch it, ``finally`` runs.

    An async handler gets `asyncio.CancelledError` instead, one in a process is killed.
    A handler that raises it itself cancels its own task.
    """


class TimeLimitExceeded(TimeoutError):
    """Raised inside a handler that ran out of time. An async one gets `asyncio.CancelledError`, a process is killed.

    It comes with the next step of Python code: a call that waits outside of Python (``time.sleep``, a query) ends
    first. It comes once: a handler that catches it and goes on goes on.
    """

    def __init__(self, message: str = "the task ran longer than its time limit") -> None:
        super().__init__(message)


class WorkerLost(Exception):
    """The process that ran the handler died: a segmentation fault, ``os._exit``, out of memory.

    Never raised inside a handler; it is what such an attempt failed with, for ``retry_on`` and ``no_retry_on``.
    """


class Said:
    """What a handler has said of itself so far. Written by the handler's thread, taken by the worker's."""

    __slots__ = ("fraction", "lines", "news", "text")

    def __init__(self) -> None:
        self.fraction: float | None = None
        self.text = ""
        self.lines: tuple[str, ...] = ()
        self.news = False  # set last by who writes, cleared first by who takes: the worst is to take it twice


#: Of what a handler logs, so many last lines are kept, of so many characters each.
LOG_LINES, LINE_CHARS = 20, 500


class CurrentTask:
    """The task that is being run."""

    __slots__ = ("_cancelled", "_said", "attempt", "id", "task_type")

    def __init__(self, id: str, task_type: str, attempt: int) -> None:  # noqa: A002 - what users call it
        self.id = id
        self.task_type = task_type
        self.attempt = attempt
        self._cancelled = False
        self._said: Said | None = None

    def progress(self, fraction: float, text: str = "") -> None:
        """Say how far it is, from 0 to 1, and with what. Shown within a second; call it as often as you like.

        Examples
        --------
        >>> for epoch in range(10):  # doctest: +SKIP
        ...     train_one()
        ...     current_task().progress((epoch + 1) / 10, f"epoch {epoch + 1}/10")
        """
        if not isinstance(fraction, (int, float)) or not 0 <= fraction <= 1:
            raise ValueError(f"expected the progress to be a number from 0 to 1, got {fraction!r}")
        said = self._speaks()
        said.fraction, said.text, said.news = float(fraction), str(text)[:LINE_CHARS], True

    def log(self, text: str) -> None:
        """Add a line to what is shown of the task; the last 20 are kept."""
        said = self._speaks()
        lines = tuple(line[:LINE_CHARS] for line in str(text).splitlines()[-LOG_LINES:])
        said.lines, said.news = (*said.lines, *lines)[-LOG_LINES:], True

    def _speaks(self) -> Said:
        if self._said is None:
            self._said = Said()
        return self._said

    @property
    def cancelled(self) -> bool:
        """Whether the task has been cancelled since its handler started: a loop may ask and leave."""
        return self._cancelled

    def __repr__(self) -> str:
        return f"CurrentTask({self.id!r}, {self.task_type!r}, attempt={self.attempt}, cancelled={self._cancelled})"


#: What `current_task` gives. Set by whoever is about to call a handler, in the thread or coroutine that calls it.
CURRENT: ContextVar[CurrentTask] = ContextVar("nexusq_current_task")


def current_task() -> CurrentTask:
    """Give the task whose handler calls this: its id, type and attempt, and whether it has been cancelled.

    Raises
    ------
    RuntimeError
        Outside of a handler. A thread that a handler starts counts as outside, unless it is given its context.
    """
    try:
        return CURRENT.get()
    except LookupError:
        raise RuntimeError("expected current_task() to be called by a handler that runs a task, got no task") from None


@dataclass(frozen=True, slots=True)
class Declaration:
    """What ``@task`` was told. None: not said here; what a submit or the server says goes."""

    task_type: str
    executor: Literal["thread", "process"] | None = None
    timeout: timedelta | None = None
    max_attempts: int | None = None
    backoff: tuple[timedelta, timedelta] | None = None
    retry_on: tuple[type[BaseException], ...] | None = None
    no_retry_on: tuple[type[BaseException], ...] = ()


def task(
    task_type: str,
    *,
    executor: Literal["thread", "process"] | None = None,
    timeout: Seconds | None = None,
    max_attempts: int | None = None,
    backoff: Seconds | tuple[Seconds, Seconds] | None = None,
    retry_on: Exceptions | None = None,
    no_retry_on: Exceptions | None = None,
) -> Callable[[Callable[P, R_co]], TaskFunction[P, R_co]]:
    """Declare a function as the handler of `task_type`. The function itself is left as it is.

    The function's parameters are the fields of the payload: ``def resize(path: str, width: int = 800)``
    takes ``{"path": "a.png"}``. Type hints are checked when a task is submitted, not only when it runs.
    A function with one positional-only parameter, ``def total(values: list[float], /)``, takes the whole payload.
    What it returns is the task's result: anything that has a JSON form. An ``async def`` runs on the event loop.

    Parameters
    ----------
    executor
        ``"thread"`` (the default) or ``"process"``: for work that keeps the CPU busy, may crash or must surely stop.
    timeout
        Time limit of an attempt, in seconds or as a timedelta: `TimeLimitExceeded` in a thread, a kill in a process.
    max_attempts
        How often the task is tried in all.
    backoff
        The wait before another attempt is a random time up to ``backoff * 2 ** n`` after n + 1 failures, in seconds
        or as a timedelta; a pair says the longest wait too, which is 5 minutes otherwise.
    retry_on, no_retry_on
        Exception classes, or one: only those are tried again; those are not. What is in both is not.

    Returns
    -------
    callable
        The function, callable as ever, with ``function.map(rows, client=None, **options)``, which submits a batch of
        its type (`Client.submit_batch`), and ``function.submit(*args, **kwargs)``, which submits one call. Both take
        the client that was made last unless they are told of one; its workers must know the function (``--tasks``).

    Examples
    --------
    >>> @task("RESIZE_IMAGE", timeout=60, max_attempts=3, no_retry_on=FileNotFoundError)
    ... def resize(path: str, width: int = 800) -> dict[str, int]:
    ...     return {"width": width}
    >>> resize("a.png", width=20)
    {'width': 20}

    Raises
    ------
    ValueError, TypeError
        If `task_type` is not a name such as ``RESIZE_IMAGE``, or an option can't be what it is.
    """
    if not isinstance(task_type, str) or TASK_TYPE.fullmatch(task_type) is None:
        raise ValueError(
            f"expected the task type to be a name such as 'RESIZE_IMAGE' "
            f"(a letter, then letters, digits, '_', '.', ':' or '-'; 100 at most), got {task_type!r}"
        )
    if executor not in (None, "thread", "process"):
        raise ValueError(f"expected executor to be 'thread' or 'process', got {executor!r}")
    if max_attempts is not None and (not isinstance(max_attempts, int) or max_attempts is True or max_attempts < 1):
        raise ValueError(f"expected max_attempts to be a whole number from 1, got {max_attempts!r}")
    declaration = Declaration(
        task_type,
        executor,
        None if timeout is None else _time("timeout", timeout),
        max_attempts,
        None if backoff is None else _backoff(backoff),
        None if retry_on is None else _classes("retry_on", retry_on),
        () if no_retry_on is None else _classes("no_retry_on", no_retry_on),
    )

    def declare(function: Callable[P, R_co]) -> TaskFunction[P, R_co]:
        if executor is not None and inspect.iscoroutinefunction(function):
            raise ValueError(
                f"expected executor to be left out for {task_type}, an async function that runs on the event loop, "
                f"got {executor!r}"
            )
        setattr(function, HANDLER_ATTRIBUTE, declaration)
        with contextlib.suppress(AttributeError):  # a callable that takes no attributes has none of these
            function.map = functools.partial(_map, task_type)  # type: ignore[attr-defined]
            function.submit = functools.partial(_submit, function, task_type)  # type: ignore[attr-defined]
        return cast(TaskFunction[P, R_co], function)

    return declare


def _map(task_type: str, rows: Any, client: Any = None, **options: Any) -> Any:
    return (client or _recent_client()).submit_batch(task_type, rows, **options)


def _submit(function: Callable[..., Any], task_type: str, *args: Any, **kwargs: Any) -> Any:
    parameters = list(inspect.signature(function).parameters.values())
    bound = inspect.signature(function).bind(*args, **kwargs)
    whole = bool(parameters) and parameters[0].kind is inspect.Parameter.POSITIONAL_ONLY
    payload: Any = dict(bound.arguments)
    for parameter in parameters:
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            payload |= payload.pop(parameter.name, {})
    return _recent_client().submit(task_type, args[0] if whole else payload)


def _recent_client() -> Any:
    # By its name: a worker, which imports this module, has no use for the client.
    return importlib.import_module("nexusq_sdk.client").recent()


#: The longest wait before another attempt where only the first one is said.
DEFAULT_CAP: Final = timedelta(minutes=5)


def _time(name: str, value: Any, *, zero: bool = False) -> timedelta:
    least = "at least zero" if zero else "above zero"
    if not isinstance(value, (int, float, timedelta)) or isinstance(value, bool):
        raise TypeError(f"expected {name} to be seconds or a timedelta, got {value!r}")
    try:
        time = value if isinstance(value, timedelta) else timedelta(seconds=value)
    except (OverflowError, ValueError):
        raise ValueError(f"expected {name} to be a time {least}, got {value!r}") from None
    if time < timedelta() or (not zero and not time):
        raise ValueError(f"expected {name} to be a time {least}, got {value!r}")
    return time


def _backoff(value: Any) -> tuple[timedelta, timedelta]:
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(f"expected backoff to be a time or a pair (initial, cap), got {value!r}")
        initial, cap = _time("backoff's initial", value[0], zero=True), _time("backoff's cap", value[1], zero=True)
        if cap < initial:
            raise ValueError(f"expected backoff's cap to be no shorter than its initial, got {value!r}")
        return initial, cap
    initial = _time("backoff", value, zero=True)
    return initial, max(initial, DEFAULT_CAP)


def _classes(name: str, value: Any) -> tuple[type[BaseException], ...]:
    classes = (value,) if isinstance(value, type) else tuple(value) if isinstance(value, Iterable) else (value,)
    for entry in classes:
        if not isinstance(entry, type) or not issubclass(entry, BaseException):
            raise TypeError(f"expected {name} to be exception classes, got {entry!r}")
    return classes
