"""Takes records from Kafka for one worker and commits offsets. Called by the worker's loop alone.

Never waits for a handler.
A consumer for each queue, since each queue has a consumer group of its own; it reads the topics of all priorities. The
rebalance listener runs in the client's own thread and only touches `Offsets`.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import redis
from kafka import ConsumerRebalanceListener, KafkaConsumer, OffsetAndMetadata, TopicPartition
from kafka.errors import KafkaError

from nexusq_sdk.protocol.words import Priority
from nexusq_server.assignor import TopicByTopicAssignor
from nexusq_server.dead_letters import DeadLetters
from nexusq_server.offsets import Offsets, Place
from nexusq_server.records import Raw, read_raw
from nexusq_server.settings import Settings
from nexusq_server.store import Store
from nexusq_server.topics import START_TIMEOUT, RecordError, decode_record, group, patiently, topic
from nexusq_server.work import Received

log = logging.getLogger(__name__)

Lane = tuple[str, Priority]

#: Kafka's brokers take no shorter session by default (group.min.session.timeout.ms).
SHORTEST_SESSION_MS = 6000
#: A worker learns by the answer to a heartbeat that partitions move; joining and leaving take two such rounds.
HEARTBEAT_MS = 500
#: How long polling waits at least while partitions are shared out anew: in polls that wait for nothing, a worker that
#: has work in hand would never come to join, and all others would wait for it.
JOIN_MS = 100
MAX_POLL_RECORDS = 1000
#: How long Kafka waits for records at the most where a fetch does not ask for all partitions.
PART_WAIT_MS = 20
#: ... and where the same topics have been paused for so long: what is in hand of them lasts.
PAUSED_SECONDS, PAUSED_WAIT_MS = 1.0, 200
#: How long polling waits for Kafka to say what is committed before it tries again.
COMMITTED_MS = 2000


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, lost: Callable[[Collection[TopicPartition]], None]) -> None:
        self._lost = lost

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        # Tasks of these partitions that run go on: their new owner sees this worker's lease and waits.
        self._lost(revoked)

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        # Nothing is forgotten here: their first records may have been polled already.
        log.info("%d partitions more: %s", len(assigned), ", ".join(sorted({part.topic for part in assigned})))

    def on_partitions_lost(self, lost: Collection[TopicPartition]) -> None:
        self._lost(lost)


class Intake:
    """The consumers of a worker's queues."""

    def __init__(
        self, settings: Settings, offsets: Offsets[TopicPartition], dead_letters: DeadLetters, store: Store
    ) -> None:
        self._offsets = offsets
        self._dead_letters = dead_letters
        self._store = store
        self._refused: list[tuple[bytes | None, Place[TopicPartition], str]] = []  # waiting to become dead letters
        self._committed: dict[TopicPartition, int] = {}
        self._adrift: set[TopicPartition] = set()  # to be read again from the commit, once Kafka says where that is
        self._topics: dict[str, Lane] = {}  # topic → queue, priority
        self._paused: set[str] = set()
        self._held_at = 0.0  # since when those are paused
        self._resumed: set[KafkaConsumer] = set()  # whose fetch session is to begin anew
        self._commits_fail = False
        self._consumers: dict[str, KafkaConsumer] = {}
        for queue in settings.queues:
            names = {topic(queue, priority): (queue, priority) for priority in Priority}
            self._topics |= names
            consumer = patiently(functools.partial(KafkaConsumer, **_consumer_settings(settings, queue)))
            read_raw(consumer)
            _keep_woken(consumer)
            _ask_again_soon(consumer, self._part_wait_ms)
            # Once its metadata is known the first assignment is right; a consumer that subscribes before is given
            # nothing at first.
            for name in names:
                patiently(functools.partial(consumer.partitions_for_topic, name))
            consumer.subscribe(list(names), listener=_Listener(offsets.lost))
            self._consumers[queue] = consumer

    @property
    def topics(self) -> set[str]:
        """The topics that are read."""
        return set(self._topics)

    def members(self) -> dict[str, str]:
        """Give who this worker is to each of its groups, for whoever takes it out when it has died.

        Not a static member: its group is to wait for it.
        """
        found = (consumer.group_metadata() for consumer in self._consumers.values())
        return {seen.group_id: seen.member_id for seen in found if seen.member_id and not seen.group_instance_id}

    def poll(self, seconds: float) -> list[tuple[Lane, list[Received]]]:
        """Give the tasks that have come, by queue and priority, waiting at most so long for the first of them."""
        received: list[tuple[Lane, list[Received]]] = []
        wait_ms = int(seconds * 1000 / len(self._consumers))
        for consumer in self._consumers.values():
            losses = self._offsets.losses
            self._go_back(consumer)
            _finish_resume(consumer)
            if consumer in self._resumed and _begin_session(consumer):
                self._resumed.discard(consumer)
            try:
                polled = consumer.poll(timeout_ms=max(wait_ms, JOIN_MS) if _joins(consumer) else wait_ms)
            except KafkaError as error:
                log.warning("Kafka could not be polled, it is tried again: %s: %s", type(error).__name__, error)
                continue
            for partition, records in polled.items():
                received.append((self._topics[partition.topic], self._take(partition, records, losses)))
            _finish_join(consumer)
        self._bury()
        return received

    def hold(self, full: set[str]) -> None:
        """Stop fetching the topics of which the worker has enough in hand, go on with the others."""
        if not full and not self._paused:
            return
        for consumer in self._consumers.values():
            # Each time, not only at first: partitions that were assigned meanwhile come unpaused.
            consumer.pause(*(part for part in consumer.assignment() if part.topic in full))
            resumed = [part for part in consumer.paused() if part.topic not in full]
            if resumed:
                consumer.resume(*resumed)
                self._resumed.add(consumer)
        if full != self._paused:
            self._held_at = time.monotonic()
        self._paused = set(full)

    def _part_wait_ms(self) -> int:
        return PAUSED_WAIT_MS if self._paused and time.monotonic() - self._held_at > PAUSED_SECONDS else PART_WAIT_MS

    def commit(self, durable: Mapping[TopicPartition, int], wait: bool = False) -> None:
        """Commit offsets, those that have moved, of partitions that are still assigned."""
        for consumer in self._consumers.values():
            moved = {
                partition: OffsetAndMetadata(durable[partition])
                for partition in consumer.assignment()
                if partition in durable and self._committed.get(partition) != durable[partition]
            }
            if not moved:
                continue
            if wait:
                try:
                    consumer.commit(moved, timeout_ms=5000)
                except KafkaError as error:
                    log.warning("offsets were not committed; what they cover is looked at again: %s", error)
            else:
                consumer.commit_async(moved, callback=self._commit_ended)
            self._committed.update({partition: offset.offset for partition, offset in moved.items()})

    def rewind(self) -> None:
        """Read everything again that is not committed: Redis may have forgotten what was decided about it."""
        for consumer in self._consumers.values():
            assigned = consumer.assignment()
            self._offsets.lost(assigned)
            self._adrift |= assigned

    def close(self) -> None:
        """Leave the groups, so that the partitions go to other workers at once."""
        for consumer in self._consumers.values():
            try:
                consumer.close(autocommit=False, timeout_ms=5000)
            except KafkaError as error:
                log.warning("a group was left without saying so: %s", error)

    def _commit_ended(self, offsets: dict[TopicPartition, OffsetAndMetadata], answer: object) -> None:
        failed = isinstance(answer, Exception)
        if failed:
            for partition in offsets:
                self._committed.pop(partition, None)
            if not self._commits_fail:  # said once, not ten times a second while Kafka is away
                log.warning("offsets were not committed; they are again with the next, until it succeeds: %s", answer)
        self._commits_fail = failed

    def _go_back(self, consumer: KafkaConsumer) -> None:
        """Go on from the last commit where that is due. While Kafka does not say where that is, nothing is taken there.

        Polling goes on: without it the worker could not take part in a rebalance.
        """
        try:
            for partition in self._adrift & consumer.assignment():
                _back_to_commit(consumer, partition)
                self._adrift.discard(partition)
        except KafkaError as error:
            log.warning("what is committed is not known, it is asked again: %s: %s", type(error).__name__, error)

    def _take(self, partition: TopicPartition, records: list[Raw], losses: int) -> list[Received]:
        if partition in self._adrift:
            return []
        epoch = self._offsets.received(partition, [record[0] for record in records], losses)
        if epoch is None:
            # A rebalance came between: whose these records are is not known. If they are ours, they come again.
            self._adrift.add(partition)
            return []
        queue, priority = self._topics[partition.topic]
        received = []
        for offset, timestamp, value in records:
            try:
                record = decode_record(value)
            except RecordError as error:
                self._refused.append((value, Place(partition, epoch, offset), str(error)))
                continue
            size = 0 if value is None else len(value)
            received.append(Received(record, queue, priority, timestamp * 1000, partition, epoch, offset, size))
        return received

    def _bury(self) -> None:
        while self._refused:
            value, place, reason = self._refused[0]
            letter = self._dead_letters.put_record(place.partition, place.offset, value or b"", reason)
            if letter is None:
                return
            try:
                topic, number = place.partition
                self._store.note_dead_record(f"{topic}:{number}:{place.offset}", letter)
            except redis.RedisError as error:
                log.warning("a dead letter is on its topic, but not in the list of them: %s", error)
            self._offsets.settled([place])
            self._refused.pop(0)


