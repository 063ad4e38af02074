"""The worker: polls, claims, starts, settles, commits. The loop runs in one thread and never waits for a handler.

Around it: handler threads (`executors`), the settler, the lease, durability. What they share is said in each.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections import deque

import redis
from kafka import TopicPartition
from kafka.errors import KafkaError

from nexusq_server.durability import Durability
from nexusq_server.executors import ThreadExecutor
from nexusq_server.handlers import builtin_handlers
from nexusq_server.intake import Intake
from nexusq_server.leases import Lease
from nexusq_server.offsets import Offsets
from nexusq_server.registry import Handler, HandlerError, load_handlers
from nexusq_server.settings import Settings
from nexusq_server.settler import Settler
from nexusq_server.store import CHUNK, LATER, SKIP, Store, connect, now_us
from nexusq_server.topics import START_TIMEOUT, ensure_topics
from nexusq_server.work import Claimed, Received, unknown_type

log = logging.getLogger(__name__)

#: Records in hand beyond which fetching pauses: bounds the worker's memory.
MAX_PENDING = 5000
MAX_PENDING_BYTES = 64 * 1024 * 1024
#: How soon a task that another live worker holds is asked for again.
LATER_SECONDS = 1.0
#: How long the loop waits for records, or for a free thread while it has records.
POLL_SECONDS = 0.1
#: How soon a failing Redis is asked again.
RETRY_SECONDS = 0.5


class Worker:
    """One worker process, from `run` to `stop`."""

    def __init__(self, settings: Settings, handlers: dict[str, Handler]) -> None:
        self.id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
        self.stopping = threading.Event()
        self._settings = settings
        self._handlers = handlers
        self._started_us = now_us()
        self._pending: deque[Received] = deque()
        self._pending_bytes = 0
        self._later: list[tuple[float, Received]] = []
        self._returned: deque[Received] = deque()  # filled by the settler, emptied by the loop: to be claimed again
        self._held: set[str] = set()  # ids in hand: added by the loop, taken out by the settler

        client = connect(settings)
        self.store = Store(client, settings)
        self.offsets: Offsets[TopicPartition] = Offsets()
        self.intake = Intake(settings, self.offsets)
        self.settler = Settler(self.store, self.id, self._settled, self._not_mine)
        self.executor = ThreadExecutor(settings.concurrency, settings.max_result_kib * 1024, self.settler.add)
        self.lease = Lease(self.store, self.id, settings.lease, self._lease_fields, self.executor.running)
        self.durability = Durability(client, self.offsets.committable)

    def run(self) -> None:
        """Work until `stopping` is set, then stop in order."""
        self._begin()
        try:
            while not self.stopping.is_set():
                self._receive()
                self._start_ready()
                self.intake.commit(self.durability.durable)
        finally:
            self._stop()

    def _begin(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT.total_seconds()
        while True:
            try:
                self.lease.renew()
                break
            except redis.RedisError as error:
                if time.monotonic() > deadline:
                    raise
                log.info("waiting for Redis at %s: %s", self._settings.redis, error)
                self.stopping.wait(RETRY_SECONDS)
        self.store.publish_types(handler.described() for handler in self._handlers.values())
        for thread in (self.lease, self.settler, self.durability):
            thread.start()
        log.info(
            "worker %s serves %s with %d threads: %s",
            self.id,
            ", ".join(self._settings.queues),
            self._settings.concurrency,
            ", ".join(sorted(self._handlers)),
        )

    def _stop(self) -> None:
        # Nothing new is claimed from here on. What runs may end while the lease still protects it.
        deadline = time.monotonic() + self._settings.grace.total_seconds()
        self.executor.stop()
        while not self.executor.idle() and time.monotonic() < deadline:
            self.intake.hold(full=True)
            self.intake.poll(0)
            self.executor.wait_free(POLL_SECONDS)
        running = self.executor.running()
        if running:
            log.warning(
                "%d tasks still ran after the grace of %s: others start them again: %s",
                len(running),
                self._settings.grace,
                ", ".join(running[:10]),
            )
        # Outcomes before offsets, offsets before the group is left, the lease last: it guards what is not settled.
        self.settler.finish(10)
        self.durability.end()
        try:
            self.durability.refresh()
        except redis.RedisError as error:
            log.warning("Redis is away: the last offsets are not committed: %s", error)
        self.intake.commit(self.durability.durable, wait=True)
        self.intake.close()
        self.lease.end()
        log.info("worker %s has stopped after %d tasks", self.id, self.settler.count)

    def _receive(self) -> None:
        """Poll: at once where tasks can be started, else until a record comes or a thread is free."""
        now = time.monotonic()
        while self._returned:
            self._later.append((now + LATER_SECONDS, self._returned.popleft()))
        if self._later:
            due = [received for when, received in self._later if when <= now]
            self._later = [entry for entry in self._later if entry[0] > now]
            self._pending.extendleft(due)
            self._pending_bytes += sum(received.size for received in due)
        wait = 0.0
        if not self._pending:
            wait = POLL_SECONDS
        elif not self.executor.free():
            self.executor.wait_free(POLL_SECONDS)
        full = len(self._pending) >= MAX_PENDING or self._pending_bytes >= MAX_PENDING_BYTES
        self.intake.hold(full)
        for received in self.intake.poll(0 if full else wait):
            self._pending.append(received)
            self._pending_bytes += received.size

    def _start_ready(self) -> None:
        """Claim as many tasks as are about to start, and start those that are ours."""
        while self._pending and self.lease.held():
            wanted = min(self.executor.free(), CHUNK)
            if not wanted:
                return
            batch = self._next(wanted)
            try:
                answers = self.store.claim(self.id, [(received.task, received.attempt) for received in batch])
            except redis.RedisError as error:
                # Whether Redis has carried the claim out does not matter: asked again, it says the same.
                log.warning("Redis is away or refuses, nothing is claimed: %s", error)
                self._pending.extendleft(reversed(batch))
                self._pending_bytes += sum(received.size for received in batch)
                self.stopping.wait(RETRY_SECONDS)
                return
            skipped = []
            for received, answer in zip(batch, answers, strict=True):
                if answer == SKIP:
                    skipped.append(received.place)
                elif answer == LATER:
                    self._later.append((time.monotonic() + LATER_SECONDS, received))
                else:
                    self._start(Claimed(received, answer))
            self.offsets.settled(skipped)

    def _next(self, wanted: int) -> list[Received]:
        batch: list[Received] = []
        asked: set[str] = set()
        while self._pending and len(batch) < wanted:
            received = self._pending.popleft()
            self._pending_bytes -= received.size
            if not self.offsets.current(received.place):
                continue  # the partition is another worker's now, and so is the record
            if received.task.task_id in self._held or received.task.task_id in asked:
                # A second record of a task that runs here: it counts as settled once the task has ended.
                self._later.append((time.monotonic() + LATER_SECONDS, received))
            else:
                asked.add(received.task.task_id)
                batch.append(received)
        return batch

    def _start(self, claimed: Claimed) -> None:
        task = claimed.received.task
        self._held.add(task.task_id)
        handler = self._handlers.get(task.task_type)
        if handler is None:
            self.settler.add(claimed, unknown_type(claimed, sorted(self._handlers), now_us()))
        else:
            self.executor.start(claimed, handler)

    def _settled(self, settled: list[Claimed]) -> None:
        self.offsets.settled(claimed.received.place for claimed in settled)
        for claimed in settled:
            self._held.discard(claimed.received.task.task_id)

    def _not_mine(self, dropped: list[Claimed]) -> None:
        for claimed in dropped:
            self._held.discard(claimed.received.task.task_id)
            self._returned.append(claimed.received)

    def _lease_fields(self) -> dict[str, str | int]:
        return {
            "queues": ",".join(self._settings.queues),
            "taskTypes": ",".join(sorted(self._handlers)),
            "concurrency": self._settings.concurrency,
            "running": len(self.executor.running()),
            "settled": self.settler.count,
            "rejected": self.intake.rejected,
            "startedUs": self._started_us,
        }


def run(settings: Settings) -> int:
    """Run a worker until SIGTERM or SIGINT; give the exit code."""
    logging.basicConfig(
        level=settings.log_level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("kafka").setLevel(logging.WARNING)
    try:
        handlers = load_handlers(settings.tasks, builtin_handlers(settings))
    except HandlerError as error:
        log.error("%s", error)
        return 2
    try:
        ensure_topics(settings, settings.queues)
        worker = Worker(settings, handlers)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: worker.stopping.set())
        worker.run()
    except (KafkaError, redis.RedisError) as error:
        log.error(
            "expected Kafka at %s and Redis at %s to answer: %s: %s",
            ",".join(settings.kafka),
            settings.redis,
            type(error).__name__,
            error,
        )
        return 1
    return 0
