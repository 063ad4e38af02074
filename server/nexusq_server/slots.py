"""What a worker runs right now, in memory that outlives it: a page shared with its lease keeper.

Every place that runs a handler has a slot and writes the task's id into it before the handler starts. When the worker
is killed, its keeper reads the slots and knows exactly which tasks had started. Each slot has one writer at a time;
anyone may read. A half-written slot reads as empty.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile

from nexusq_sdk.protocol.ids import is_task_id

SLOT_BYTES = 64  # one byte for the length, then the id: 47 at most
_HEADER = struct.Struct("=d")  # when the lease was last renewed, on the clock that all processes share


class Slots:
    """The page. `fileno` is handed to the keeper, which opens the same page with it."""

    def __init__(self, count: int, fileno: int | None = None) -> None:
        self.count = count
        size = _HEADER.size + count * SLOT_BYTES
        if fileno is None:
            with tempfile.TemporaryFile() as file:
                file.truncate(size)
                self.fileno = os.dup(file.fileno())
        else:
            self.fileno = fileno
        self._page = mmap.mmap(self.fileno, size)
        if fileno is None:
            self.renewed = float("-inf")

    @property
    def renewed(self) -> float:
        """When the lease was last renewed (`time.monotonic`). Written by the keeper, read by the worker."""
        return float(_HEADER.unpack_from(self._page)[0])

    @renewed.setter
    def renewed(self, when: float) -> None:
        _HEADER.pack_into(self._page, 0, when)

    def start(self, slot: int, task_id: str) -> None:
        """Say that `slot` runs a task from now on."""
        at = _HEADER.size + slot * SLOT_BYTES
        name = task_id.encode()
        self._page[at + 1 : at + 1 + len(name)] = name
        self._page[at] = len(name)

    def end(self, slot: int) -> None:
        """Say that `slot` runs nothing."""
        self._page[_HEADER.size + slot * SLOT_BYTES] = 0

    def running(self) -> list[str]:
        """Give the ids of the tasks that have started and not ended."""
        found = []
        for at in range(_HEADER.size, len(self._page), SLOT_BYTES):
            name = self._page[at + 1 : at + 1 + self._page[at]].decode("ascii", "replace")
            if name and is_task_id(name):
                found.append(name)
        return found

    def close(self) -> None:
        """Let go of the page."""
        self._page.close()
        os.close(self.fileno)
