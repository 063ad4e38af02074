"""Kafka's side of the wire: the names of topics and groups, a task as a record's bytes and back, clients.

Called from any thread; keeps no state.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, TypeVar

import msgspec
from kafka import KafkaAdminClient, KafkaProducer
from kafka.errors import KafkaError, KafkaTimeoutError, TopicAlreadyExistsError

from nexusq_sdk.protocol import ids
from nexusq_sdk.protocol.wire import Record
from nexusq_sdk.protocol.words import DEFAULT_QUEUE, MAX_CHUNK_TASKS, TASK_TYPE, Priority
from nexusq_server.limits import MAX_ATTEMPT, fault_in
from nexusq_server.partitioner import InTurn
from nexusq_server.settings import Settings

log = logging.getLogger(__name__)

T = TypeVar("T")

DEAD_LETTERS = "task-queue.dead"
#: How long a process waits for Kafka at its start before it gives up.
START_TIMEOUT = timedelta(seconds=30)
RETRY_SECONDS = 0.5


#: The most rows of a batch.
MAX_BATCH = 1_000_000_000 + MAX_CHUNK_TASKS


class RecordError(ValueError):
    """A record that is no NexusQ task; the message says why."""


@functools.lru_cache(1000)
def topic(queue: str, priority: str = Priority.NORMAL) -> str:
    """Name the topic of a queue's tasks of one priority."""
    lane = "task-queue" if queue == DEFAULT_QUEUE else f"task-queue.{queue}"
    return lane if priority == Priority.NORMAL else f"{lane}.{priority}"


def group(queue: str) -> str:
    """Name the consumer group that shares a queue's topic out among its workers."""
    return "nexusq-workers" if queue == DEFAULT_QUEUE else f"nexusq-workers.{queue}"


_decode = msgspec.json.Decoder(Record).decode
_read = msgspec.json.Decoder().decode


def encode_record(
    task_id: str, task_type: str, payload: Any, options: bytes, *, attempt: int = 1, batch_size: int | None = None
) -> bytes:
    """Encode a task as its record's value. `payload` is JSON already (bytes or `msgspec.Raw`), so are `options`.

    A batch's id is not written: the task's id says it, and a record is written once a task.
    """
    head = b'{"taskId":"%b","taskType":"%b","payload":' % (task_id.encode(), task_type.encode())
    tail = b"" if attempt == 1 else b',"attempt":%d' % attempt
    if options:
        tail += b',"options":' + options
    if batch_size is not None:
        tail += b',"batchSize":%d' % batch_size
    return head + bytes(payload) + tail + b"}"


@functools.lru_cache(1000)
def _is_task_type(text: str) -> bool:
    return TASK_TYPE.fullmatch(text) is not None


def decode_record(value: bytes | None) -> Record:
    """Decode a record's value, whoever wrote it.

    Raises
    ------
    RecordError
        If it is not a task: no JSON in UTF-8, a field missing or of a wrong type, an id or a task type that is none.
    """
    if not value:
        raise RecordError("expected a task as JSON, got an empty record")
    try:
        record = _decode(value.decode())
        # What is kept as it came must be readable: a number like 1e999 is JSON that no reader takes.
        _read(record.payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecordError(f"expected a task as JSON: {error}") from error
    if not ids.is_task_id(record.task_id):
        raise RecordError(f"expected taskId to be <uuid> or <uuid>-<index> in lower case, got {record.task_id!r}")
    if not _is_task_type(record.task_type):
        raise RecordError(f"expected taskType to be a name such as 'EMAIL_SEND', got {record.task_type!r}")
    if not 1 <= record.attempt <= MAX_ATTEMPT:
        raise RecordError(f"expected attempt to be from 1 to {MAX_ATTEMPT}, got {record.attempt}")
    fault = fault_in(record.options) if record.options is not None else None
    if fault is not None:
        raise RecordError(f"options: {fault.message}")
    if record.batch_size is not None:
        split = ids.split_task_id(record.task_id)
        if split is None or not split[1] < record.batch_size <= MAX_BATCH:
            raise RecordError(
                f"expected batchSize to stand on a task of a batch and to be above its row, up to {MAX_BATCH}, "
                f"got {record.batch_size} on {record.task_id}"
            )
    return record


class Producer(KafkaProducer):  # type: ignore[misc]
    """A producer whose `close` gives up what is not acknowledged in time, and always ends its thread."""

    def close(self, timeout: float | None = None, null_logger: bool = False) -> None:
        """Close it; never raises because Kafka is away."""
        try:
            super().close(timeout, null_logger)
        except KafkaTimeoutError:
            # kafka-python (3.0.12) leaves here before it has ended anything.
            self._sender.force_close()
            self._closed = True


def connect_producer(settings: Settings) -> KafkaProducer:
    """Connect a producer that acknowledges only what every in-sync replica has, in order and without duplicates.

    Batches are large because many tasks are produced at once and the answer waits for all of them anyway.
    """
    timeout = int(settings.submit_timeout.total_seconds() * 1000)
    return Producer(
        **settings.kafka_client,
        acks="all",
        batch_size=256 * 1024,
        linger_ms=0,
        max_block_ms=timeout,
        request_timeout_ms=timeout,
        delivery_timeout_ms=timeout,
        bootstrap_timeout_ms=int(START_TIMEOUT.total_seconds() * 1000),
        reconnect_backoff_max_ms=1000,
        allow_auto_create_topics=False,
        metrics_enabled=False,
        partitioner=InTurn(),
    )


def patiently(attempt: Callable[[], T]) -> T:
    """Do what needs Kafka; again while it is away, as long as a process waits for it at its start."""
    deadline = time.monotonic() + START_TIMEOUT.total_seconds()
    while True:
        try:
            return attempt()
        except KafkaError as error:
            if time.monotonic() > deadline:
                raise
            log.info("waiting for Kafka: %s: %s", type(error).__name__, error)
        time.sleep(RETRY_SECONDS)


def ensure_topics(settings: Settings, queues: Iterable[str]) -> None:
    """Create the topics of `queues` and the dead letters' where they are missing. Safe to call at any time."""
    wanted = list(queues)
    patiently(lambda: _ensure_topics(settings, wanted))


def _ensure_topics(settings: Settings, queues: Iterable[str]) -> None:
    names = [topic(queue, priority) for queue in queues for priority in Priority] + [DEAD_LETTERS]
    admin = KafkaAdminClient(
        **settings.kafka_client,
        bootstrap_timeout_ms=int(START_TIMEOUT.total_seconds() * 1000),
        # Processes start while Kafka does: pauses that grow to many seconds would be what they wait for.
        reconnect_backoff_max_ms=250,
    )
    try:
        present = set(admin.list_topics())
        missing = {
            name: {
                "num_partitions": 1 if name == DEAD_LETTERS else settings.partitions,
                "replication_factor": settings.replication,
            }
            for name in names
            if name not in present
        }
        if missing:
            try:
                admin.create_topics(missing, wait_for_metadata=True)
            except TopicAlreadyExistsError:
                # Another process was quicker with one of them: the rest may still be missing.
                log.debug("a topic of %s was made by another process", sorted(missing))
                for name, options in missing.items():
                    _create_one(admin, name, options)
    finally:
        admin.close()


def _create_one(admin: KafkaAdminClient, name: str, options: dict[str, int]) -> None:
    try:
        admin.create_topics({name: options}, wait_for_metadata=True)
    except TopicAlreadyExistsError:
        log.debug("%s is there already", name)
