"""Produces what is due to Kafka: tasks that were delayed or back off, and those that a dead worker had parked.

A thread of every API and every worker; any number of them may run at once. What is due is taken for half a minute,
produced, and only taken out once Kafka has acknowledged it: a scheduler that dies in between is replaced by the next
one. A record that comes twice so is run once: the claim decides.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

import redis
from kafka import KafkaProducer
from kafka.errors import KafkaError

from nexusq_server.schedules import Schedules
from nexusq_server.settings import Settings
from nexusq_server.states import DueTask
from nexusq_server.store import Store, connect
from nexusq_server.topics import connect_producer, encode_record, ensure_topics, topic

log = logging.getLogger(__name__)

#: How often is looked for what is due, and how much is taken at a time.
INTERVAL_SECONDS = 0.1
TAKE = 1000
#: How often is looked for workers that have died.
REAP_SECONDS = 2.0


class Scheduler(threading.Thread):
    """The thread."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(name="scheduler", daemon=True)
        self._settings = settings
        client = connect(settings)
        self._store = Store(client, settings)
        self._schedules = Schedules(client, self._produce, self._store)
        self._producer: KafkaProducer | None = None
        self._queues: set[str] = set()
        self._ended = threading.Event()
        self._since_reap = 0.0

    def end(self) -> None:
        """Stop after what is being produced."""
        self._ended.set()
        self.join(10)
        if self._producer is not None:
            self._producer.close(timeout=1)

    def run(self) -> None:
        """Produce what is due until `end`."""
        while not self._ended.wait(INTERVAL_SECONDS):
            try:
                while self._promote() == TAKE and not self._ended.is_set():
                    pass
                self._schedules.tick()
                self._since_reap += INTERVAL_SECONDS
                if self._since_reap >= REAP_SECONDS:
                    self._since_reap = 0.0
                    self._reap()
            except (redis.RedisError, KafkaError) as error:
                log.warning("what is due waits: %s: %s", type(error).__name__, error)
                if isinstance(error, KafkaError) and self._producer is not None:
                    # A producer that has lost a batch may be unable to number the next one: a new one starts clean.
                    self._producer.close(timeout=0)
                    self._producer = None
                self._ended.wait(1.0)

    def _promote(self) -> int:
        due = self._store.take_due(TAKE)
        if due:
            self._produce(due)
            self._store.promote(due)
        return len(due)

    def _reap(self) -> None:
        """Produce again what dead workers had parked: their offsets are committed, so Kafka does not give it again."""
        for worker in self._store.dead_workers():
            names, tasks = self._store.parked(worker)
            if tasks:
                log.warning("worker %s has died: %d tasks that it had parked go back to Kafka", worker, len(tasks))
                self._produce(tasks)
            self._store.forget_worker(worker, names)

    def _produce(self, tasks: Sequence[DueTask]) -> None:
        """Put tasks into Kafka; return once it has them all. Raises `KafkaError`."""
        if self._producer is None:
            self._producer = connect_producer(self._settings)
        missing = {task.queue for task in tasks} - self._queues
        if missing:
            ensure_topics(self._settings, missing)
            self._queues |= missing
        sent = [
            self._producer.send(
                topic(task.queue, task.priority),
                encode_record(task.task_id, task.task_type, task.payload, task.options, attempt=task.record),
            )
            for task in tasks
        ]
        for future in sent:
            future.get(timeout=self._settings.submit_timeout.total_seconds())
