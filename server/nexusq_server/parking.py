"""Lets commits pass tasks that take long: Redis's disk has them, and if this worker dies they are produced again.

Used by the worker's loop; the settler's thread reads `names` and takes ended ones out.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import redis
from kafka import TopicPartition

from nexusq_server.offsets import Offsets, Place
from nexusq_server.settings import Settings
from nexusq_server.store import Store
from nexusq_server.work import Received

log = logging.getLogger(__name__)


class Parking:
    """The tasks whose offsets are committed before their end."""

    def __init__(self, settings: Settings, worker: str, store: Store, offsets: Offsets[TopicPartition]) -> None:
        self._settings = settings
        self._worker = worker
        self._store = store
        self._offsets = offsets
        self.names: set[str] = set()

    def __contains__(self, received: Received) -> bool:
        """Whether the commit has gone past a record: if this worker lets go of it, nobody else has it."""
        return received.task_id in self.names

    def park(self, in_hand: Iterable[Received]) -> None:
        """Park those of the tasks in hand that hold a commit back."""
        places = set(self._offsets.holding(self._settings.park_after.total_seconds(), self._settings.park_gap))
        if not places:
            return
        parked = [
            received for received in in_hand if Place(received.partition, received.epoch, received.offset) in places
        ]
        if not parked:
            return
        names = [received.task_id for received in parked]
        try:
            self._store.park(self._worker, names)
        except redis.RedisError as error:
            log.warning("Redis is away, nothing is parked: %s", error)
            return
        self.names.update(names)
        self._offsets.settled(parked)

    def ended(self, names: list[str]) -> None:
        """Note that tasks have ended elsewhere."""
        self.names.difference_update(names)
        try:
            self._store.unpark(self._worker, names)
        except redis.RedisError as error:
            log.debug("what has ended stays on the list of the parked, which hurts nobody: %s", error)
