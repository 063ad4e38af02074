"""The worker: polls, claims, starts, settles, commits. The loop runs in one thread and never waits for a handler.

Around it: executors, settler, durability, scheduler; a process of its own keeps the lease. Each says what it shares.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections import deque

import redis
from kafka import TopicPartition
from kafka.errors import KafkaError

from nexusq_server.clock import now_us
from nexusq_server.dead_letters import DeadLetters
from nexusq_server.durability import Durability
from nexusq_server.garbage import look_less_often
from nexusq_server.handlers import builtin_handlers
from nexusq_server.health import Health
from nexusq_server.intake import Intake
from nexusq_server.leases import Lease
from nexusq_server.logs import set_up_logs
from nexusq_server.offsets import Offsets
from nexusq_server.parking import Parking
from nexusq_server.pending import Pending
from nexusq_server.places import KINDS, make_places
from nexusq_server.policies import Policies
from nexusq_server.registry import Handler, HandlerError, find_handler, load_handlers
from nexusq_server.scheduler import Scheduler
from nexusq_server.settings import Settings
from nexusq_server.settler import Settler
from nexusq_server.states import ALONE, GIVEN_UP, LATER, SKIP, Unusual
from nexusq_server.store import CHUNK, Store, connect, is_full
from nexusq_server.topics import START_TIMEOUT, ensure_topics, topic
from nexusq_server.work import Claimed, Received, given_up, unknown_type

log = logging.getLogger(__name__)

#: How soon a task that another live worker holds is asked for again.
LATER_SECONDS = 1.0
#: How long the loop waits for records, or for a free place while it has records.
POLL_SECONDS = 0.1
#: Kafka is asked again once such a share of what is in hand is used up, or so soon: a poll costs as much as dozens of
#: tasks.
PAUSE_SHARE, PAUSE_SECONDS = 0.1, 0.05
#: How soon a failing Redis is asked again.
RETRY_SECONDS = 0.5
#: How often the loop sees to what is not urgent: cancels, parking, limits.
TEND_SECONDS = 0.25
_USUAL = Unusual()
#: Without a poll and a held lease for so long, the worker is not ready.
READY_SECONDS = 15.0


class Worker:
    """One worker process, from `run` to `stop`."""

    def __init__(self, settings: Settings, handlers: dict[str, Handler]) -> None:
        self.id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
        self.stopping = threading.Event()
        self._settings = settings
        self._handlers = handlers
        self._started_us, self._began = now_us(), time.monotonic()
        self._tended = self._polled = 0.0
        self._pending = Pending(KINDS)
        self._asked: tuple[str, list[Received], int] | None = None  # what a claim that is with Redis is about
        self._look = dict.fromkeys(KINDS, 0)  # how many records to look at, where that is more than can be started
        self._later: list[tuple[float, Received]] = []
        self._returned: deque[Received] = deque()  # filled by the settler, emptied by the loop: to be claimed again
        self._lapsed: list[Claimed] = []  # to be handed back, as soon as Redis answers
        self._held: dict[str, Claimed] = {}  # in hand: added by the loop, taken out by the settler
        self._policies = Policies(settings, handlers)

        client = connect(settings)
        self.store = Store(client, settings)
        self.offsets: Offsets[TopicPartition] = Offsets()
        self.dead_letters = DeadLetters(settings)
        self.intake = Intake(settings, self.offsets, self.dead_letters, self.store)
        self.parking = Parking(settings, self.id, self.store, self.offsets)
        self.settler = Settler(
            self.store,
            self.id,
            self.dead_letters,
            self._policies.next_wait,
            self._settled,
            self._not_mine,
            self.parking.names,
            self._held,
        )
        self.slots, self.executors = make_places(settings, self.settler.add)
        self.lease = Lease(settings, self.id, self.slots, self._lease_fields, self.intake.members)
        self.durability = Durability(client, self.offsets.committable, self.settler)
        self.scheduler = Scheduler(settings)
        self.health = Health(settings, self.ready)

    def run(self) -> None:
        """Work until `stopping` is set, then stop in order."""
        self._begin()
        try:
            while not self.stopping.is_set():
                self._tend()
                self._receive()
                self.lease.tend()  # before anything is claimed in a group that was joined just now
                self._start_ready()
                self.intake.commit(self.durability.durable)
        finally:
            self._stop()

    def ready(self) -> bool:
        """Whether the worker has polled lately and may claim: what its /readyz says."""
        return self.lease.held() and time.monotonic() - self._polled < READY_SECONDS

    def _begin(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT.total_seconds()
        while True:
            try:
                self.store.publish_types(handler.described() for handler in self._handlers.values())
                self.durability.begin()
                break
            except redis.RedisError as error:
                if time.monotonic() > deadline:
                    raise
                log.info("waiting for Redis at %s: %s", self._settings.redis_shown, error)
                self.stopping.wait(RETRY_SECONDS)
        self.lease.tend()
        for thread in (self.settler, self.durability, self.scheduler, self.health):
            thread.start()
        queues, types = ", ".join(self._settings.queues), ", ".join(sorted(self._handlers))
        log.info("worker %s serves %s with %d threads: %s", self.id, queues, self._settings.concurrency, types)

    def _stop(self) -> None:
        # Nothing new is claimed from here on. What has not started goes back at once; what runs may end while the lease
        # still protects it.
        deadline = time.monotonic() + self._settings.grace.total_seconds()
        self.scheduler.end()
        self._finish_claim()
        self._hand_back([claimed for executor in self.executors.values() for claimed in executor.take_back()])
        while time.monotonic() < deadline and not all(executor.idle() for executor in self.executors.values()):
            self.intake.hold(self.intake.topics)
            self.intake.poll(0)
            self.lease.tend()
            self._cancel_asked()
            self.executors["thread"].wait_free(POLL_SECONDS)
        # Outcomes before offsets, offsets before the group is left, the lease last: it guards what is not settled.
        self.settler.finish(10)
        self._note()
        self._hand_back(list(self._held.values()))
        for executor in self.executors.values():
            executor.stop()
        self.durability.end()
        try:
            self.durability.refresh()
        except redis.RedisError as error:
            log.warning("Redis is away: the last offsets are not committed: %s", error)
        self.intake.commit(self.durability.durable, wait=True)
        self.intake.close()
        self.dead_letters.close()
        self.lease.end()
        self.health.end()
        log.info("worker %s has stopped after %d tasks", self.id, self.settler.count)

    def _hand_back(self, tasks: list[Claimed]) -> bool:
        """Give tasks back uncharged: whoever polls their records next may start them. False: Redis is away."""
        if not tasks:
            return True
        try:
            self.store.hand_back(self.id, [(claimed.id, claimed.attempt) for claimed in tasks])
        except redis.RedisError as error:
            log.warning("Redis is away, %d tasks that were claimed are not handed back: %s", len(tasks), error)
            return False
        log.info("%d tasks that were claimed and have not ended are handed back", len(tasks))
        for claimed in tasks:
            self._let_go(claimed)
        return True

    def _tend(self) -> None:
        """See to what is not urgent, a few times a second."""
        now = time.monotonic()
        if now - self._tended < TEND_SECONDS:
            return
        self._tended = now
        self.lease.tend()
        if self.durability.restarted.is_set():
            # Redis may have forgotten why records were skipped: they are read again, and what has ended is skipped
            # again.
            self.intake.rewind()
            self._later += [(now, received) for received in self._pending.clear() if received in self.parking]
            self.durability.durable = {}
            self.durability.restarted.clear()
        # Whoever has their records by now would wait for this worker, which lives again.
        self._lapsed += [claimed for executor in self.executors.values() for claimed in executor.lapsed()]
        if self._hand_back(self._lapsed):
            self._returned.extend(claimed.received for claimed in self._lapsed)
            self._lapsed = []
        self._cancel_asked()
        self._note()
        in_hand = (claimed.received for claimed in list(self._held.values()))
        self.parking.park([*in_hand, *(received for _, received in self._later)])
        settings = self._settings
        if settings.max_tasks and self.settler.count >= settings.max_tasks:
            log.info("%d tasks have ended (--max-tasks): the worker stops", self.settler.count)
            self.stopping.set()
        if settings.max_lifetime and now - self._began > settings.max_lifetime.total_seconds():
            log.info("%s are over (--max-lifetime): the worker stops", settings.max_lifetime)
            self.stopping.set()

    def _cancel_asked(self) -> None:
        try:
            asked = self.store.cancels(self.id) if self._held else []
        except redis.RedisError as error:
            log.debug("no cancels while Redis is away: %s", error)
            return
        for task_id in asked:
            any(executor.cancel(task_id) for executor in self.executors.values())

    def _note(self) -> None:
        """Write what handlers have said of their tasks: a call for all of them."""
        notes = [note for executor in self.executors.values() for note in executor.notes()]
        try:
            if notes:
                self.store.note(self.id, notes)
        except redis.RedisError as error:
            log.debug("what handlers say is not shown while Redis is away: %s", error)

    def _receive(self) -> None:
        """Poll: at once where tasks can be started, else until a record comes or a place is free."""
        now = time.monotonic()
        while self._returned:
            self._later.append((now + LATER_SECONDS, self._returned.popleft()))
        if self._later:
            due = [received for when, received in self._later if when <= now]
            self._later = [entry for entry in self._later if entry[0] > now]
            for received in due:
                self._pending.add(self._kind(received.record.task_type), received, first=True)
        waiting = [kind for kind in KINDS if self._pending.waits(kind)]
        # While a claim is with Redis, what has come is taken apart.
        free = self._asked is not None or (self.lease.held() and any(self.executors[kind].free() for kind in waiting))
        if waiting and not free:
            self.executors["thread"].wait_free(POLL_SECONDS)
        lasts = min((self.executors[kind].lasts(self._pending.count(kind)) for kind in waiting), default=0.0)
        if time.monotonic() - self._polled < min(PAUSE_SECONDS, PAUSE_SHARE * lasts):
            return
        full = {topic(*lane) for lane in self._pending.full()}
        self.intake.hold(full)
        for lane, records in self.intake.poll(POLL_SECONDS if self._asked is None and not waiting else 0.0):
            kinds = {name: self._kind(name) for name in {received.record.task_type for received in records}}
            for kind in set(kinds.values()):
                mine = [received for received in records if kinds[received.record.task_type] == kind]
                self._pending.extend(kind, lane, mine)
        self._polled = time.monotonic()

    def _kind(self, task_type: str) -> str:
        handler = find_handler(self._handlers, task_type)
        return "thread" if handler is None else handler.executor

    def _start_ready(self) -> None:
        """Claim as many tasks as are about to start, and start those that are ours.

        While more records wait, the last claim is left with Redis: the loop takes records apart until it has decided.
        """
        self._finish_claim()
        for kind in KINDS if self.lease.held() else ():
            room = min(self.executors[kind].free(), CHUNK) if self._pending.waits(kind) else 0
            if room:
                self._finish_claim()
                batch = self._next(kind, max(room, self._look[kind]))
                if batch:
                    self._asked = kind, batch, self.slots.lease
                    self.store.ask(self.id, batch, room)
        if not any(self._pending.waits(kind) for kind in KINDS):
            self._finish_claim()

    def _finish_claim(self) -> None:
        """Start what Redis says is ours of what was asked for, if something was."""
        if self._asked is None:
            return
        (kind, batch, lease), self._asked = self._asked, None
        try:
            answers, unusual = self.store.told()
        except redis.RedisError as error:
            why = "is full (maxmemory)" if is_full(error) else "is away or refuses"
            log.warning("Redis %s, nothing is claimed: %s", why, error)
            self._put_back(kind, batch)
            self.stopping.wait(RETRY_SECONDS)
            return
        self._put_back(kind, batch[len(answers) :])
        skipped, parked, started = [], [], 0
        for index, answer in enumerate(answers):
            received = batch[index]
            if answer == SKIP:
                skipped.append(received)
                if received in self.parking:
                    parked.append(received.task_id)
            elif answer == LATER:
                self._later.append((time.monotonic() + LATER_SECONDS, received))
            else:
                started += 1
                self._start(received, answer, unusual.get(index, _USUAL), lease)
        self.offsets.settled(skipped)
        if parked:
            self.parking.ended(parked)
        # Where most have ended already, as in a cancelled batch, many are looked at for the few that there is room for.
        self._look[kind] = min(4 * len(answers), CHUNK) if 2 * started < len(answers) else 0

    def _put_back(self, kind: str, batch: list[Received]) -> None:
        for received in reversed(batch):
            self._pending.add(kind, received, first=True)

    def _next(self, kind: str, wanted: int) -> list[Received]:
        batch: list[Received] = []
        asked: set[str] = set()
        while len(batch) < wanted and (records := self._pending.take(kind, wanted - len(batch))):
            for received in records:
                if not self.offsets.current(received) and received not in self.parking:
                    continue  # the partition is another worker's now, and so is the record
                if received.task_id in self._held or received.task_id in asked:
                    # A second record of a task that runs here: it counts as settled once the task has ended.
                    self._later.append((time.monotonic() + LATER_SECONDS, received))
                else:
                    asked.add(received.task_id)
                    batch.append(received)
        return batch

    def _start(self, received: Received, attempt: int, how: Unusual, lease: int) -> None:
        claimed = Claimed(received, attempt, how.spent, alone=how.how == ALONE, lease=lease)
        self._held[received.task_id] = claimed
        handler = find_handler(self._handlers, claimed.task_type)
        if how.how == GIVEN_UP:
            self.settler.add(claimed, given_up(how.deliveries))
        elif handler is None:
            self.settler.add(claimed, unknown_type(claimed, sorted(self._handlers)))
        else:
            kind = "process" if claimed.alone else handler.executor
            self.executors[kind].start(claimed, handler, self._policies.limit(claimed, handler))

    def _settled(self, settled: list[Claimed]) -> None:
        self.offsets.settled(claimed.received for claimed in settled)
        for claimed in settled:
            if self._let_go(claimed):
                self.parking.names.discard(claimed.id)

    def _not_mine(self, dropped: list[Claimed]) -> None:
        for claimed in dropped:
            self._let_go(claimed)
            self._returned.append(claimed.received)

    def _let_go(self, claimed: Claimed) -> bool:
        """Take a task out of hand; False if another attempt at it is in hand: an outcome may be written again later."""
        return self._held.get(claimed.id) is claimed and self._held.pop(claimed.id, None) is not None

    def _lease_fields(self) -> dict[str, str | int]:
        return {
            "queues": ",".join(self._settings.queues),
            "taskTypes": ",".join(sorted(self._handlers)),
            "concurrency": self._settings.concurrency,
            "processes": self._settings.processes,
            "running": len(self.slots.running()),
            "settled": self.settler.count,
            "rejected": self.dead_letters.count,
            "startedUs": self._started_us,
        }


def run(settings: Settings) -> int:
    """Run a worker until SIGTERM or SIGINT; give the exit code."""
    set_up_logs(settings)
    try:
        handlers = load_handlers(settings.tasks, builtin_handlers(settings))
    except HandlerError as error:
        log.error("%s", error)
        return 2
    try:
        ensure_topics(settings, settings.queues)
        worker = Worker(settings, handlers)
        look_less_often()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: worker.stopping.set())
        worker.run()
    except (KafkaError, redis.RedisError) as error:
        log.error(
            "expected Kafka at %s and Redis at %s to answer: %s: %s",
            ",".join(settings.kafka),
            settings.redis_shown,
            type(error).__name__,
            error,
        )
        return 1
    return 0
