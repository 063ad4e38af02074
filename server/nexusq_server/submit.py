"""Accepts tasks: Kafka first, then state. One thread takes all that waits, so that many requests share a round.

A round: produce every record, wait for every acknowledgement, write the states in bulk, resolve the waiting requests.
The event loop calls `Submitter.submit`; all else runs in the thread. What was answered with 503 may still reach Kafka:
the client comes again with the same ids, and a task that is there twice runs once.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

import redis
from kafka import KafkaProducer
from kafka.errors import KafkaError

from nexusq_sdk.protocol.words import DEFAULT_QUEUE
from nexusq_server.problems import KafkaUnavailable, QueueFull, RedisFull, Refusal
from nexusq_server.settings import Settings
from nexusq_server.states import NewTask
from nexusq_server.store import Store, connect, is_full
from nexusq_server.topics import connect_producer, encode_record, ensure_topics, topic

log = logging.getLogger(__name__)

#: Tasks a round, and tasks that may wait for one: beyond it requests are told to come again.
ROUND_TASKS = 20_000
MAX_WAITING_TASKS = 100_000
#: States that are kept for a Redis that is away; beyond it they are left to the workers' claims.
MAX_UNWRITTEN = 200_000
RETRY_SECONDS = 1.0
#: How long after Redis has refused for want of memory nothing more is accepted: away, it is needed by no one to accept;
#: full, it would only get fuller.
FULL_SECONDS = 3.0


@dataclass(frozen=True)
class Close:
    """That a batch has all its tasks, where its last chunk has none; otherwise its last task's record says so."""

    batch_id: str
    size: int
    task_type: str
    queue: str
    ttl_seconds: float | None


