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
    ├── TaskFailed
    └── TaskCancelled
"""

from __future__ import annotations

from collections.abc import Sequence

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


class UnknownSchedule(NexusQError, LookupError):
    """Raised when there is no schedule of this name."""


class ResultExpired(NexusQError, LookupError):
    """Raised when the task was there and its state is not kept any more."""


class WaitTimeout(NexusQError, TimeoutError):
    """Raised when what was waited for had not ended in time; it goes on."""
class UnknownBlob(NexusQError, LookupError):
    """Raised when the server does not have a function or argument that was sent by value (any more)."""


class FunctionsOff(NexusQError, RuntimeError):
    """Raised when a function is to be sent or its result opened, and there is no signing key here or at the server."""


class WrongKey(NexusQError, ValueError):
    """Raised when pickled bytes were signed with another key: they are not unpickled."""


class NotPicklable(NexusQError, TypeError):
    """Raised when a function or what it is given can't be pickled, or is too large, before it is sent."""




class TaskFailed(NexusQError):
    """Raised when the result is asked of a task that failed.

    Attributes
    ----------
    task_id : str
        The task.
    error_type : str
        The class of what its handler raised, such as ``ZeroDivisionError``.
    remote_traceback : str
        The worker's traceback as text; also shown below this error's own.
    """

    def __init__(self, message: str, *, task_id: str = "", error_type: str = "", remote_traceback: str = "") -> None:
        super().__init__(message)
        self.task_id = task_id
        self.error_type = error_type
        self.remote_traceback = remote_traceback
        if remote_traceback:
            self.add_note(f"\nOn the worker:\n{remote_traceback}")


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
