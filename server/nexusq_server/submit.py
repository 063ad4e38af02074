"""Accepts tasks: Kafka first, then state. All that waits is taken at once, so that many requests share a round.

A round: put every record, wait for every acknowledgement, write the states in bulk, answer the waiting requests. Two
are under way at a time, so that one waits while the other is worked at; the second begins once it has as many requests
as the first, since a round of few costs nearly as much as one of many. All of it runs on the API's event loop. What was
answered with 503 may still reach Kafka: the client comes again with the same ids, and a task that is there twice runs
once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import aiokafka.errors
import kafka.errors
import redis
import redis.asyncio

from nexusq_server.accepted import Accepted
from nexusq_server.outlet import Entry, Outlet, RecordTooLarge
from nexusq_server.problems import BodyTooLarge, KafkaUnavailable, QueueFull, RedisFull
from nexusq_server.settings import Settings
from nexusq_server.states import NewTask
from nexusq_server.store import is_full
from nexusq_server.topics import decode_record, encode_record, topic

log = logging.getLogger(__name__)

#: Rounds at a time: with more, each is smaller, and costs more than the waiting that it saves.
ROUNDS = 2
#: Tasks a round, and tasks that may wait for one: beyond it requests are told to come again.
ROUND_TASKS = 20_000
MAX_WAITING_TASKS = 100_000
#: States that are kept for a Redis that is away; beyond it they are left to the workers' claims.
MAX_UNWRITTEN = 200_000
RETRY_SECONDS = 1.0
#: How often it is looked which requests have waited for too long.
LOOK_SECONDS = 0.25
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


class Job:
    """One request's tasks. Made in the event loop."""

    __slots__ = ("answer", "close", "since", "tasks")

    def __init__(self, tasks: list[NewTask], close: Close | None = None) -> None:
        self.tasks = tasks
        self.close = close
        self.answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.since = time.monotonic()


