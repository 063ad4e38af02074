"""Writes outcomes to Redis in bulk, then marks their records as settled. One thread; anyone may `add`.

A task that failed for good first gets its dead letter, by a second thread: nothing else waits for Kafka.
It must never drop an outcome while its worker lives: with Redis away it waits and tries again, and what it has
written is kept until Redis has it on disk, to be written again if Redis is restarted before that.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Set, Sized
from datetime import UTC, datetime, timedelta
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

import msgspec
import redis

from nexusq_sdk.protocol.ids import split_task_id
from nexusq_sdk.protocol.wire import DeadLetter, FailedAttempt, TaskError
from nexusq_sdk.protocol.words import Status
from nexusq_server.dead_letters import DeadLetters
from nexusq_server.states import DROPPED, LOST, SETTLED, Outcome
from nexusq_server.store import Store, is_full
from nexusq_server.work import Claimed, Ended

log = logging.getLogger(__name__)

#: Outcomes a round at the most: bounds the time until the first of them is seen.
ROUND = 1000
RETRY_SECONDS = 0.5
#: From one round to the next while more is in hand, so that outcomes come together: a call costs as much as dozens of
#: them. Twice as long where fewer than a few have come, and where many more are in hand four times: those end later.
GATHER_SECONDS, FEW, MANY = 0.01, 8, 16
_encode = msgspec.json.Encoder().encode


class _Entry(NamedTuple):
    claimed: Claimed
    outcome: Outcome
    buried: bool = False  # its dead letter is on the topic


class Settler(threading.Thread):
    """The thread. `settled` and `not_mine` are told, in this thread, what became of the tasks.

    `next_wait` decides whether a failed attempt is followed by another one, and after what time. `parked` are the ids
    of the parked tasks, `in_hand` what was claimed and has not been settled, as the worker's loop knows them.
    """

    def __init__(
        self,
        store: Store,
        worker: str,
        dead_letters: DeadLetters,
        next_wait: Callable[[Claimed, Ended], timedelta | None],
        settled: Callable[[list[Claimed]], None],
        not_mine: Callable[[list[Claimed]], None],
        parked: Set[str],
        in_hand: Sized,
    ) -> None:
        super().__init__(name="settler", daemon=True)
        self._store = store
        self._worker = worker
        self._dead_letters = dead_letters
        self._next_wait = next_wait
        self._settled = settled
        self._not_mine = not_mine
        self._parked = parked
        self._in_hand = in_hand
        self._queue: SimpleQueue[_Entry | tuple[Claimed, Ended] | None] = SimpleQueue()
        self._give_up = threading.Event()
        self._failed: SimpleQueue[_Entry | None] = SimpleQueue()  # for good, and without a dead letter yet
        self._burials = threading.Thread(target=self._bury, name="burials", daemon=True)
        self._unsure: deque[list[_Entry]] = deque()  # rounds, perhaps not on disk: added here, taken out by `confirm`
        self._confirmed = 0
        self.count = 0  # written by this thread only

    def add(self, claimed: Claimed, ended: Ended) -> None:
        """Hand over how an attempt ended."""
        self._queue.put((claimed, ended))

    def sure(self) -> bool:
        """Whether everything that was written is confirmed."""
        return not self._unsure

    def mark(self) -> int:
        """Give a mark for `confirm`: what was written up to now."""
        return self._confirmed + len(self._unsure)

    def confirm(self, mark: int) -> None:
        """Say that everything up to `mark` is on Redis's disk. Called by the durability thread."""
        while self._confirmed < mark:
            self._unsure.popleft()
            self._confirmed += 1

    def write_again(self) -> None:
        """Write everything again that is not confirmed: Redis was restarted and may have lost it."""
        mark = self.mark()
        while self._confirmed < mark:
            for entry in self._unsure.popleft():
                self._queue.put(entry)
            self._confirmed += 1

    def finish(self, seconds: float) -> bool:
        """Settle what was added so far, for at most so long; whether all of it was."""
        self._queue.put(None)
        self.join(seconds)
        self._give_up.set()
        return not self.is_alive()

    def run(self) -> None:
        """Settle until `finish`."""
        self._burials.start()
        ends = 0  # the first is `finish`'s, the second says that the burials are over
        while ends < 2:
            if self._in_hand and self._queue.qsize() < ROUND:
                time.sleep(GATHER_SECONDS)
                if self._in_hand and self._queue.qsize() < FEW:
                    time.sleep(GATHER_SECONDS * (3 if len(self._in_hand) > MANY else 1))
            waiting, ended = _take(self._queue)
            ready = []
            for found in waiting:
                entry = found if isinstance(found, _Entry) else self._decide(*found)
                if entry.outcome.status == Status.FAILED and not entry.buried:
                    self._failed.put(entry)
                else:
                    ready.append(entry)
            if ended:
                ends += 1
                self._failed.put(None)
            if not self._settle(ready):
                return

    def _bury(self) -> None:
        """Write the dead letters of what has failed for good, and give it back to be settled: the burials' thread."""
        ended = False
        while not ended:
            entries, ended = _take(self._failed)
            while entries:
                try:
                    if self._dead_letters.put([self._letter(entry) for entry in entries]):
                        for entry in entries:
                            self._queue.put(entry._replace(buried=True))
                        break
                except redis.RedisError as error:
                    log.warning("Redis is away, %d dead letters wait for it: %s", len(entries), error)
                if self._give_up.wait(RETRY_SECONDS):
                    break
        self._queue.put(None)

    def _decide(self, claimed: Claimed, ended: Ended) -> _Entry:
        """Make the outcome of an attempt: its end, or that there is another one."""
        outcome = Outcome(
            claimed.id,
            claimed.attempt,
            ended.status.value,
            ended.value.decode(),
            str(ended.started_us),
            str(ended.finished_us),
            ended.finished_us - ended.started_us,
            parked=claimed.id in self._parked,
        )
        if ended.status != Status.FAILED:
            return _Entry(claimed, outcome)
        error = msgspec.json.decode(ended.value, type=TaskError)
        failed = FailedAttempt(
            attempt=claimed.attempt,
            type=error.type,
            message=error.message[:500],
            worker=self._worker,
            finished_us=ended.finished_us,
        )
        outcome = outcome._replace(history=_encode(failed).decode())
        wait = self._next_wait(claimed, ended)
        if wait is not None:
            due = ended.finished_us + int(wait.total_seconds() * 1_000_000)
            outcome = outcome._replace(status=Status.SCHEDULED.value, due_us=str(due))
        return _Entry(claimed, outcome)

    def _settle(self, entries: list[_Entry]) -> bool:
        """Settle one round; False when told to give up."""
        while entries:
            try:
                entries = self._write(entries)
            except redis.RedisError as error:
                why = "is full (maxmemory)" if is_full(error) else "is away or refuses"
                log.warning("Redis %s, %d outcomes wait for it: %s", why, len(entries), error)
                if self._give_up.wait(RETRY_SECONDS):
                    return False
        return True

    def _write(self, entries: list[_Entry]) -> list[_Entry]:
        """Write outcomes; give those that are to be written once more."""
        if not entries:
            return []
        answers = self._store.settle(self._worker, [entry.outcome for entry in entries])
        settled, not_mine, lost = entries, [], []
        if answers.count(SETTLED) < len(entries):
            settled, not_mine, lost = (
                [entry for entry, answer in zip(entries, answers, strict=True) if answer == wanted]
                for wanted in (SETTLED, DROPPED, LOST)
            )
        if settled:
            self._unsure.append(settled)
            self.count += len(settled)
            self._settled([entry.claimed for entry in settled])
        if not_mine:
            log.warning("%d outcomes were dropped: the tasks have ended or are another worker's now", len(not_mine))
            self._not_mine([entry.claimed for entry in not_mine])
        if lost:
            log.warning("Redis has lost %d claims (was it restarted?): claiming and settling them again", len(lost))
        return self._claim_again(lost) if lost else []

    def _claim_again(self, entries: list[_Entry]) -> list[_Entry]:
        records = [entry.claimed.received for entry in entries]
        again, gone = [], []
        for entry, attempt in zip(entries, self._store.claim(self._worker, records)[0], strict=True):
            if attempt >= 1:
                again.append(entry._replace(outcome=entry.outcome._replace(attempt=attempt)))
            else:
                gone.append(entry.claimed)
        if gone:
            self._not_mine(gone)
        return again

    def _letter(self, entry: _Entry) -> bytes:
        task, outcome = entry.claimed.received.task, entry.outcome
        error = msgspec.json.decode(outcome.value, type=TaskError)
        split = split_task_id(task.task_id)
        earlier = self._store.history(task.task_id) if entry.claimed.attempt > 1 else []
        letter = DeadLetter(
            reason=f"failed for good at attempt {outcome.attempt}: {error.type}: {error.message[:500]}",
            at=datetime.fromtimestamp(int(outcome.finished_us) / 1e6, UTC),
            task_id=task.task_id,
            task_type=task.task_type,
            batch_id=split[0] if split else None,
            queue=task.queue,
            attempt=outcome.attempt,
            payload=msgspec.Raw(task.payload),
            error=error,
            history=[*earlier, msgspec.json.decode(outcome.history, type=FailedAttempt)],
        )
        return _encode(letter)


def _take(queue: SimpleQueue[Any]) -> tuple[list[Any], bool]:
    """Take what is in a queue, waiting for the first, up to a round; and whether its end (None) was read."""
    taken: list[Any] = []
    entry = queue.get()
    while entry is not None:
        taken.append(entry)
        if len(taken) == ROUND:
            return taken, False
        try:
            entry = queue.get_nowait()
        except Empty:
            return taken, False
    return taken, True
