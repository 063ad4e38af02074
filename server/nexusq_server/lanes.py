"""How queues stand in Kafka: what has been produced, what is done with. Blocking: called in a thread, one at a time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import OffsetSpec

from nexusq_sdk.protocol.words import DEFAULT_QUEUE, Priority
from nexusq_server.topics import DEAD_LETTERS, group, topic

PREFIX = topic(DEFAULT_QUEUE)
#: A rate is that of the last half minute, as far as somebody asked meanwhile.
WINDOW = 30.0

Lane = tuple[str, str]


class Stand(NamedTuple):
    """One lane: records that are not done with, and how fast they were lately (None: not seen yet)."""

    lag: int
    rate_per_second: float | None


def lane_of(name: str) -> Lane | None:
    """Give the queue and the priority of a topic; None for one that holds no tasks.

    Examples
    --------
    >>> lane_of("task-queue"), lane_of("task-queue.low"), lane_of("task-queue.mails.high"), lane_of("task-queue.dead")
    (('default', 'normal'), ('default', 'low'), ('mails', 'high'), None)
    """
    if name == DEAD_LETTERS or not (name == PREFIX or name.startswith(f"{PREFIX}.")):
        return None
    parts = name.removeprefix(PREFIX).split(".")[1:]
    priority = parts.pop() if parts and parts[-1] in {"high", "low"} else Priority.NORMAL.value

    return (parts[0] if parts else DEFAULT_QUEUE, priority) if len(parts) < 2 else None


class Lanes:
    """Reads offsets. Remembers those of the last half minute, for the rates."""

    def __init__(self) -> None:
        self._past: deque[tuple[float, dict[Lane, int]]] = deque()

    def read(self, admin: KafkaAdminClient) -> dict[Lane, Stand]:
        """Give how every lane stands. Raises `kafka.errors.KafkaError`."""
        lanes = {name: lane for name in admin.list_topics() if (lane := lane_of(name)) is not None}
        parts = [
            TopicPartition(described["name"], partition["partition_index"])
            for described in (admin.describe_topics(list(lanes)) if lanes else [])
            for partition in described["partitions"]
        ]
        if not parts:
            return {}
        ends = admin.list_partition_offsets(dict.fromkeys(parts, OffsetSpec.LATEST))
        starts = admin.list_partition_offsets(dict.fromkeys(parts, OffsetSpec.EARLIEST))
        groups = admin.list_group_offsets({group(queue): None for queue, _ in lanes.values()})
        done: dict[Lane, int] = {}
        lag: dict[Lane, int] = {}
        for part in parts:
            lane = lanes[part.topic]
            committed = groups.get(group(lane[0]), {}).get(part)
            at = max(starts[part].offset, committed.offset if committed is not None else 0)
            done[lane] = done.get(lane, 0) + at
            lag[lane] = lag.get(lane, 0) + max(0, ends[part].offset - at)
        rates = dict(self._rates(time.monotonic(), done))
        return {lane: Stand(lag[lane], rates.get(lane)) for lane in sorted(lag)}

    def _rates(self, now: float, done: dict[Lane, int]) -> Iterator[tuple[Lane, float]]:
        while len(self._past) > 1 and self._past[0][0] < now - WINDOW:
            self._past.popleft()
        if self._past:
            then, before = self._past[0]
            for lane in done.keys() & before.keys():
                yield lane, round(max(0, done[lane] - before[lane]) / max(now - then, 0.1), 1)
        self._past.append((now, done))
