"""What many tests ask of a NexusQ, over HTTP and Kafka as anyone would."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import redis
import redis.asyncio
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from nexusq_sdk.protocol import ids
from nexusq_sdk.protocol.words import DEFAULT_QUEUE
from nexusq_server.accepted import Accepted
from nexusq_server.local.cluster import free_ports
from nexusq_server.local.redis import command, find_redis
from nexusq_server.settings import Settings, load_settings
from nexusq_server.states import NewTask, Unusual
from nexusq_server.store import Store
from nexusq_server.topics import DEAD_LETTERS
from tests.conftest import WorkerProcess, eventually

StartWorker = Callable[..., WorkerProcess]
ENDED = {"COMPLETED", "FAILED", "CANCELLED"}


def submit(http: httpx.Client, task_type: str, payload: Any, **options: Any) -> str:
    """Post a task; give its id."""
    answer = http.post("/tasks", json={"taskType": task_type, "payload": payload, "options": options})
    assert 202 == answer.status_code, answer.text
    return str(answer.json()["taskId"])


def view(http: httpx.Client, task_id: str) -> dict[str, Any]:
    """Give what the API says of a task."""
    answer = http.get(f"/tasks/{task_id}")
    assert 200 == answer.status_code, answer.text
    return dict(answer.json())


def has_status(http: httpx.Client, task_id: str, *statuses: str) -> Callable[[], None]:
    """Make an assertion for `eventually`."""

    def check() -> None:
        seen = view(http, task_id)
        assert seen["status"] in statuses, seen

    return check


def ended(http: httpx.Client, task_id: str, seconds: float = 30) -> dict[str, Any]:
    """Wait for a task's end; give what the API says of it."""
    eventually(has_status(http, task_id, *ENDED), seconds)
    return view(http, task_id)


def send(producer: KafkaProducer, topic: str, **record: Any) -> str:
    """Put a record on a topic as any other client may; give its task's id."""
    task_id = str(record.setdefault("taskId", ids.new_id()))
    producer.send(topic, json.dumps(record).encode()).get(10)
    return task_id


@contextmanager
def new_dead_letters(settings: Settings) -> Iterator[Callable[[Callable[[dict[str, Any]], bool]], dict[str, Any]]]:
    """Read ``task-queue.dead`` from here on: give a function that waits for a letter."""
    partition = TopicPartition(DEAD_LETTERS, 0)
    consumer = KafkaConsumer(bootstrap_servers=list(settings.kafka), enable_auto_commit=False)
    consumer.assign([partition])
    consumer.seek_to_end(partition)
    consumer.position(partition)
    letters: list[dict[str, Any]] = []

    def wait_for(wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        def came() -> None:
            for records in consumer.poll(100).values():
                letters.extend(json.loads(record.value) for record in records)
            assert any(map(wanted, letters)), [(letter["reason"], letter.get("taskId")) for letter in letters]

        eventually(came)
        return next(filter(wanted, letters))

    yield wait_for
    consumer.close()


@contextmanager
def own_redis(folder: Path) -> Iterator[redis.Redis]:
    """Start a Redis that nobody else uses: no scheduler takes what is due, and a test may fill it."""
    [port] = free_ports(1)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "redis.log").open("w") as log:
        process = subprocess.Popen(command(find_redis(), folder, port), stdout=log, stderr=log)
    try:
        with redis.Redis(port=port, decode_responses=True) as client:

            def answers() -> None:
                try:
                    assert client.ping()
                except redis.ConnectionError as error:
                    raise AssertionError(str(error)) from None

            eventually(answers)
            yield client
    finally:
        process.kill()
        process.wait()


@contextmanager
def own_store(folder: Path) -> Iterator[tuple[Store, redis.Redis]]:
    """Give the verbs on a Redis of one's own, on which a lease that has ended is believed at once."""
    with own_redis(folder) as client:

        def has_run_for_a_second() -> None:
            assert client.info("server")["uptime_in_seconds"] >= 1

        eventually(has_run_for_a_second)
        port = client.connection_pool.connection_kwargs["port"]
        with redis.Redis(port=port) as raw:
            yield Store(raw, load_settings(lease="1ms")), client


class Polled(NamedTuple):
    """A record of a task, for one of its attempts."""

    task: NewTask
    number: int = 1

    @property
    def task_id(self) -> str:
        """The task's id."""
        return self.task.task_id

    @property
    def batch_size(self) -> int | None:
        """The size of the batch that it closes."""
        return self.task.batch_size


def claim(
    store: Store, worker: str, tasks: list[tuple[NewTask, int]], room: int | None = None
) -> list[tuple[int, Unusual]]:
    """Claim tasks by records of them, each for an attempt; give the answers, each with how to run the task."""
    answers, unusual = store.claim(worker, [Polled(*task) for task in tasks], room)
    return [(answer, unusual.get(index, Unusual())) for index, answer in enumerate(answers)]


def close_batch(settings: Settings, batch_id: str, size: int) -> None:
    """Record that a batch of ECHO tasks has all of them, as the API does where a last chunk has none."""

    async def close() -> None:
        client = redis.asyncio.Redis.from_url(settings.redis)
        accepted = Accepted(client, settings)
        await accepted.close_batch(batch_id, size, "ECHO", DEFAULT_QUEUE, None)
        await accepted.close()
        await client.aclose()

    asyncio.run(close())
