"""Records in a worker's hand that are not claimed yet: by where they will run and by topic, handed out by priority.

Used by the worker's loop alone. Small on purpose: what waits here is seen as QUEUED, and another worker could have it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from nexusq_sdk.protocol.words import WEIGHTS, Priority
from nexusq_server.work import Received

#: Records of one topic in hand beyond which its fetching pauses, and below which it goes on.
FULL, ROOM = 2000, 1000
#: Bytes of records in hand beyond which all fetching pauses.
FULL_BYTES = 64 * 1024 * 1024

Lane = tuple[str, str]  # queue, priority


class Pending:
    """The records. `kinds` are the executors' names."""

    def __init__(self, kinds: tuple[str, ...]) -> None:
        self._lanes: dict[str, dict[Lane, deque[Received]]] = {kind: {} for kind in kinds}
        self._credit: dict[tuple[str, Lane], float] = {}
        self._count: dict[Lane, int] = {}
        self._bytes = 0
        self._full: set[Lane] = set()

    def __len__(self) -> int:
        return sum(self._count.values())

    def add(self, kind: str, received: Received, *, first: bool = False) -> None:
        """Put a record behind the others of its topic, or before them."""
        lane = (received.queue, received.priority)
        records = self._lanes[kind].setdefault(lane, deque())
        if first:
            records.appendleft(received)
        else:
            records.append(received)
        self._count[lane] = self._count.get(lane, 0) + 1
        self._bytes += received.size

    def extend(self, kind: str, lane: Lane, received: Sequence[Received]) -> None:
        """Put records of one topic behind the others."""
        self._lanes[kind].setdefault(lane, deque()).extend(received)
        self._count[lane] = self._count.get(lane, 0) + len(received)
        self._bytes += sum([entry.size for entry in received])

    def take(self, kind: str, wanted: int) -> list[Received]:
        """Give up to `wanted` records, shared out over priorities by weight, evenly over queues.

        Each lane earns credit by its weight with every record that is handed out and pays for its own: whoever has
        waited long comes first, and a lane alone gets everything.
        """
        waiting = {lane: records for lane, records in self._lanes[kind].items() if records}
        taken: list[Received] = []
        while waiting and len(taken) < wanted:
            if len(waiting) == 1:
                [(lane, records)] = waiting.items()
                taken += self._pop(lane, records, wanted - len(taken))
                self._credit.pop((kind, lane), None)
                break
            room = wanted - len(taken)
            total = sum(WEIGHTS[Priority(priority)] for _, priority in waiting)
            for lane in waiting:
                key = (kind, lane)
                self._credit[key] = self._credit.get(key, 0.0) + room * WEIGHTS[Priority(lane[1])] / total
            for lane in sorted(waiting, key=lambda lane: -self._credit[kind, lane]):
                records = waiting[lane]
                share = self._pop(lane, records, min(wanted - len(taken), max(1, round(self._credit[kind, lane]))))
                self._credit[kind, lane] -= len(share)
                taken += share
                if not records:
                    # Credit is for those who wait: it is not saved up.
                    del waiting[lane]
                    del self._credit[kind, lane]
        return taken

    def waits(self, kind: str) -> bool:
        """Whether a record waits for this kind of executor."""
        return any(self._lanes[kind].values())

    def count(self, kind: str) -> int:
        """Give how many records wait for this kind of executor."""
        return sum(map(len, self._lanes[kind].values()))

    def full(self) -> set[Lane]:
        """Give the topics of which there is enough in hand."""
        if self._bytes >= FULL_BYTES:
            return set(self._count)
        for lane, count in self._count.items():
            if count >= FULL:
                self._full.add(lane)
            elif count < ROOM:
                self._full.discard(lane)
        return self._full

    def clear(self) -> list[Received]:
        """Let go of all records, and give them."""
        gone = [received for lanes in self._lanes.values() for records in lanes.values() for received in records]
        for lanes in self._lanes.values():
            lanes.clear()
        self._count.clear()
        self._full.clear()
        self._bytes = 0
        return gone

    def _pop(self, lane: Lane, records: deque[Received], count: int) -> list[Received]:
        popped = [records.popleft() for _ in range(min(count, len(records)))]
        self._count[lane] -= len(popped)
        self._bytes -= sum(received.size for received in popped)
        return popped
