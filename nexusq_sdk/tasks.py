"""What an author of handlers imports: ``@task`` marks a function as the handler of a task type.

Standard library only: a module of handlers costs a worker nothing but itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from nexusq_sdk.protocol.words import TASK_TYPE

HANDLER_ATTRIBUTE: Final = "__nexusq_task_type__"

F = TypeVar("F", bound=Callable[..., Any])


def task(task_type: str) -> Callable[[F], F]:
    """Declare a function as the handler of `task_type`. The function itself is left as it is.

    The function's parameters are the fields of the payload: ``def resize(path: str, width: int = 800)``
    takes ``{"path": "a.png"}``. Type hints are checked when a task is submitted, not only when it runs.
    A function with one positional-only parameter, ``def total(values: list[float], /)``, takes the whole payload.
    What it returns is the task's result: anything that has a JSON form.

    Examples
    --------
    >>> @task("RESIZE_IMAGE")
    ... def resize(path: str, width: int = 800) -> dict[str, int]:
    ...     return {"width": width}
    >>> resize("a.png", width=20)
    {'width': 20}

    Raises
    ------
    ValueError
        If `task_type` is not a name such as ``RESIZE_IMAGE``.
    """
    if not isinstance(task_type, str) or TASK_TYPE.fullmatch(task_type) is None:
        raise ValueError(
            f"expected the task type to be a name such as 'RESIZE_IMAGE' "
            f"(a letter, then letters, digits, '_', '.', ':' or '-'; 100 at most), got {task_type!r}"
        )

    def declare(function: F) -> F:
        setattr(function, HANDLER_ATTRIBUTE, task_type)
        return function

    return declare
