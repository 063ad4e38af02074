"""Which offset of each partition may be committed: the lowest record that is not settled yet. Pure bookkeeping.

The intake's thread says what was received, the settler's what is settled, the durability thread asks what may be
committed, Kafka's own thread what was lost: a lock guards all of it. Only offsets that were received are tracked,
never a made-up range: compaction and transaction markers leave holes. Each assignment of a partition has an epoch:
what belongs to an assignment that was lost counts no more.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

P = TypeVar("P", bound=Hashable)
P_co = TypeVar("P_co", bound=Hashable, covariant=True)


class Placed(Protocol[P_co]):
    """A record that knows where it came from: a partition during one assignment of it, and the offset."""

    @property
    def partition(self) -> P_co:
        """The partition."""

    @property
    def epoch(self) -> int:
        """The assignment's number."""

    @property
    def offset(self) -> int:
        """The record's offset."""


class Place(NamedTuple, Generic[P]):
    """That alone."""

    partition: P
    epoch: int
    offset: int


class _Partition:
    __slots__ = ("epoch", "next", "open", "settled", "since")

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.open: deque[int] = deque()  # received and not below the watermark, ascending
        self.settled: set[int] = set()  # those of `open` that are settled
        self.next = 0  # one past the highest offset received
        self.since = 0.0  # when the lowest open offset became the lowest

    def advance(self) -> None:
        """Drop what is settled from the low end."""
        moved = False
        while self.open and self.open[0] in self.settled:
            self.settled.discard(self.open.popleft())
            moved = True
        if moved:
            self.since = time.monotonic()


class Offsets(Generic[P]):
    """The books of all partitions that are assigned now."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._partitions: dict[P, _Partition] = {}
        self._epochs = 0
        self._losses = 0
        self._lost_at: dict[P, int] = {}

    @property
    def losses(self) -> int:
        """How often partitions were lost so far: to be read before polling, and given to `received`."""
        return self._losses

    def received(self, partition: P, offsets: Sequence[int], losses: int | None = None) -> int | None:
        """Note records in their order, at least one; give the epoch under which they came.

        None if the partition was lost since `losses` was read: it is not known under which assignment they came, so
        they are to be read again. A first offset that is not above the last one (a consumer that was reset) starts a
        new epoch.
        """
        with self._lock:
            if losses is not None and self._lost_at.get(partition, 0) > losses:
                return None
            book = self._partitions.get(partition)
            if book is None or offsets[0] < book.next:
                self._epochs += 1
                book = self._partitions[partition] = _Partition(self._epochs)
            if not book.open:
                book.since = time.monotonic()
            book.open.extend(offsets)
            book.next = offsets[-1] + 1
            return book.epoch

    def settled(self, records: Iterable[Placed[P]]) -> None:
        """Note that records need not be read again: their tasks have ended, or are kept safe elsewhere."""
        with self._lock:
            for record in records:
                book = self._partitions.get(record.partition)
                # What lies below the watermark was parked: it is settled already.
                if (
                    book is not None
                    and book.epoch == record.epoch
                    and book.open
                    and (offset := record.offset) >= book.open[0]
                ):
                    book.settled.add(offset)

    def committable(self) -> dict[P, int]:
        """Give for each partition the offset to go on from after a restart."""
        with self._lock:
            result = {}
            for partition, book in self._partitions.items():
                book.advance()
                if book.open:
                    result[partition] = book.open[0]
                else:
                    result[partition] = book.next
            return result

    def holding(self, seconds: float, gap: int) -> list[Place[P]]:
        """Give the records that hold a partition's commit back for longer, or hold back more than `gap` others."""
        found = []
        limit = time.monotonic() - seconds
        with self._lock:
            for partition, book in self._partitions.items():
                book.advance()
                if book.open and (book.since < limit or len(book.settled) > gap):
                    found.append(Place(partition, book.epoch, book.open[0]))
        return found

    def current(self, record: Placed[P]) -> bool:
        """Whether the assignment under which the record was received still holds."""
        book = self._partitions.get(record.partition)
        return book is not None and book.epoch == record.epoch

    def lost(self, partitions: Iterable[P]) -> None:
        """Forget partitions that are another worker's now, or that are read again from the last commit."""
        with self._lock:
            self._losses += 1
            for partition in partitions:
                self._partitions.pop(partition, None)
                self._lost_at[partition] = self._losses
