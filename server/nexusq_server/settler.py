"""Writes outcomes to Redis in bulk, then marks their records as settled. One thread; anyone may `add`.

It must never drop an outcome while its worker lives: with Redis away it waits and tries again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

import redis

from nexusq_server.store import DROPPED, LOST, SETTLED, Outcome, Store
from nexusq_server.work import Claimed

log = logging.getLogger(__name__)

#: Outcomes a round at the most: bounds the time until the first of them is seen.
ROUND = 1000
RETRY_SECONDS = 0.5


class Settler(threading.Thread):
    """The thread. `settled` and `not_mine` are told, in this thread, what became of the tasks."""

    def __init__(
        self,
        store: Store,
        worker: str,
        settled: Callable[[list[Claimed]], None],
        not_mine: Callable[[list[Claimed]], None],
    ) -> None:
        super().__init__(name="settler", daemon=True)
        self._store = store
        self._worker = worker
        self._settled = settled
        self._not_mine = not_mine
        self._queue: SimpleQueue[tuple[Claimed, Outcome] | None] = SimpleQueue()
        self._give_up = threading.Event()
        self.count = 0  # written by this thread only

    def add(self, claimed: Claimed, outcome: Outcome) -> None:
        """Hand over how an attempt ended."""
        self._queue.put((claimed, outcome))

    def finish(self, seconds: float) -> bool:
        """Settle what was added so far, for at most so long; whether all of it was."""
        self._queue.put(None)
        self.join(seconds)
        self._give_up.set()
        return not self.is_alive()

    def run(self) -> None:
        """Settle until `finish`."""
        last = False
        while not last:
            entries = []
            entry = self._queue.get()
            while entry is not None:
                entries.append(entry)
                if len(entries) == ROUND:
                    break
                try:
                    entry = self._queue.get_nowait()
                except Empty:
                    break
            else:
                last = True
            if entries and not self._settle(entries):
                return

    def _settle(self, entries: list[tuple[Claimed, Outcome]]) -> bool:
        """Settle one round; False when told to give up."""
        while True:
            try:
                answers = self._store.settle(self._worker, [outcome for _, outcome in entries])
                lost = [entry for entry, answer in zip(entries, answers, strict=True) if answer == LOST]
                not_mine = [claimed for (claimed, _), answer in zip(entries, answers, strict=True) if answer == DROPPED]
                settled = [claimed for (claimed, _), answer in zip(entries, answers, strict=True) if answer == SETTLED]
                self.count += len(settled)
                self._settled(settled)
                if not_mine:
                    log.warning(
                        "%d late outcomes were dropped: the tasks have ended or are another worker's now",
                        len(not_mine),
                    )
                    self._not_mine(not_mine)
                if not lost:
                    return True
                log.warning(
                    "Redis has lost %d claims (was it restarted?): claiming and settling them again",
                    len(lost),
                )
                entries = self._claim_again(lost)
            except redis.RedisError as error:
                log.warning("Redis is away or refuses, %d outcomes wait for it: %s", len(entries), error)
                if self._give_up.wait(RETRY_SECONDS):
                    return False

    def _claim_again(self, entries: list[tuple[Claimed, Outcome]]) -> list[tuple[Claimed, Outcome]]:
        tasks = [(claimed.received.task, claimed.attempt) for claimed, _ in entries]
        claims = self._store.claim(self._worker, tasks)
        again, gone = [], []
        for (claimed, outcome), attempt in zip(entries, claims, strict=True):
            if attempt >= 1:
                again.append((claimed, outcome._replace(attempt=attempt)))
            else:
                gone.append(claimed)
        if gone:
            self._not_mine(gone)
        return again
