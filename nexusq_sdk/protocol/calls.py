"""Functions that travel by value: what their tasks are called, the form of payloads and results, what is said of them.

A function is a blob: a line of JSON (`Head`), then what cloudpickle made of it, all of it signed. Its tasks' payloads
name the blob and carry the arguments; results carry what it returned. Everything that is pickled is sealed: signed
together with what it belongs to, so that nobody without the key can put it elsewhere. Imports the standard library and
msgspec; whoever has verified a seal does the unpickling.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable
from typing import Any, Literal

import msgspec

from nexusq_sdk.protocol import blobs
from nexusq_sdk.protocol.blobs import BadSignature
from nexusq_sdk.protocol.wire import Answer, Strict
from nexusq_sdk.protocol.words import TASK_TYPE

#: The base types: in a child process, and in a thread. A function's tasks are of type ``call:NAME``.
CALL, CALL_THREAD = "call", "call.thread"
CALLS = frozenset({CALL, CALL_THREAD})
BASES: dict[str, str] = {"process": CALL, "thread": CALL_THREAD}
#: The name of a blob.
BLOB_ID = re.compile(r"[0-9a-f]{64}")
#: What large values among arguments are sealed with: they are blobs of their own, whoever refers to them.
VALUE = "value"
_UNFIT = re.compile(r"[^A-Za-z0-9_.-]+", re.ASCII)


class Call(Strict):
    """The payload of a function's task: its blob's name, and its sealed arguments in base64.

    A small function that is called once travels along as `code`, in base64: nobody has to keep it.
    """

    function: str
    arguments: str
    code: str = ""


class Returned(Answer):
    """The result of a function's task: what it returned, sealed, in base64; and what it printed."""

    pickle: str
    stdout: str = ""


class Source(msgspec.Struct):
    """Where a function's lines stand: a worker's traceback shows them, be they a cell's."""

    file: str
    first: int
    lines: list[str]


class Head(msgspec.Struct, omit_defaults=True):
    """What is said of a function before it is unpickled.

    `python` is the interpreter's version without its last part, ``3.11``; `packages` names for each module that it
    refers to the distribution and its version (both empty where it belongs to none).
    """

    python: str
    name: str
    packages: dict[str, tuple[str, str]] = {}
    source: Source | None = None


def type_of(name: str, executor: Literal["process", "thread"] = "process") -> str:
    """Name the type of a function's tasks: ``call:NAME``, with NAME made fit for it."""
    fit = _UNFIT.sub("-", name).strip("-") or "function"
    task_type = f"{BASES[executor]}:{fit}"[:100]
    assert TASK_TYPE.fullmatch(task_type)
    return task_type


def base_type(task_type: str) -> str:
    """Give the type that a handler is registered under: ``call`` for ``call:NAME``, all others as they are."""
    base, colon, _ = task_type.partition(":")
    return base if colon and base in CALLS else task_type


def is_call(task_type: str) -> bool:
    """Whether tasks of this type run a function that was sent by value."""
    return base_type(task_type) in CALLS


def seal(key: bytes, about: str, pickled: bytes) -> bytes:
    """Sign pickled bytes together with what they belong to: a function's blob, a task, `VALUE`."""
    return blobs.sign(key, about.encode() + b"\n" + pickled)


def unseal(key: bytes, about: str, sealed: bytes) -> bytes:
    """Give the pickled bytes back.

    Raises
    ------
    BadSignature
        If they were signed with another key, or belong to something else.
    """
    has, _, pickled = blobs.verify(key, sealed).partition(b"\n")
    if has != about.encode():
        raise BadSignature(f"expected signed bytes that belong to {about}, got others: they were put there by hand")
    return pickled


def to_text(sealed: bytes) -> str:
    """Give bytes in base64."""
    return base64.b64encode(sealed).decode()


def from_text(text: str) -> bytes:
    """Give the bytes that `to_text` was given. Raises `BadSignature` if it never was."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadSignature("expected signed bytes of NexusQ in base64, got others") from None


def pack_function(key: bytes, head: Head, pickled: bytes) -> bytes:
    """Give a function's blob."""
    return blobs.sign(key, msgspec.json.encode(head) + b"\n" + pickled)


def unpack_function(key: bytes, blob: bytes) -> tuple[Head, bytes]:
    """Give what is said of a function, and its pickled bytes.

    Raises
    ------
    BadSignature
        If they were signed with another key or are no function.
    """
    head, _, pickled = blobs.verify(key, blob).partition(b"\n")
    try:
        return msgspec.json.decode(head, type=Head), pickled
    except msgspec.DecodeError:
        raise BadSignature("expected a function's signed bytes, got something else's") from None


def run_chunk(function: Callable[..., Any], chunk: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Call a function for each of several tuples of arguments: what `Executor.map` sends with a `chunksize`."""
    return [function(*args) for args in chunk]


def run_batch(calls: Callable[[], Any]) -> Any:
    """Make joblib's batch of calls."""
    return calls()
