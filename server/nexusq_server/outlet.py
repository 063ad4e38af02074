"""Puts records onto Kafka from the API's event loop, a batch for each partition. Called by `submit` alone.

aiokafka's client and not kafka-python: that one's thread and the event loop would take the interpreter's lock from each
other with every request, which costs more than all that a single `POST` is otherwise. Not aiokafka's producer, which
gathers what is gathered already: half of what a round of single `POST`s costs here. Not idempotent: what Kafka got
twice is a task that is there twice, and runs once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import (
    KafkaError,
    LeaderNotAvailableError,
    MessageSizeTooLargeError,
    TopicAuthorizationFailedError,
    for_code,
)
from aiokafka.helpers import create_ssl_context
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.structs import TopicPartition

from nexusq_sdk.protocol.words import DEFAULT_QUEUE
from nexusq_server.produce import Produce, ProduceAnswer
from nexusq_server.settings import Settings
from nexusq_server.topics import ensure_topics

log = logging.getLogger(__name__)

#: The most that a batch holds, if that is more than one record: brokers take 1 MiB unless they are told otherwise.
BATCH_BYTES = 256 * 1024
#: What a record takes beside its value, at the most.
RECORD_BYTES = 21
RETRY_SECONDS = 0.5
#: How long after a broker has refused a batch for now it is sent again, and how often leaders that are missing are
#: asked for.
AGAIN_SECONDS = 0.1
#: How often it is looked whether the rest of a topic's partitions have a leader.
LOOK_SECONDS = 0.5

#: A record: its value, and the number of whoever it is for.
Entry = tuple[bytes, int]


class RecordTooLarge(MessageSizeTooLargeError):  # type: ignore[misc]
    """A record alone is more than its topic takes: to send it again does not help."""

    def __init__(self, topic: str, value: bytes) -> None:
        super().__init__(topic)
        self.topic = topic
        self.value = value


class _Batch:
    """Records of one partition, as Kafka takes them, and how they fared."""

    __slots__ = ("data", "entries", "now_ms", "there", "to", "why")

    def __init__(self, to: TopicPartition, entries: Sequence[Entry], now_ms: int) -> None:
        # Kafka's format since 0.11, not compressed; how much a batch may hold is decided by whoever makes one.
        builder = DefaultRecordBatchBuilder(
            magic=2,
            compression_type=0,
            is_transactional=0,
            producer_id=-1,
            producer_epoch=-1,
            base_sequence=-1,
            batch_size=2**31 - 1,
        )
        for offset, (value, _) in enumerate(entries):
            builder.append(offset, now_ms, None, value, [])
        self.to = to
        self.entries = entries
        self.now_ms = now_ms
        self.data: bytearray = builder.build()
        self.there = False
        self.why: KafkaError | None = None  # it was not taken when it was sent last

    @property
    def waits(self) -> bool:
        """Whether it is not there but may be yet."""
        return not self.there and (self.why is None or self.why.retriable)

    def halves(self) -> list[_Batch]:
        """Give two batches in its place."""
        middle = len(self.entries) // 2
        return [_Batch(self.to, part, self.now_ms) for part in (self.entries[:middle], self.entries[middle:])]


class Outlet:
    """Sends batches to their partitions' leaders. It connects when it is first used, and again whenever it has to."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._timeout = settings.submit_timeout.total_seconds()
        self._client: AIOKafkaClient | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._users: dict[AIOKafkaClient, int] = {}  # rounds under way with each
        self._leaving: set[asyncio.Task[None]] = set()  # clients that end
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
        client = await self._connected({DEFAULT_QUEUE, *queues})
        self._users[client] = self._users.get(client, 0) + 1
        try:
            failed = await self._put(client, records)
            broken = not all(isinstance(why, MessageSizeTooLargeError) for why in failed.values())
            if broken and client is self._client:
                # What is wrong with it is not known: a new one starts clean.
                self._client = None
                self._queues.clear()
            return failed
        finally:
            self._users[client] -= 1
            if not self._users[client]:
                del self._users[client]
                if client is not self._client:
                    self._leave(client)

    async def _put(self, client: AIOKafkaClient, records: dict[str, list[Entry]]) -> dict[int, KafkaError]:
        deadline = asyncio.get_running_loop().time() + self._timeout
        batches: list[_Batch] = []
        failed: dict[int, KafkaError] = {}
        now_ms = time.time_ns() // 1_000_000
        for topic, entries in records.items():
            try:
                partitions = self._led(client, topic) or await self._wait_for_leaders(client, topic, deadline)
            except KafkaError as error:
                failed |= {number: error for _, number in entries}
                continue
            for partition, share in self._deal_out(partitions, topic, entries):
                to = TopicPartition(topic, partition)
                batches += [_Batch(to, part, now_ms) for part in self._parts(topic, share)]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self._send(client, batches)
        for batch in batches:
            if not batch.there:
                why = batch.why or KafkaError("no answer in time")
                if isinstance(why, MessageSizeTooLargeError) and len(batch.entries) == 1:
                    why = RecordTooLarge(batch.to.topic, batch.entries[0][0])
                failed |= {number: why for _, number in batch.entries}
        return failed

    async def close(self) -> None:
        """Let go of Kafka; what is not acknowledged by now is given up."""
        if self._connecting is not None:
            self._connecting.cancel()
        if self._client is not None:
            self._leave(self._client)
        if self._leaving:
            await asyncio.wait(self._leaving, timeout=1)

    async def _connected(self, queues: set[str]) -> AIOKafkaClient:
        """Give the client, once it is connected and these queues have their topics."""
        deadline = time.monotonic() + self._timeout
        while self._client is None or not queues <= self._queues:
            if self._connecting is None or self._connecting.done():
                self._connecting = asyncio.create_task(self._connect(queues - self._queues))
            # It goes on beyond this round, which waits no longer than was promised.
            await asyncio.wait_for(asyncio.shield(self._connecting), max(0.0, deadline - time.monotonic()))
        return self._client

    async def _connect(self, queues: set[str]) -> None:
        if queues:
            await asyncio.to_thread(ensure_topics, self._settings, queues)
            self._queues |= queues
        while self._client is None:
            client = AIOKafkaClient(**client_settings(self._settings))
            try:
                await client.bootstrap()
            except KafkaError as error:
                await client.close()
                log.info("waiting for Kafka: %s: %s", type(error).__name__, error)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self._client = client

    def _led(self, client: AIOKafkaClient, topic: str) -> list[int]:
        """Give a topic's partitions that have a leader, if any has, and if others were not looked for too long ago."""
        led = client.cluster.available_partitions_for_topic(topic) or set()
        some = len(led) < len(client.cluster.partitions_for_topic(topic) or ())
        # A topic that was just made, or a broker is away: nobody else would look again before minutes have passed.
        old = some and time.monotonic() - self._looked.get(topic, -LOOK_SECONDS) >= LOOK_SECONDS
        return [] if old else sorted(led)

    async def _wait_for_leaders(self, client: AIOKafkaClient, topic: str, deadline: float) -> list[int]:
        """Ask who leads a topic's partitions, until one has a leader."""
        try:
            async with asyncio.timeout_at(deadline):
                while True:
                    client.add_topic(topic)
                    await client.force_metadata_update()
                    self._looked[topic] = time.monotonic()
                    if topic in client.cluster.unauthorized_topics:
                        raise TopicAuthorizationFailedError(topic)
                    if led := self._led(client, topic):
                        return led
                    await asyncio.sleep(AGAIN_SECONDS)
        except TimeoutError:
            raise LeaderNotAvailableError(f"no partition of topic {topic!r} has a leader") from None

    async def _send(self, client: AIOKafkaClient, batches: list[_Batch]) -> None:
        """Send batches until each is there or can't be; those of one partition one after the other."""
        wait_ms = int(self._timeout * 1000)
        while waiting := [batch for batch in batches if batch.waits]:
            if any(batch.why for batch in waiting):
                await asyncio.sleep(AGAIN_SECONDS)
                await client.force_metadata_update()  # most likely another broker leads it now
            by_leader: dict[int, dict[TopicPartition, _Batch]] = {}
            for batch in waiting:
                leader = client.cluster.leader_for_partition(batch.to)
                if leader is None or leader < 0:
                    batch.why = LeaderNotAvailableError(f"{batch.to} has no leader")
                else:
                    by_leader.setdefault(leader, {}).setdefault(batch.to, batch)  # a request has room for one of each
            asking = [_ask(client, leader, asked, wait_ms) for leader, asked in by_leader.items()]
            await (asking[0] if len(asking) == 1 else asyncio.gather(*asking))
            for batch in waiting:
                if isinstance(batch.why, MessageSizeTooLargeError) and len(batch.entries) > 1:
                    # Its brokers take less than others. Of the halves, the one without the largest record may fit.
                    batches.remove(batch)
                    batches += batch.halves()
                    limit = self._batch_bytes.get(batch.to.topic, BATCH_BYTES)
                    self._batch_bytes[batch.to.topic] = max(1024, min(limit, len(batch.data) // 2))

    def _leave(self, client: AIOKafkaClient) -> None:
        self._leaving.add(task := asyncio.create_task(client.close()))
        task.add_done_callback(self._leaving.discard)

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

    def _parts(self, topic: str, entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
        """Cut a partition's records into what a batch may hold."""
        limit = self._batch_bytes.get(topic, BATCH_BYTES)
        first = size = 0
        for at, (value, _) in enumerate(entries):
            size += len(value) + RECORD_BYTES
            if at > first and size > limit:
                yield entries[first:at]
                first, size = at, len(value) + RECORD_BYTES
        yield entries[first:]


async def _ask(client: AIOKafkaClient, leader: int, batches: dict[TopicPartition, _Batch], wait_ms: int) -> None:
    """Send a broker a batch for each of some partitions that it leads; note how each fared."""
    topics: dict[str, list[tuple[int, bytearray]]] = {}
    for (topic, partition), batch in batches.items():
        topics.setdefault(topic, []).append((partition, batch.data))
    try:
        answer: ProduceAnswer = await client.send(leader, Produce(topics, wait_ms))
    except KafkaError as error:
        for batch in batches.values():
            batch.why = error
        return
    for topic, partition, code in answer.outcomes:
        batch = batches[TopicPartition(topic, partition)]
        batch.there = code == 0
        batch.why = None if batch.there else for_code(code)()


def client_settings(settings: Settings) -> dict[str, Any]:
    """Give what an aiokafka client is made with: the same places and secrets as kafka-python's."""
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
        "request_timeout_ms": int(settings.submit_timeout.total_seconds() * 1000),
    }
