"""How many tasks are read from Redis at once, by columns: one way for the API and for `RedisView`.

Results, errors, payloads and log lines are JSON in Redis already, numbers look the same: ``read_columns.lua`` joins
them to columns, and no one decodes them before the reader does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import msgspec

from nexusq_sdk.protocol.wire import COLUMNS, PAYLOAD_COLUMN
from nexusq_sdk.protocol.words import Status

#: Tasks a script call: about 5 ms, for which Redis does nothing else.
SLICE = 1000
#: When a page has so many bytes it is handed out, however many of its tasks are left.
PAGE_BYTES = 8 * 2**20
#: Fields of a task's hash that are names or text; all others are JSON as they stand.
_TEXT = frozenset({"taskType", "status", "worker", "progressText", "queue", "priority"})
_pack = msgspec.msgpack.Encoder().encode
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[Any]).decode


@dataclass(frozen=True)
class Wanted:
    """Which tasks are to be read, and how many; None: any."""

    status: Status | None = None
    task_type: str | None = None
    since_us: int | None = None
    rows: int | None = None


@dataclass(frozen=True)
class Read:
    """What a script call has read: the first `looked` of the tasks that were named; those that fit; their columns."""

    looked: int
    positions: Sequence[int]
    columns: Sequence[bytes]

    @property
    def bytes(self) -> int:
        """How much it is."""
        return sum(map(len, self.columns))

    def lists(self) -> list[list[Any]]:
        """Give the columns decoded."""
        return [_decode(b"[%b]" % column) for column in self.columns]


def fields(*, payload: bool = False, results: bool = True) -> tuple[str, ...]:
    """Give the fields of a page, beside the ids."""
    names = COLUMNS[1:] if results else tuple(name for name in COLUMNS[1:] if name not in _LARGE)
    return (*names, PAYLOAD_COLUMN) if payload else names


#: What `results=False` leaves out.
_LARGE = frozenset({"result", "error", "progress", "progressText", "log"})


def script() -> str:
    """Give the script."""
    return (files("nexusq_sdk.protocol") / "read_columns.lua").read_text()


def arguments(
    task_ids: Sequence[str], names: Sequence[str], most_bytes: int = PAGE_BYTES, wanted: Wanted | None = None
) -> list[bytes | int]:
    """Give the script's arguments."""
    asked = b""
    if wanted is not None:
        said = (("status", wanted.status), ("taskType", wanted.task_type), ("sinceUs", wanted.since_us))
        asked = _pack({name: value for name, value in (*said, ("rows", wanted.rows)) if value is not None})
    return [
        _pack(list(task_ids)),
        _pack(list(names)),
        _pack([int(name not in _TEXT) for name in names]),
        most_bytes,
        asked,
    ]


def answer(raw: Sequence[Any], wanted: Wanted | None = None) -> Read:
    """Read the script's answer."""
    looked, fit, *columns = raw
    return Read(looked, range(looked) if wanted is None else [place - 1 for place in fit], columns)


def page(task_ids: Sequence[str], names: Sequence[str], parts: Sequence[Read], cursor: str | None) -> bytes:
    """Give the JSON of a `wire.TaskPage`."""
    columns = [b'"taskId":' + _encode(task_ids)]
    for at, name in enumerate(names):
        filled = (part.columns[at] for part in parts if part.columns[at])
        columns.append(b'"%b":[%b]' % (name.encode(), b",".join(filled)))
    return b'{"columns":{%b},"nextCursor":%b}' % (b",".join(columns), _encode(cursor))
