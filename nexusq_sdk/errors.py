"""What the SDK raises.

::

    NexusQError
    ├── ConnectionFailed           (ConnectionError)
    ├── ServerUnavailable
    ├── ServerFailed
    ├── Refused                    (ValueError)
    │   └── UnknownTaskType
    ├── RowError                   (ValueError)
    ├── NotPicklable               (TypeError)
    ├── FunctionsOff               (RuntimeError)
    ├── WrongKey                   (ValueError)
    ├── UnknownBlob                (LookupError)
    ├── UnknownTask                (LookupError)
    ├── UnknownSchedule            (LookupError)
    ├── ResultExpired              (LookupError)
    ├── WaitTimeout                (TimeoutError)
    ├── NameTaken                  (ValueError)
    ├── TaskFailed                 (and the built-in type of what was raised: ValueError, KeyError, ...)
    │   └── BatchFailed
    └── TaskCancelled

    ResultsExpireSoon              (UserWarning)

What a handler raised travels as text and is never unpickled: see `task_failed`.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from nexusq_sdk.protocol import ids
from nexusq_sdk.protocol.wire import FieldError, Problem


class NexusQError(Exception):
    """The root: raised as one of the classes below."""


class ConnectionFailed(NexusQError, ConnectionError):
    """Raised when no NexusQ answers at the URL."""


class ServerUnavailable(NexusQError):
    """Raised when the server answers that Kafka or Redis is away, and went on saying so."""


class ServerFailed(NexusQError):
    """Raised when the server fails at what was asked, or what answers is not a NexusQ."""


class Refused(NexusQError, ValueError):
    """Raised when the server refuses what was asked.

    Attributes
    ----------
    errors : list of FieldError
        One fault each: ``row`` of the batch (None for a single task), ``field``, ``message``.
    problem : Problem or None
        The server's answer, whole.
    """

    def __init__(self, message: str, errors: Sequence[FieldError] = (), problem: Problem | None = None) -> None:
        super().__init__(message)
        self.errors = list(errors)
        self.problem = problem


class UnknownTaskType(Refused):
    """Raised when no worker has ever offered the task type."""


class RowError(NexusQError, ValueError):
    """Raised when a row or a payload can't be turned into JSON, before it is sent.

    Attributes
    ----------
    row : int or None
        The row's position, from 0; None for a single task.
    column : str or None
        Its column or field, such as ``to`` or ``items[2].name``; None where the whole row is at fault.
    """

    # Kept as they are when pickled: a pool's worker hands its exceptions on that way.
    def __init__(self, message: str, *, row: int | None = None, column: str | None = None) -> None:
        super().__init__(message)
        self.row = row
        self.column = column


class UnknownTask(NexusQError, LookupError):
    """Raised when there never was such a task or batch."""


class UnknownBlob(NexusQError, LookupError):
    """Raised when the server does not have a function or argument that was sent by value (any more)."""


class FunctionsOff(NexusQError, RuntimeError):
    """Raised when a function is to be sent or its result opened, and there is no signing key here or at the server."""


class WrongKey(NexusQError, ValueError):
    """Raised when pickled bytes were signed with another key: they are not unpickled."""


class NotPicklable(NexusQError, TypeError):
    """Raised when a function or what it is given can't be pickled, or is too large, before it is sent."""


class UnknownSchedule(NexusQError, LookupError):
    """Raised when there is no schedule of this name."""


class ResultExpired(NexusQError, LookupError):
    """Raised when the task was there and its state is not kept any more."""


class ResultsExpireSoon(UserWarning):
    """Warns that results which are being read will not be kept much longer."""


class WaitTimeout(NexusQError, TimeoutError):
    """Raised when what was waited for had not ended in time; it goes on."""


class NameTaken(NexusQError, ValueError):
    """Raised when a batch of this name is there, with other inputs. ``new=True`` begins another one."""


