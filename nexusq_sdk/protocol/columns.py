"""How many tasks are read from Redis at once, by columns: one way for the API and for `RedisView`.

Results, errors, payloads and log lines are JSON in Redis already, numbers look the same: they are joined to columns,
and no one decodes them before the reader does. Rows of a batch, whose keys follow from each other, are read by
``SORT_RO``, which gives fields of many hashes in one answer (redis.io/docs/latest/commands/sort); any other tasks by
``read_columns.lua``, which costs Redis twice as much: each value is made a string of Lua's first.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import msgspec

from nexusq_sdk.protocol.redis_layout import ROWS, batch_key, task_key
from nexusq_sdk.protocol.wire import COLUMNS, PAYLOAD_COLUMN
from nexusq_sdk.protocol.words import Status

#: Tasks a script call: about 5 ms, for which Redis does nothing else.
SLICE = 1000
#: Rows of a batch in one answer: as many as are sure to fit where results suddenly are as large as they may be, and so
#: many that their number does not show in the rate. The first ones tell how large rows are.
LOT, FIRST_LOT, _LOT_BYTES = 250, 16, 2**20
_OPEN = """
if redis.call('EXISTS', KEYS[1]) == 0 then
  for _, form in ipairs({ '%d', '%03d' }) do
    for number = 0, 999 do redis.call('RPUSH', KEYS[1], string.format(form, number)) end
  end
end
return redis.call('HMGET', KEYS[2], 'said', 'closed', 'size', 'COMPLETED')"""
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


#: What handlers say of their tasks.
_SAID = frozenset({"progress", "progressText", "log"})
#: What `results=False` leaves out.
_LARGE = _SAID | {"result", "error"}


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


class BatchRows:
    """Reads rows `first` to `end` of a batch in lots: what Redis is to be asked next, and what it has answered.

    `opening` is the command to begin with. Of what `ask` gives, several may be on their way.
    """

    def __init__(self, batch_id: str, first: int, end: int, names: Sequence[str]) -> None:
        self.opening: list[str | int] = ["EVAL", _OPEN, 2, ROWS, batch_key(batch_id)]
        self._batch_id, self._at, self._end = batch_id, first, end
        self._names = self._there = names
        self._lot = FIRST_LOT

    def opened(self, answer: Sequence[bytes | None]) -> None:
        """Take the answer to `opening`."""
        said, closed, size, completed = answer
        absent = frozenset[str]() if said else _SAID
        if closed and size == completed:  # for ever: nothing is taken back of what has COMPLETED
            absent |= {"error"}
        self._there = [name for name in self._names if name not in absent]

    def ask(self) -> tuple[int, list[str | int]] | None:
        """Give of how many rows it asks and the command; None: of none are left to ask."""
        above, below = divmod(self._at, 1000)
        count = min(self._lot, 1000 - below, self._end - self._at)
        if count <= 0:
            return None
        self._at += count
        task = task_key(f"{self._batch_id}-{above or ''}*")
        fetched = itertools.chain.from_iterable(("GET", f"{task}->{name}") for name in self._there)
        return count, ["SORT_RO", ROWS, "BY", "nosort", "LIMIT", below + 1000 * (above > 0), count, *fetched]

    def answer(self, count: int, cells: Sequence[bytes | None]) -> Read:
        """Take what Redis answered of so many rows."""
        width = len(self._there)
        found = {name: _joined(name, cells[place::width]) for place, name in enumerate(self._there)}
        read = Read(count, range(count), [found.get(name) or _nulls(count) for name in self._names])
        self._lot = max(1, min(LOT, _LOT_BYTES * count // read.bytes))
        return read


def _joined(name: str, cells: Sequence[bytes | None]) -> bytes:
    if cells.count(None) == len(cells):
        return _nulls(len(cells))
    if name in _TEXT:
        # Most come again and again.
        shown = {cell: b"null" if cell is None else _encode(cell.decode(errors="replace")) for cell in set(cells)}
        return b",".join([shown[cell] for cell in cells])
    return b",".join([b"null" if cell is None else cell for cell in cells])


def _nulls(count: int) -> bytes:
    return (b"null," * count)[:-1]


def page(task_ids: Sequence[str], names: Sequence[str], parts: Sequence[Read], cursor: str | None) -> bytes:
    """Give the JSON of a `wire.TaskPage`."""
    columns = [b'"taskId":' + _encode(task_ids)]
    for at, name in enumerate(names):
        filled = (part.columns[at] for part in parts if part.columns[at])
        columns.append(b'"%b":[%b]' % (name.encode(), b",".join(filled)))
    return b'{"columns":{%b},"nextCursor":%b}' % (b",".join(columns), _encode(cursor))
