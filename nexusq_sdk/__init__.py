"""NexusQ for notebooks: submit a DataFrame of tasks, watch them run, read the outcomes as a DataFrame.

Names load when they are first used: importing this package costs next to nothing, and a worker that imports
``nexusq_sdk.task`` never loads pandas.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from nexusq_sdk.batch import Batch
    from nexusq_sdk.client import Client
    from nexusq_sdk.errors import (
        BatchFailed,
        ConnectionFailed,
        FunctionsOff,
        NameTaken,
        NexusQError,
        NotPicklable,
        Refused,
        ResultExpired,
        ResultsExpireSoon,
        RowError,
        ServerFailed,
        ServerUnavailable,
        TaskCancelled,
        TaskFailed,
        UnknownBlob,
        UnknownSchedule,
        UnknownTask,
        UnknownTaskType,
        WaitTimeout,
        WrongKey,
    )
    from nexusq_sdk.local_cluster import LocalCluster, LocalClusterError, local
    from nexusq_sdk.protocol.words import Status
    from nexusq_sdk.redis_view import RedisView
    from nexusq_sdk.task_handle import Task
    from nexusq_sdk.tasks import Cancelled, Retry, TimeLimitExceeded, WorkerLost, current_task, task

_HOMES = {
    "Batch": "batch",
    "BatchFailed": "errors",
    "Cancelled": "tasks",
    "Client": "client",
    "ConnectionFailed": "errors",
    "FunctionsOff": "errors",
    "LocalCluster": "local_cluster",
    "LocalClusterError": "local_cluster",
    "NameTaken": "errors",
    "NexusQError": "errors",
    "NotPicklable": "errors",
    "RedisView": "redis_view",
    "Refused": "errors",
    "ResultExpired": "errors",
    "ResultsExpireSoon": "errors",
    "Retry": "tasks",
    "RowError": "errors",
    "ServerFailed": "errors",
    "ServerUnavailable": "errors",
    "Status": "protocol.words",
    "Task": "task_handle",
    "TaskCancelled": "errors",
    "TaskFailed": "errors",
    "TimeLimitExceeded": "tasks",
    "UnknownBlob": "errors",
    "UnknownSchedule": "errors",
    "UnknownTask": "errors",
    "UnknownTaskType": "errors",
    "WaitTimeout": "errors",
    "WorkerLost": "tasks",
    "WrongKey": "errors",
    "current_task": "tasks",
    "local": "local_cluster",
    "task": "tasks",
}

__all__ = [
    "Batch",
    "BatchFailed",
    "Cancelled",
    "Client",
    "ConnectionFailed",
    "FunctionsOff",
    "LocalCluster",
    "LocalClusterError",
    "NameTaken",
    "NexusQError",
    "NotPicklable",
    "RedisView",
    "Refused",
    "ResultExpired",
    "ResultsExpireSoon",
    "Retry",
    "RowError",
    "ServerFailed",
    "ServerUnavailable",
    "Status",
    "Task",
    "TaskCancelled",
    "TaskFailed",
    "TimeLimitExceeded",
    "UnknownBlob",
    "UnknownSchedule",
    "UnknownTask",
    "UnknownTaskType",
    "WaitTimeout",
    "WorkerLost",
    "WrongKey",
    "__version__",
    "current_task",
    "local",
    "task",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'nexusq_sdk' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"nexusq_sdk.{home}"), name)
    globals()[name] = value
    return value


def load_ipython_extension(shell: Any) -> None:
    """Add ``%nexusq``: for ``%load_ext nexusq_sdk``."""
    from nexusq_sdk import magics  # noqa: PLC0415 - only in IPython

    magics.register(shell)


def __dir__() -> list[str]:
    return sorted(__all__)