class Submitter:
    """The rounds, from `start` to `stop`."""

    def __init__(self, settings: Settings, client: redis.asyncio.Redis) -> None:
        self._settings = settings
        self._timeout = settings.submit_timeout.total_seconds()
        self._outlet = Outlet(settings)
        self._accepted = Accepted(client, settings)
        self._jobs: deque[Job] = deque()
        self._rounds: list[Sequence[Job]] = [()] * ROUNDS  # those under way
        self._under_way = 0  # jobs of those
        self._waiting = 0  # tasks, of all that wait and all under way
        self._work, self._late = asyncio.Event(), asyncio.Event()
        self._stopping = False
        self._unwritten: deque[Job] = deque()
        self._unwritten_tasks = 0
        self._full_until = 0.0
        self._serving: list[asyncio.Task[None]] = []
        self._beside: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin."""
        self._serving = [asyncio.create_task(self._serve(place)) for place in range(ROUNDS)]
        self._beside = [asyncio.create_task(run()) for run in (self._give_up, self._catch_up)]

    async def submit(self, job: Job) -> None:
        """Return once Kafka has the job's tasks and, if Redis answers, their state is written.

        Raises
        ------
        QueueFull, KafkaUnavailable, RedisFull
            Nothing was accepted, as far as is known.
        BodyTooLarge
            A task is more than its topic takes. Others of the job may have been accepted.
        """
        if time.monotonic() < self._full_until:
            raise RedisFull(
                "Redis is full (maxmemory): no worker can claim a task before there is room. Raise maxmemory, or let "
                "results expire sooner (NEXUSQ_RESULT_TTL)"
            )
        if self._waiting + len(job.tasks) > MAX_WAITING_TASKS:
            raise QueueFull(f"{self._waiting} tasks wait for Kafka already; come again with the same ids")
        self._waiting += len(job.tasks)
        self._jobs.append(job)
        if len(self._jobs) >= self._under_way:
            self._work.set()
        try:
            await job.answer
        finally:
            self._waiting -= len(job.tasks)

    async def stop(self) -> None:
        """Finish what waits and end."""
        self._stopping = True
        self._work.set()
        await asyncio.wait(self._serving, timeout=self._timeout)
        for task in (*self._serving, *self._beside):
            task.cancel()
        with contextlib.suppress(redis.RedisError):
            await self._write_late()
        await self._outlet.close()
        await self._accepted.close()

    async def _serve(self, place: int) -> None:
        """Make rounds of what waits, one after the other."""
        while True:
            if len(self._jobs) < max(1, self._under_way):
                if self._stopping and not self._jobs:
                    break
                self._work.clear()
                await self._work.wait()
                continue
            self._rounds[place] = jobs = self._take()
            self._under_way += len(jobs)
            try:
                failures = await self._put(jobs)
            except Exception as error:
                log.exception("a round of %d requests failed", len(jobs))
                failures = dict.fromkeys(range(len(jobs)), error)
            await self._finish(jobs, failures)
            self._rounds[place] = ()
            self._under_way -= len(jobs)
            self._work.set()

    async def _give_up(self) -> None:
        """Tell requests that have waited for longer than was promised, as for a round that itself waits for Kafka."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            oldest = time.monotonic() - self._timeout - 1
            for jobs in (*self._rounds, self._jobs):
                for job in jobs:
                    if job.since > oldest:
                        break
                    _resolve(job, self._away("no answer in time"))

    async def _catch_up(self) -> None:
        """Write the states that Redis could not take at first."""
        while True:
            await self._late.wait()
            await asyncio.sleep(RETRY_SECONDS)
            try:
                await self._write_late()
                self._late.clear()
            except redis.RedisError as error:
                log.info("%d states still wait for Redis: %s", self._unwritten_tasks, error)

    def _take(self) -> list[Job]:
        """Give all jobs that wait, up to a round's size."""
        jobs: list[Job] = []
        tasks = 0
        while self._jobs and tasks < ROUND_TASKS:
            job = self._jobs.popleft()
            if not job.answer.done():  # those that gave up come again
                jobs.append(job)
                tasks += len(job.tasks)
        return jobs

    async def _finish(self, jobs: list[Job], failures: dict[int, Exception]) -> None:
        """Write the states of a round and answer its requests."""
        accepted = [job for number, job in enumerate(jobs) if number not in failures]
        try:
            await self._write(accepted)
        except redis.RedisError as error:
            self._keep(accepted, error)
        except Exception:
            log.exception("the states of %d requests were not written: their claims do it", len(accepted))
        for number, job in enumerate(jobs):
            _resolve(job, failures.get(number))

    async def _put(self, jobs: list[Job]) -> dict[int, Exception]:
        """Put every task of the jobs into Kafka; give, by the job's number, why not."""
        records: dict[str, list[Entry]] = {}
        for number, job in enumerate(jobs):
            for task in job.tasks:
                value = encode_record(
                    task.task_id, task.task_type, task.payload, task.options, batch_size=task.batch_size
                )
                records.setdefault(topic(task.queue, task.priority), []).append((value, number))
        queues = {job.tasks[0].queue for job in jobs if job.tasks}
        try:
            failed = await self._outlet.put(queues, records)
        except (aiokafka.errors.KafkaError, kafka.errors.KafkaError, TimeoutError) as error:
            return dict.fromkeys(range(len(jobs)), self._away(error))
        return {
            number: _too_large(error, len(jobs[number].tasks))
            if isinstance(error, RecordTooLarge)
            else self._away(error)
            for number, error in failed.items()
        }

    async def _write(self, jobs: list[Job]) -> None:
        tasks = [task for job in jobs for task in job.tasks]
        if tasks:
            await self._accepted.submit(tasks)
        for job in jobs:
            close = job.close
            if close is not None:
                await self._accepted.close_batch(
                    close.batch_id, close.size, close.task_type, close.queue, close.ttl_seconds
                )

    def _keep(self, accepted: list[Job], error: redis.RedisError) -> None:
        """Keep states for later."""
        why = "is full (maxmemory)" if is_full(error) else "is away or refuses"
        log.warning("tasks are accepted, but Redis %s; their state is written later: %s", why, error)
        if is_full(error):
            self._full_until = time.monotonic() + FULL_SECONDS
        for job in accepted:
            self._unwritten.append(job)
            self._unwritten_tasks += len(job.tasks)
        while self._unwritten_tasks > MAX_UNWRITTEN:
            self._unwritten_tasks -= len(self._unwritten.popleft().tasks)
        self._late.set()

    async def _write_late(self) -> None:
        while self._unwritten:
            job = self._unwritten[0]
            await self._write([job])
            if self._unwritten and self._unwritten[0] is job:  # not dropped meanwhile for want of room
                self._unwritten.popleft()
                self._unwritten_tasks -= len(job.tasks)

    def _away(self, error: object) -> KafkaUnavailable:
        return KafkaUnavailable(
            f"Kafka at {','.join(self._settings.kafka)} did not take the tasks within {self._timeout:g} s: "
            f"{error or type(error).__name__}. Nothing was accepted; come again with the same ids"
        )


def _too_large(error: RecordTooLarge, tasks: int) -> BodyTooLarge:
    others = " Other tasks of this request may have been accepted, and run." if tasks > 1 else ""
    return BodyTooLarge(
        f"task {decode_record(error.value).task_id} is a record of {len(error.value)} bytes, more than Kafka's topic "
        f"{error.topic!r} takes. Raise the topic's max.message.bytes, or store what is large and send where it "
        f"is.{others}"
    )


def _resolve(job: Job, failure: Exception | None) -> None:
    if job.answer.done():
        return
    if failure is None:
        job.answer.set_result(None)
    else:
        job.answer.set_exception(failure)
