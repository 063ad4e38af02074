"""Functions by value: how they, their arguments and their results are packed, and opened again.

A function is pickled by cloudpickle once, signed, and kept by the server under its hash; a task names it and carries
its own arguments. Nothing is unpickled before its signature was verified. May be used from many threads.
"""

from __future__ import annotations

import inspect
import io
import os
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from importlib import metadata
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol
from urllib.parse import urlsplit

import cloudpickle
import msgspec

from nexusq_sdk.errors import FunctionsOff, NotPicklable, WrongKey
from nexusq_sdk.protocol import blobs, calls, keys
from nexusq_sdk.protocol.blobs import BadSignature
from nexusq_sdk.protocol.words import MAX_TASK_BYTES
from nexusq_sdk.rows import field_names, index_of

if TYPE_CHECKING:
    import pandas as pd

Executor = Literal["process", "thread"]
#: Arrays and frames above this are sent apart, once for all the tasks that are given them.
APART_BYTES = 250_000
#: A function up to this travels with its call, since keeping it takes a second, until it is on disk; where it is called
#: for many items, one up to the second size does.
ALONG, ALONG_EACH = 50_000, 2_000
#: Rows of a frame that are made into arguments at a time.
SLICE = 5_000
#: What a frame shows in place of a result that can't be opened.
UNREAD = "<pickled: no key>"
_encode = msgspec.json.Encoder().encode


class Blobs(Protocol):
    """Where blobs go: a `Connection`."""

    signing_key: bytes | None

    def put_blob(self, blob_id: str, data: bytes) -> None:
        """Have the server keep a blob, unless it is known to have it."""


class Function(NamedTuple):
    """A function that the server has, or that travels along: its blob, the type of its tasks, its bytes in base64."""

    blob_id: str
    task_type: str
    code: str = ""


def key_for(url: str, given: str | None) -> bytes | None:
    """Give the signing key: the one that was given, else ``NEXUSQ_SIGNING_KEY``, else what a cluster here has left.

    Raises
    ------
    ValueError
        If the one that was given can't be a key.
    """
    text = given or os.environ.get("NEXUSQ_SIGNING_KEY")
    if text:
        return blobs.read_key(text.strip())
    address = urlsplit(url)
    if address.hostname in {"127.0.0.1", "localhost", "::1"}:
        return keys.found_key("127.0.0.1", address.port or 80)
    return None


def send_function(
    server: Blobs, function: Callable[..., Any], executor: Executor = "process", *, along: int = 0
) -> Function:
    """Pickle a function and have the server keep it; one of up to `along` bytes travels with its calls instead.

    Raises
    ------
    NotPicklable
        Naming what it refers to that can't be pickled.
    FunctionsOff
        If there is no key here or at the server.
    WrongKey
        If the server has another key.
    """
    if executor not in calls.BASES:
        raise ValueError(f"expected executor to be 'process' or 'thread', got {executor!r}")
    key = _key(server)
    name = getattr(function, "__name__", type(function).__name__)
    buffer = io.BytesIO()
    pickler = _FunctionPickler(buffer)
    try:
        pickler.dump(function)
    except Exception as error:
        raise NotPicklable(
            f"expected {name} to be a function that can be pickled, got {_said(error)}{_culprit(function)}; make "
            f"inside the function what can't be sent: connections, locks, open files"
        ) from error
    head = calls.Head(
        python=f"{sys.version_info[0]}.{sys.version_info[1]}",
        name=name,
        packages={module: _distribution(module) for module in sorted(pickler.modules)},
        source=_source(function),
    )
    blob = calls.pack_function(key, head, buffer.getvalue())
    blob_id = blobs.blob_id(blob)
    if len(blob) <= along:
        return Function(blob_id, calls.type_of(name, executor), calls.to_text(blob))
    server.put_blob(blob_id, blob)
    return Function(blob_id, calls.type_of(name, executor))


