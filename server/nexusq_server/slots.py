"""What a worker runs right now, in memory that outlives it: a page shared with its lease keeper.

Every place that runs a handler has a slot and writes the task's id into it before the handler starts. When the worker
is killed, its keeper reads the slots and knows exactly which tasks had started. Each slot has one writer at a time;
anyone may read. A half-written slot reads as empty.

The page also says until when the lease surely lasts, and how often it has been taken anew because it had run out: what
was claimed under an earlier one may be another worker's by now.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import time

from nexusq_sdk.protocol.ids import is_task_id

SLOT_BYTES = 64  # one byte for the length, then the id: 47 at most
#: Until when the lease lasts (`time.monotonic`, which all processes share), and the lease's number: a double and a
#: whole number of 8 bytes, native, so that each is written at once.
_HEADER_BYTES = 16


class Slots:
    """The page. `fileno` is handed to the keeper, which opens the same page with it."""

    def __init__(self, count: int, fileno: int | None = None) -> None:
        self.count = count
        size = _HEADER_BYTES + count * SLOT_BYTES
        if fileno is None:
            with tempfile.TemporaryFile() as file:
                file.truncate(size)
                self.fileno = os.dup(file.fileno())
        else:
            self.fileno = fileno
        self._page = mmap.mmap(self.fileno, size)
        # Looked at for every task: a cast reads them in a third of the time that `struct` takes.
        self._until = memoryview(self._page)[:8].cast("d")
        self._number = memoryview(self._page)[8:_HEADER_BYTES].cast("Q")

    def renew(self, until: float, anew: bool) -> None:
        """Say until when the lease lasts; `anew`: it had run out before. Called by the keeper."""
        if anew:
            # First: whoever sees the new time sees the new number.
            self._number[0] += 1
        self._until[0] = until

    @property
    def lease(self) -> int:
        """The number of the lease that was taken last; 0: none yet."""
        return self._number[0]

    def covers(self, lease: int, seconds: float = 0.0) -> bool:
        """Whether the lease of this number lasts for so many seconds from now at the least."""
        return self._until[0] - time.monotonic() > seconds and self._number[0] == lease

    def start(self, slot: int, task_id: str) -> None:
        """Say that `slot` runs a task from now on."""
        at = _HEADER_BYTES + slot * SLOT_BYTES
        name = task_id.encode()
        self._page[at] = 0  # what is there may be another task's
        self._page[at + 1 : at + 1 + len(name)] = name
        self._page[at] = len(name)

    def end(self, slot: int) -> None:
        """Say that `slot` runs nothing."""
        self._page[_HEADER_BYTES + slot * SLOT_BYTES] = 0

    def running(self) -> list[str]:
        """Give the ids of the tasks that have started and not ended."""
        found = []
        for at in range(_HEADER_BYTES, len(self._page), SLOT_BYTES):
            name = self._page[at + 1 : at + 1 + self._page[at]].decode("ascii", "replace")
            if name and is_task_id(name):
                found.append(name)
        return found

    def close(self) -> None:
        """Let go of the page."""
        self._until.release()
        self._number.release()
        self._page.close()
        os.close(self.fileno)
