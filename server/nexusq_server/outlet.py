"""Puts records onto Kafka from the API's event loop, a batch for each partition. Called by `submit` alone.

aiokafka and not kafka-python: that one's thread and the event loop would take the interpreter's lock from each other
with every request, which costs more than all that a single `POST` is otherwise. Not idempotent as a producer: what
Kafka got twice is a task that is there twice, and runs once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from aiokafka.helpers import create_ssl_context

from nexusq_sdk.protocol.words import DEFAULT_QUEUE
from nexusq_server.settings import Settings
from nexusq_server.topics import ensure_topics

log = logging.getLogger(__name__)

#: The most that a batch holds, if that is more than one record: brokers take 1 MiB unless they are told otherwise.
BATCH_BYTES = 256 * 1024
#: What a record takes beside its value, at the most.
RECORD_BYTES = 21
RETRY_SECONDS = 0.5
#: How often it is looked whether partitions without a leader have one again.
LOOK_SECONDS = 0.5

#: A record: its value, and the number of whoever it is for.
Entry = tuple[bytes, int]


class Outlet:
    """The producer. It connects when it is first used, and again whenever it has to."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._timeout = settings.submit_timeout.total_seconds()
        self._producer: AIOKafkaProducer | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._leaving: set[asyncio.Task[None]] = set()  # producers that end
        self._queues: set[str] = set()
        self._turn: dict[str, int] = {}
        self._looked: dict[str, float] = {}  # when the leaders of a topic's partitions were asked for
        self._batch_bytes: dict[str, int] = {}  # of topics whose brokers take less than `BATCH_BYTES`

    async def put(self, queues: Iterable[str], records: dict[str, list[Entry]]) -> dict[int, KafkaError]:
        """Put records onto topics, which are `queues`' own; wait until every in-sync replica has them.

        Gives, by the number of whoever a record was for, why it is not there, as far as is known.

        Raises
        ------
        aiokafka.errors.KafkaError, TimeoutError
            Kafka could not be reached: nothing was sent.
        """
        producer = await self._connected({DEFAULT_QUEUE, *queues})
        sent: list[tuple[asyncio.Future[Any], str, Sequence[Entry]]] = []
        failed: dict[int, KafkaError] = {}
        now_ms = time.time_ns() // 1_000_000
        for topic, entries in records.items():
            try:
                partitions = await self._partitions(producer, topic)
            except KafkaError as error:
                failed |= {number: error for _, number in entries}
                continue
            for partition, share in self._deal_out(partitions, topic, entries):
                for batch, part in self._batches(producer, topic, share, now_ms):
                    try:
                        sent.append((await producer.send_batch(batch, topic, partition=partition), topic, part))
                    except KafkaError as error:
                        failed |= {number: error for _, number in part}
        if sent:
            # A batch that is given up by the producer itself has failed by then; this is for a broker that hangs.
            await asyncio.wait([future for future, _, _ in sent], timeout=self._timeout)
        too_large: set[str] = set()
        for future, topic, share in sent:
            why = _why(future)
            if why is not None:
                failed |= {number: why for _, number in share}
                if isinstance(why, MessageSizeTooLargeError) and len(share) > 1:
                    too_large.add(topic)
        for topic in too_large:
            # Its brokers take less: whoever comes again finds smaller batches.
            self._batch_bytes[topic] = max(1024, self._batch_bytes.get(topic, BATCH_BYTES) // 2)
        if failed and not too_large:
            # What is wrong with it is not known: a new one starts clean, while this one gives up what it has.
            self._producer = None
            self._queues.clear()
            self._leaving.add(task := asyncio.create_task(_leave(producer)))
            task.add_done_callback(self._leaving.discard)
        return failed

    async def close(self) -> None:
        """Let go of Kafka; what is not acknowledged by now is given up."""
        if self._connecting is not None:
            self._connecting.cancel()
        if self._producer is not None:
            self._leaving.add(asyncio.create_task(_leave(self._producer)))
        if self._leaving:
            await asyncio.wait(self._leaving, timeout=1)

    async def _connected(self, queues: set[str]) -> AIOKafkaProducer:
        """Give the producer, once it is connected and these queues have their topics."""
        deadline = time.monotonic() + self._timeout
        while self._producer is None or not queues <= self._queues:
            if self._connecting is None or self._connecting.done():
                self._connecting = asyncio.create_task(self._connect(queues - self._queues))
            # It goes on beyond this round, which waits no longer than was promised.
            await asyncio.wait_for(asyncio.shield(self._connecting), max(0.0, deadline - time.monotonic()))
        return self._producer

    async def _connect(self, queues: set[str]) -> None:
        if queues:
            await asyncio.to_thread(ensure_topics, self._settings, queues)
            self._queues |= queues
        while self._producer is None:
            producer = AIOKafkaProducer(**client_settings(self._settings))
            try:
                await producer.start()
            except KafkaError as error:
                await producer.stop()
                log.info("waiting for Kafka: %s: %s", type(error).__name__, error)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self._producer = producer

    async def _partitions(self, producer: AIOKafkaProducer, topic: str) -> list[int]:
        """Give a topic's partitions that have a leader, if any has."""
        every = await producer.partitions_for(topic)
        cluster = producer.client.cluster
        led = cluster.available_partitions_for_topic(topic)
        if len(led) < len(every) and time.monotonic() - self._looked.get(topic, -LOOK_SECONDS) >= LOOK_SECONDS:
            # A topic that was just made, or a broker is away: nobody else would look again before minutes have passed.
            self._looked[topic] = time.monotonic()
            await producer.client.force_metadata_update()
            led = cluster.available_partitions_for_topic(topic)
        return sorted(led or every)

    def _deal_out(
        self, partitions: Sequence[int], topic: str, entries: Sequence[Entry]
    ) -> list[tuple[int, Sequence[Entry]]]:
        """Share records out to the partitions in turn, evenly, so that all workers have their part of them."""
        count = len(partitions)
        turn = self._turn.get(topic)
        if turn is None:
            turn = random.randrange(2**20)  # noqa: S311 - where many APIs begin, none is preferred
        self._turn[topic] = turn + len(entries)
        return [
            (partitions[(turn + first) % count], entries[first::count]) for first in range(min(count, len(entries)))
        ]

    def _batches(
        self, producer: AIOKafkaProducer, topic: str, entries: Sequence[Entry], now_ms: int
    ) -> Iterator[tuple[Any, Sequence[Entry]]]:
        """Fill batches; give each with what is in it."""
        limit = self._batch_bytes.get(topic, BATCH_BYTES)
        first = size = 0
        batch = producer.create_batch()
        for at, (value, _) in enumerate(entries):
            size += len(value) + RECORD_BYTES
            if at > first and size > limit:
                yield batch, entries[first:at]
                first, size, batch = at, len(value) + RECORD_BYTES, producer.create_batch()
            taken = batch.append(timestamp=now_ms, key=None, value=value)
            assert taken is not None, "a batch was full before its limit"
        yield batch, entries[first:]


def client_settings(settings: Settings) -> dict[str, Any]:
    """Give what an aiokafka producer is made with: the same places and secrets as kafka-python's clients."""
    context = None
    if settings.kafka_security.endswith("SSL"):
        context = create_ssl_context(
            cafile=settings.kafka_ca or None, certfile=settings.kafka_cert or None, keyfile=settings.kafka_key or None
        )
    # The two clients name everything alike, but for a context in place of files.
    same = {name: value for name, value in settings.kafka_client.items() if not name.startswith("ssl_")}
    return {
        **same,
        "ssl_context": context,
        "acks": "all",
        "max_batch_size": 2 * BATCH_BYTES,  # never full before `_batches` says so
        "linger_ms": 0,
        "request_timeout_ms": int(settings.submit_timeout.total_seconds() * 1000),
    }


def _why(future: asyncio.Future[Any]) -> KafkaError | None:
    """Give why a batch is not there; None if it is."""
    if not future.done():
        future.add_done_callback(_why)  # somebody has to look at it
        return KafkaError("no answer in time")
    if future.cancelled():
        return KafkaError("given up")
    return future.exception()


async def _leave(producer: AIOKafkaProducer) -> None:
    with contextlib.suppress(KafkaError):
        await producer.stop()