def encode_call(
    server: Blobs, function: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any], row: object = None
) -> bytes:
    """Give the payload of one call, as JSON.

    Raises
    ------
    NotPicklable
        If an argument can't be pickled or they are too large; `row` is named where it is given.
    """
    key = _key(server)
    buffer = io.BytesIO()
    where = "the arguments" if row is None else f"row {row}"
    try:
        _ArgumentPickler(buffer, server, key).dump((args, dict(kwargs)))
    except (pickle.PicklingError, TypeError, AttributeError, RecursionError, ValueError) as error:
        if isinstance(error, NotPicklable | BadSignature):
            raise
        raise NotPicklable(
            f"{where}: expected values that can be pickled, got {_said(error)}{_culprit_of(args, kwargs)}; make inside "
            f"the function what can't be sent: connections, locks, open files"
        ) from error
    sealed = calls.to_text(calls.seal(key, function.blob_id, buffer.getvalue()))
    payload = _encode(calls.Call(function=function.blob_id, arguments=sealed, code=function.code))
    if len(payload) > MAX_TASK_BYTES:
        raise NotPicklable(
            f"{where}: expected arguments of at most {MAX_TASK_BYTES // 1000} kB, got {len(payload) // 1000} kB; store "
            f"what is large where workers can read it and send where it is"
        )
    return payload


def encode_calls(server: Blobs, function: Function, rows: pd.DataFrame | Iterable[Any]) -> Iterator[bytes]:
    """Give a payload for each row: of a DataFrame ``function(**row)``, of anything else ``function(item)``."""
    for row, (args, kwargs) in enumerate(_arguments(rows)):
        yield encode_call(server, function, args, kwargs, row)


def open_result(task_type: str, task_id: str, result: Any, key: bytes | None) -> Any:
    """Give what a task's handler returned; of a function by value the very object, once its signature was verified.

    Raises
    ------
    FunctionsOff
        If there is no key.
    WrongKey
        If it was signed with another key.
    """
    if result is None or not calls.is_call(task_type):
        return result
    if key is None:
        raise FunctionsOff(
            f"expected a signing key to open the result of task {task_id}, which is pickled, got none: "
            f"give Client(signing_key=...) the server's NEXUSQ_SIGNING_KEY, or set that variable"
        )
    try:
        returned = msgspec.convert(result, calls.Returned)
        return pickle.loads(calls.unseal(key, task_id, calls.from_text(returned.pickle)))
    except (BadSignature, msgspec.ValidationError) as error:
        raise WrongKey(f"the result of task {task_id} was not opened: {error}") from None


def printed(task_type: str, result: Any) -> str:
    """Give what a function by value has printed."""
    return str(result.get("stdout", "")) if calls.is_call(task_type) and isinstance(result, dict) else ""


def open_column(columns: dict[str, list[Any]], key: bytes | None) -> dict[str, list[Any]]:
    """Open the results of functions among a frame's columns; of what can't be opened it says why in its place."""
    types = columns["taskType"]
    if not any(name is not None and calls.is_call(name) for name in set(types)):
        return columns
    opened = []
    for task_type, task_id, result in zip(types, columns["taskId"], columns["result"], strict=True):
        value = result
        if result is not None and task_type is not None and calls.is_call(task_type):
            try:
                value = open_result(task_type, task_id, result, key)
            except FunctionsOff:
                value = UNREAD
            except Exception as error:  # a signature, a module that is missing here: the rest is to be seen
                value = f"<pickled: {error}>"
        opened.append(value)
    return {**columns, "result": opened}


def _key(server: Blobs) -> bytes:
    if server.signing_key is None:
        raise FunctionsOff(
            "expected a signing key, since functions are sent pickled and signed, got none: give "
            "Client(signing_key=...) the server's NEXUSQ_SIGNING_KEY, or set that variable. `nexusq up` and "
            "nexusq_sdk.local() make one by themselves; for other servers see `nexusq settings`"
        )
    return server.signing_key


def _arguments(rows: Any) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    if index_of(rows) is not None:
        if rows.ndim == 1:
            return (((value,), {}) for value in rows)
        return _frame_arguments(rows, field_names(rows))
    if isinstance(rows, str | bytes | dict) or not isinstance(rows, Iterable):
        raise TypeError(
            f"expected rows to be a DataFrame or an iterable of values, one for each call, got {type(rows).__name__}"
        )
    return (((value,), {}) for value in rows)