def _consumer_settings(settings: Settings, queue: str) -> dict[str, object]:
    session = max(SHORTEST_SESSION_MS, int(settings.lease.total_seconds() * 1000))
    return {
        **settings.kafka_client,
        "group_id": group(queue),
        "group_instance_id": f"{settings.group_instance}.{queue}" if settings.group_instance else None,
        "enable_auto_commit": False,
        # Records that are older than the group are tasks all the same: nothing is skipped.
        "auto_offset_reset": "earliest",
        "allow_auto_create_topics": False,
        "partition_assignment_strategy": (TopicByTopicAssignor,),
        "session_timeout_ms": session,
        "heartbeat_interval_ms": HEARTBEAT_MS,
        "request_timeout_ms": max(30_000, session + 5_000),
        "fetch_max_bytes": 16 * 1024 * 1024,
        "max_poll_records": MAX_POLL_RECORDS,
        # A rebalance waits so long for a member that does not poll: the loop always does, within a second.
        "max_poll_interval_ms": max(60_000, session),
        "reconnect_backoff_max_ms": 1000,
        "bootstrap_timeout_ms": int(START_TIMEOUT.total_seconds() * 1000),
        "metrics_enabled": False,
    }


def _joins(consumer: KafkaConsumer) -> bool:
    coordinator = consumer._coordinator  # nothing public shows it
    return bool(coordinator.rejoining or coordinator.need_rejoin())