class TaskFailed(NexusQError):
    """Raised when the result is asked of a task that failed.

    It is also of the built-in type that the handler raised, or the nearest one that its class is known to derive
    from: ``except ValueError`` catches what was a ``ValueError`` on the worker.

    Attributes
    ----------
    task_id : str
        The task.
    error_type : str
        The class of what its handler raised, such as ``ZeroDivisionError`` or ``smtplib.SMTPRecipientsRefused``.
    remote_message : str
        Its message.
    remote_traceback : str
        The worker's traceback as text; also shown below this error's own.
    label : object or None
        The row's label in the index of the DataFrame that was submitted, else its position; None for a single task.
    """

    def __init__(
        self,
        message: str,
        *,
        task_id: str = "",
        error_type: str = "",
        remote_message: str = "",
        remote_traceback: str = "",
        label: object = None,
    ) -> None:
        # Not the initializers of built-in types: some want more than a message.
        Exception.__init__(self, message)
        self.task_id = task_id
        self.error_type = error_type
        self.remote_message = remote_message
        self.remote_traceback = remote_traceback
        self.label = label
        if remote_traceback:
            self.add_note(f"\nOn the worker:\n{remote_traceback}")

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""  # a KeyError would show it as a repr

    def __reduce__(self) -> tuple[Any, ...]:
        # By the name of the built-in class beside it: the class itself is made again where it is needed.
        base = next((base for base in type(self).__bases__ if base.__module__ == "builtins"), Exception)
        return _rebuilt, (isinstance(self, BatchFailed), base.__name__, str(self)), self.__dict__


class BatchFailed(TaskFailed):
    """Raised when the results are asked of a batch of which several tasks failed: one traceback for each kind of error.

    It is a `TaskFailed` of the first one, and also of the built-in type that all kinds have in common.

    Attributes
    ----------
    failures : list of TaskFailed
        One for each type of error: the first task that failed so.
    counts : dict
        How many tasks failed with each type.
    """

    failures: list[TaskFailed]
    counts: dict[str, int]


#: Never a base of `TaskFailed`: they end programs, generators or cells, or are shown in ways of their own.
_UNFIT = (StopIteration, StopAsyncIteration, SyntaxError, BaseExceptionGroup)
#: What a worker itself says of an attempt, and what that is.
_OWN = {"TimeLimitExceeded": TimeoutError, "nexusq_sdk.tasks.TimeLimitExceeded": TimeoutError}
#: Of a payload no more is shown with an error.
SHOWN_PAYLOAD = 500
#: Kinds of errors that a `BatchFailed` shows a traceback of.
SHOWN_KINDS = 10


def task_failed(
    task_id: str,
    error_type: str,
    message: str,
    traceback: str,
    *,
    label: object = None,
    payload: str | None = None,
) -> TaskFailed:
    """Give the exception for a task that failed. `payload` is its JSON: as much as can be read is shown.

    Examples
    --------
    >>> try:
    ...     raise task_failed("01a2-7", "ValueError", "no luck", "")
    ... except ValueError as error:
    ...     print(error)
    task 01a2-7 failed: ValueError: no luck
    """
    error = _class_for(TaskFailed, _builtin(error_type))(
        f"task {task_id} failed: {error_type}: {message}" if message else f"task {task_id} failed: {error_type}",
        task_id=task_id,
        error_type=error_type,
        remote_message=message,
        remote_traceback=traceback,
        label=label,
    )
    if label is not None or payload is not None:
        of = "" if payload is None else f": {bounded(payload)}"
        error.add_note(f"The payload{of}" if label is None else f"The row {bounded(repr(label), 100)}{of}")
    return error


def batch_failed(batch_id: str, size: int, failures: Sequence[TaskFailed], counts: Mapping[str, int]) -> TaskFailed:
    """Give the exception for a batch: that of its one failed task, or one that sums the kinds up."""
    total = sum(counts.values())
    if total == 1:
        return failures[0]
    first = failures[0]
    kinds = sorted(failures, key=lambda failure: -counts[failure.error_type])
    listed = "".join(
        f"\n  {counts[kind.error_type]:,} × {kind.error_type}: {bounded(kind.remote_message, 200)}"
        for kind in kinds[:SHOWN_KINDS]
    )
    base = _common([_builtin(kind.error_type) for kind in failures])
    error = _class_for(BatchFailed, base)(
        f"{total:,} of {size:,} tasks of batch {batch_id} failed:{listed}",
        task_id=first.task_id,
        error_type=first.error_type,
        remote_message=first.remote_message,
        label=first.label,
    )
    assert isinstance(error, BatchFailed)
    error.remote_traceback = first.remote_traceback
    error.failures, error.counts = list(failures), dict(counts)
    for kind in kinds[:SHOWN_KINDS]:
        count = counts[kind.error_type]
        many = f"{count:,} × {kind.error_type}, the first of them" if count > 1 else f"1 × {kind.error_type}"
        error.add_note("\n".join([f"\n{many}: {kind}", *getattr(kind, "__notes__", [])]))
    if len(kinds) > SHOWN_KINDS:
        error.add_note(f"\n... and {len(kinds) - SHOWN_KINDS} more kinds: see .failures and .counts")
    return error