@dataclass
class Job:
    """One request's tasks."""

    tasks: list[NewTask]
    close: Close | None = None
    answer: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Submitter(threading.Thread):
    """The thread."""

    def __init__(self, settings: Settings, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(name="submitter", daemon=True)
        self._settings = settings
        self._loop = loop
        self._timeout = settings.submit_timeout.total_seconds()
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._waiting = 0  # tasks; the event loop alone counts
        self._producer: KafkaProducer | None = None
        self._topics: set[str] = set()
        self._store = Store(connect(settings), settings)
        self._unwritten: deque[Job] = deque()
        self._unwritten_tasks = 0
        self._full_until = 0.0  # written by the thread, read by the event loop

    async def submit(self, job: Job) -> None:
        """Return once Kafka has the job's tasks and, if Redis answers, their state is written.

        Raises
        ------
        QueueFull, KafkaUnavailable, RedisFull
            Nothing was accepted, as far as is known.
        """
        if time.monotonic() < self._full_until:
            raise RedisFull(
                "Redis is full (maxmemory): no worker can claim a task before there is room. Raise maxmemory, or let "
                "results expire sooner (NEXUSQ_RESULT_TTL)"
            )
        if self._waiting + len(job.tasks) > MAX_WAITING_TASKS:
            raise QueueFull(f"{self._waiting} tasks wait for Kafka already; come again with the same ids")
        self._waiting += len(job.tasks)
        self._jobs.put(job)
        try:
            # The thread may itself be waiting for Kafka: a request waits no longer than it was promised.
            await asyncio.wait_for(job.answer, self._timeout + 1)
        except TimeoutError:
            raise self._away("no answer in time") from None
        finally:
            self._waiting -= len(job.tasks)

    def stop(self) -> None:
        """Finish what waits and end."""
        self._jobs.put(None)
        self.join(self._timeout)
        if self._producer is not None:
            self._producer.close(timeout=1)

    def run(self) -> None:
        """Serve until `stop`."""
        last = False
        while not last:
            jobs, last = self._take()
            if jobs:
                self._round(jobs)
            if self._unwritten:
                self._write_late()

    def _take(self) -> tuple[list[Job], bool]:
        """Give all jobs that wait, up to a round's size, and whether the end has come."""
        jobs: list[Job] = []
        tasks = 0
        try:
            job = self._jobs.get(timeout=RETRY_SECONDS if self._unwritten else None)
            while job is not None:
                jobs.append(job)
                tasks += len(job.tasks)
                if tasks >= ROUND_TASKS:
                    return jobs, False
                job = self._jobs.get_nowait()
        except Empty:
            return jobs, False
        return jobs, True

    def _round(self, jobs: list[Job]) -> None:
        jobs = [job for job in jobs if not job.answer.done()]  # those that gave up come again
        failures = self._produce(jobs)
        accepted = [job for job, failure in zip(jobs, failures, strict=True) if failure is None]
        try:
            self._write(accepted)
        except redis.RedisError as error:
            why = "is full (maxmemory)" if is_full(error) else "is away or refuses"
            log.warning("tasks are accepted, but Redis %s; their state is written later: %s", why, error)
            if is_full(error):
                self._full_until = time.monotonic() + FULL_SECONDS
            for job in accepted:
                self._unwritten.append(job)
                self._unwritten_tasks += len(job.tasks)
            while self._unwritten_tasks > MAX_UNWRITTEN:
                self._unwritten_tasks -= len(self._unwritten.popleft().tasks)
        self._loop.call_soon_threadsafe(_resolve, jobs, failures)

    def _produce(self, jobs: list[Job]) -> list[Refusal | None]:
        """Put every task of the jobs into Kafka; give for each job why not, or None."""
        try:
            producer = self._connect({job.tasks[0].queue for job in jobs if job.tasks})
        except KafkaError as error:
            return [self._away(error) for _ in jobs]
        sent: list[list[Any] | Refusal] = []
        for job in jobs:
            try:
                sent.append(
                    [
                        producer.send(
                            topic(task.queue, task.priority),
                            encode_record(
                                task.task_id, task.task_type, task.payload, task.options, batch_size=task.batch_size
                            ),
                        )
                        for task in job.tasks
                    ]
                )
            except KafkaError as error:
                sent.append(self._away(error))
        failures: list[Refusal | None] = []
        for futures in sent:
            if isinstance(futures, Refusal):
                failures.append(futures)
                continue
            try:
                for future in futures:
                    future.get(timeout=self._timeout)
                failures.append(None)
            except KafkaError as error:
                failures.append(self._away(error))
        if any(failures):
            # A producer that has lost a batch may be unable to number the next one: a new one starts clean.
            self._producer = None
            producer.close(timeout=0)
        return failures

    def _connect(self, queues: set[str]) -> KafkaProducer:
        if self._producer is None:
            self._topics.clear()
            self._producer = connect_producer(self._settings)
        missing = (queues | {DEFAULT_QUEUE}) - self._topics
        if missing:
            ensure_topics(self._settings, missing)
            self._topics |= missing
        return self._producer

    def _write(self, jobs: list[Job]) -> None:
        tasks = [task for job in jobs for task in job.tasks]
        if tasks:
            self._store.submit(tasks)
        for job in jobs:
            close = job.close
            if close is not None:
                self._store.close_batch(close.batch_id, close.size, close.task_type, close.queue, close.ttl_seconds)

    def _write_late(self) -> None:
        try:
            while self._unwritten:
                self._write([self._unwritten[0]])
                self._unwritten_tasks -= len(self._unwritten.popleft().tasks)
        except redis.RedisError as error:
            log.info("%d states still wait for Redis: %s", self._unwritten_tasks, error)

    def _away(self, error: object) -> KafkaUnavailable:
        return KafkaUnavailable(
            f"Kafka at {','.join(self._settings.kafka)} did not take the tasks within {self._timeout:g} s: "
            f"{error or type(error).__name__}. Nothing was accepted; come again with the same ids"
        )


def _resolve(jobs: list[Job], failures: list[Refusal | None]) -> None:
    for job, failure in zip(jobs, failures, strict=True):
        if job.answer.done():
            continue
        if failure is None:
            job.answer.set_result(None)
        else:
            job.answer.set_exception(failure)