def _frame_arguments(frame: pd.DataFrame, names: list[str]) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    for start in range(0, len(frame), SLICE):
        part = frame.iloc[start : start + SLICE]
        # By position: a column's values as pandas gives them one by one, Timestamps and numbers of Python.
        values = [part.iloc[:, position].tolist() for position in range(len(names))]
        for row in zip(*values, strict=True):
            yield (), dict(zip(names, row, strict=True))


class _FunctionPickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """Notes which modules a function refers to, beyond Python's own."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.modules: set[str] = set()

    def reducer_override(self, obj: Any) -> Any:
        reduced = super().reducer_override(obj)
        if isinstance(obj, ModuleType):
            self._note(obj.__name__)
        elif reduced is NotImplemented and isinstance(obj, type | FunctionType | BuiltinFunctionType):
            self._note(obj.__module__)  # by its name; otherwise it comes along
        return reduced

    def _note(self, name: object) -> None:
        module = name.partition(".")[0] if isinstance(name, str) else ""
        if module in sys.stdlib_module_names or module in _CARRIED or module not in sys.modules:
            return
        if not {name, module} & cloudpickle.list_registry_pickle_by_value():
            self.modules.add(module)


#: Not looked for on the worker: what is defined there comes along, or is NexusQ's own.
_CARRIED = frozenset({"__main__", "__mp_main__", "cloudpickle", "nexusq_sdk"})


class _ArgumentPickler(cloudpickle.Pickler):  # type: ignore[misc]  # as above
    """Sends large arrays and frames apart: many tasks that are given the same one share it."""

    def __init__(self, file: io.BytesIO, server: Blobs, key: bytes) -> None:
        super().__init__(file)
        self._server = server
        self._key = key

    def persistent_id(self, obj: Any) -> str | None:
        if _size(obj) < APART_BYTES:
            return None
        blob = calls.seal(self._key, calls.VALUE, cloudpickle.dumps(obj))
        blob_id = blobs.blob_id(blob)
        self._server.put_blob(blob_id, blob)
        return blob_id


def _size(obj: Any) -> int:
    kind = type(obj)
    module = kind.__module__
    if module == "numpy":
        return int(obj.nbytes) if kind.__name__ == "ndarray" else 0
    if module.startswith("pandas.") and kind.__name__ in {"DataFrame", "Series"}:
        usage = obj.memory_usage(index=True)
        return int(usage if kind.__name__ == "Series" else usage.sum())
    if module.startswith("scipy.sparse") and hasattr(obj, "data"):
        return int(getattr(obj.data, "nbytes", 0))
    return 0


@cache
def _distribution(module: str) -> tuple[str, str]:
    """Give the distribution that a module belongs to, and its version; empty where there is none."""
    try:
        return module, metadata.version(module)  # most are called what they hold
    except metadata.PackageNotFoundError:
        names = metadata.packages_distributions().get(module)
        return (names[0], metadata.version(names[0])) if names else ("", "")


def _source(function: Any) -> calls.Source | None:
    try:
        function = inspect.unwrap(function)
        lines, first = inspect.getsourcelines(function)
        return calls.Source(file=inspect.getfile(function), first=max(first, 1), lines=lines)
    except (OSError, TypeError, ValueError, IndexError, SyntaxError):
        return None


def _culprit(function: Any) -> str:
    """Name what a function refers to that can't be pickled."""
    try:
        refers = inspect.getclosurevars(function)
    except (TypeError, ValueError):
        return ""
    found = _unpicklable({**refers.globals, **refers.nonlocals})
    return f"; it refers to {found}" if found else ""


def _culprit_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Name the argument that can't be pickled, where there are several."""
    named = {f"argument {place}": value for place, value in enumerate(args, 1)} | dict(kwargs)
    found = _unpicklable(named) if len(named) > 1 else ""
    return f"; that is {found}" if found else ""


def _unpicklable(values: Mapping[str, Any]) -> str:
    for name, value in values.items():
        try:
            cloudpickle.dumps(value)
        except Exception:
            return f"{name!r}, a {type(value).__qualname__}"
    return ""


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