def bounded(text: str, limit: int = SHOWN_PAYLOAD) -> str:
    """Cut a text that is long.

    Examples
    --------
    >>> bounded("x" * 600, 10)
    'xxxxxxxxxx... (600 characters)'
    """
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text):,} characters)"


def _builtin(error_type: str) -> type[Exception]:
    """Give the built-in class nearest to a class of this name, `Exception` where nothing is known of it.

    Nothing is imported to find out: a class of a module counts if that module is loaded.
    """
    module, _, name = error_type.rpartition(".")
    if error_type in _OWN:
        return _OWN[error_type]
    found = vars(sys.modules[module]).get(name) if module in sys.modules else None
    if not module:
        found = vars(builtins).get(name)
    if not isinstance(found, type) or not issubclass(found, Exception):
        return Exception
    return next((base for base in found.__mro__ if base.__module__ == "builtins" and _fits(base)), Exception)


def _fits(base: type[Exception]) -> bool:
    """Whether a `TaskFailed` can be one of these, and says what it has to say."""
    if issubclass(base, _UNFIT):
        return False
    try:
        made = _class_for(TaskFailed, base)("said", error_type=base.__name__)
    except TypeError:  # a layout that does not fit, or an initializer that wants more
        return False
    return str(made) == "said"


def _common(bases: Sequence[type[Exception]]) -> type[Exception]:
    first, *others = bases
    shared = (base for base in first.__mro__ if all(issubclass(other, base) for other in others))
    return next((base for base in shared if base.__module__ == "builtins" and _fits(base)), Exception)


#: Made once each. Written by any thread: the loser's class is as good, and nobody compares them.
_classes: dict[tuple[type[TaskFailed], type[Exception]], type[TaskFailed]] = {}


def _class_for(kind: type[TaskFailed], base: type[Exception]) -> type[TaskFailed]:
    if issubclass(kind, base):
        return kind
    if (kind, base) not in _classes:
        # It is shown under the name that people look up.
        said = {"__module__": kind.__module__, "__doc__": kind.__doc__}
        _classes[kind, base] = type(kind.__name__, (kind, base), said)
    return _classes[kind, base]


def _rebuilt(batch: bool, base: str, message: str) -> TaskFailed:
    return _class_for(BatchFailed if batch else TaskFailed, _builtin(base))(message)


class TaskCancelled(NexusQError):
    """Raised when the result is asked of a task that was cancelled."""


def check_task_id(task_id: str) -> None:
    """Raise `UnknownTask` for what can't be a task's id: it would ask for something else."""
    if not isinstance(task_id, str) or not ids.is_task_id(task_id):
        raise UnknownTask(f"expected a task id, <uuid> or <uuid>-<index> in lower case, got {task_id!r}")


def check_batch_id(batch_id: str) -> None:
    """Raise `UnknownTask` for what can't be a batch's id."""
    if not isinstance(batch_id, str) or not ids.is_id(batch_id):
        raise UnknownTask(f"expected a batch id, a uuid in lower case, got {batch_id!r}")


def check_batch_reference(reference: str) -> None:
    """Raise `UnknownTask` for what can be neither a batch's id nor its name."""
    if not isinstance(reference, str) or not (ids.is_id(reference) or ids.is_batch_name(reference)):
        raise UnknownTask(
            f"expected a batch id, a uuid in lower case, or a batch's name such as 'exp-7', got {reference!r}"
        )