def _finish_resume(consumer: KafkaConsumer) -> None:
    """Mend a resume that kafka-python (3.0.12) would leave half done for ever.

    What it had fetched of a partition that was paused comes back only into an empty place, and a place whose records
    are used up does not count as empty: the partition would be neither read nor fetched any more.
    """
    fetcher = consumer._fetcher  # nothing public shows it
    if fetcher._next_partition_records is not None and not fetcher._next_partition_records:
        fetcher._next_partition_records = None


def _keep_woken(consumer: KafkaConsumer) -> None:
    """Mend a wake-up that kafka-python (3.0.12) would lose: a poll that waits in vain while its records are there.

    A fetch that is answered after a poll has looked for records, and before the poll asks for more, was taken off the
    list of those that wake it.
    """
    fetcher = consumer._fetcher  # nothing public shows it
    forget_answered = fetcher._clean_done_fetch_futures

    async def forget_used() -> None:
        if not fetcher._completed_fetches:
            await forget_answered()

    fetcher._clean_done_fetch_futures = forget_used


def _ask_again_soon(consumer: KafkaConsumer, wait_ms: Callable[[], int]) -> None:
    """Let Kafka answer a fetch soon that leaves partitions out: until then no other fetch can ask for theirs.

    Left out is what is paused, or has records that were not handed out yet. kafka-python (3.0.12) has one fetch at a
    time for a broker, and Kafka may wait with it for `fetch_max_wait_ms`.
    """
    fetcher = consumer._fetcher  # nothing public shows it
    create = fetcher._create_fetch_requests

    def create_requests() -> Any:
        requests = create()
        if len(fetcher._fetchable_partitions()) < len(consumer.assignment()):
            for request, _ in requests.values():
                request.max_wait_ms = wait_ms()
        return requests

    fetcher._create_fetch_requests = create_requests


def _begin_session(consumer: KafkaConsumer) -> bool:
    """Let the next fetch name all partitions, whatever the broker remembers; False if one is under way.

    A fetch session (KIP-227) leaves out what has not changed. kafka-python (3.0.12) keeps its own list of what the
    broker knows, and after a pause and a resume this worker does not rely on it: what it left out would never be read.
    """
    fetcher = consumer._fetcher  # nothing public shows it
    if fetcher._nodes_with_pending_fetch_requests:
        return False
    for session in fetcher._session_handlers.values():
        session.next_metadata = session.next_metadata.next_close_existing()
    return True


def _finish_join(consumer: KafkaConsumer) -> None:
    """Mend a join that kafka-python (3.0.12) would leave half done for ever.

    When new metadata has started it and the poll's time ran out meanwhile, the finished join is never looked at again:
    the consumer has left its heartbeat off and believes that it need not rejoin.
    """
    coordinator = consumer._coordinator  # nothing public shows it
    if coordinator.rejoining and not coordinator.need_rejoin():
        coordinator.request_rejoin()


def _back_to_commit(consumer: KafkaConsumer, partition: TopicPartition) -> None:
    committed = consumer.committed(partition, timeout_ms=COMMITTED_MS)
    if committed is None:
        consumer.seek_to_beginning(partition)
    else:
        consumer.seek(partition, committed)
