"""Named batches: submitted once, however often the cell runs, whichever kernel it runs in.

The rows are encoded into a temporary file first; their digest is held against that of the batch that has the name, and
only what is not there yet is sent. Memory stays constant, whatever an iterable gives.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import tempfile
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator
from types import CodeType
from typing import Any, ClassVar, NamedTuple

import msgspec

from nexusq_sdk.connection import Connection
from nexusq_sdk.errors import UnknownTask
from nexusq_sdk.protocol import calls, ids
from nexusq_sdk.protocol.wire import BatchView, Options
from nexusq_sdk.protocol.words import DEFAULT_QUEUE
from nexusq_sdk.sending import send_batch

#: Bytes of the rows that are kept in memory; the rest waits in a temporary file.
SPOOLED_BYTES = 32_000_000


class Inputs(NamedTuple):
    """What tells a batch's inputs from others': what is done to the rows, and what of a payload counts."""

    work: str
    of: Callable[[bytes], bytes]


def send_named(
    connection: Connection,
    task_type: str,
    payloads: Iterator[bytes],
    said: Options,
    name: str,
    *,
    new: bool = False,
    inputs: Inputs | None = None,
) -> BatchView:
    """Give the batch of this name, submitted if it is not there; ``new``: another one takes the name.

    `inputs`: otherwise the task type and the payloads as they are.

    Raises
    ------
    NameTaken
        If the batch of this name has other inputs. Nothing was sent then.
    """
    check_name(name)
    if said.idempotency_key is not None:
        raise ValueError("expected name or idempotency_key, got both: a named batch is submitted once anyway")
    counted = inputs or Inputs(task_type, bytes)
    with tempfile.SpooledTemporaryFile(SPOOLED_BYTES) as spool:

        def kept() -> Iterator[bytes]:
            for payload in payloads:
                spool.write(payload + b"\n")  # JSON as it is encoded has no line breaks
                yield counted.of(payload)

        told = digest(counted.work, said, kept())
        # Made from name and inputs: even a Redis that has lost the name gets the same batch again.
        wanted = ids.new_id() if new else ids.named_id(name, told)
        batch_id = connection.name_batch(name, wanted, told, new=new).batch_id
        with contextlib.suppress(UnknownTask):
            view = connection.batch(batch_id)
            if view.closed:
                return view
        # Not there yet, or only in part: whoever was sending it may be gone. Rows that are there stay as they are.
        spool.seek(0)
        view = send_batch(connection, task_type, (line[:-1] for line in spool), said, batch_id)
        return msgspec.structs.replace(view, name=name)


def digest(work: str, said: Options, inputs: Iterable[bytes]) -> str:
    """Give what tells a batch's inputs from others': the work (its task type), the queue, the rows in their order.

    Options that say when, how often or how urgently do not count: what comes out is the same.

    Examples
    --------
    >>> one = digest("ECHO", Options(), [b"1", b"2"])
    >>> one == digest("ECHO", Options(max_attempts=3), [b"1", b"2"]), one == digest("ECHO", Options(), [b"12"])
    (True, False)
    """
    found = hashlib.sha256(f"{work}\n{said.queue or DEFAULT_QUEUE}\n".encode())
    for row in inputs:
        found.update(hashlib.sha256(row).digest())  # of one length: where a row ends is not up to the row
    return found.hexdigest()


def check_name(name: str) -> None:
    """Raise `ValueError` for what can't name a batch."""
    if not isinstance(name, str) or not ids.is_batch_name(name):
        raise ValueError(
            f"expected a batch's name to be such as 'exp-7' (a letter or digit, then letters, digits, '_', '.', ':' "
            f"or '-'; 100 at most; no uuid), got {name!r}"
        )


def call_inputs(function: Callable[..., Any], task_type: str, key: bytes | None) -> Inputs:
    """Give what counts of a function's calls: the function without the cell's file name, and the arguments unsealed.

    Blobs and seals differ from kernel to kernel, since a cell's file does.
    """

    def arguments(payload: bytes) -> bytes:
        call = msgspec.json.decode(payload, type=calls.Call)
        assert key is not None  # the payload was sealed with it
        return calls.unseal(key, call.function, calls.from_text(call.arguments))

    return Inputs(f"{task_type} {hashlib.sha256(fingerprint(function)).hexdigest()}", arguments)


def fingerprint(function: Callable[..., Any]) -> bytes:
    """Give bytes that are the same for the same function, and what it refers to, in any cell and any kernel."""
    import cloudpickle  # noqa: PLC0415 - only for functions by value

    usual = cloudpickle.Pickler.dispatch_table

    def placeless(code: CodeType) -> Any:
        return usual[CodeType](code.replace(co_filename="", co_firstlineno=1, co_linetable=b""))

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        dispatch_table: ClassVar[Any] = ChainMap({CodeType: placeless}, usual)

    buffer = io.BytesIO()
    Pickler(buffer).dump(function)
    return buffer.getvalue()
