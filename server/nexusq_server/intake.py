"""Takes records from Kafka for one worker and commits offsets. Called by the worker's loop alone.

Never waits for a handler.
A consumer for each queue, since each queue has a consumer group of its own. The rebalance listener runs in the
client's own thread and only touches `Offsets`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from kafka import ConsumerRebalanceListener, KafkaConsumer, OffsetAndMetadata, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import KafkaError

from nexusq_sdk.protocol.wire import Options
from nexusq_server.dead_letters import DeadLetters
from nexusq_server.offsets import Offsets, Place
from nexusq_server.settings import Settings
from nexusq_server.store import NewTask
from nexusq_server.topics import START_TIMEOUT, RecordError, decode_record, group, topic
from nexusq_server.work import Received

log = logging.getLogger(__name__)

#: Kafka's brokers take no shorter session by default (group.min.session.timeout.ms).
SHORTEST_SESSION_MS = 6000
MAX_POLL_RECORDS = 2000
_NO_OPTIONS = Options()


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, forget: Callable[[list[TopicPartition]], None]) -> None:
        self._forget = forget

    def on_partitions_revoked(self, revoked: list[TopicPartition]) -> None:
        # Tasks of these partitions that run go on: their new owner sees this worker's lease and waits.
        self._forget(revoked)

    def on_partitions_assigned(self, assigned: list[TopicPartition]) -> None:
        self._forget(assigned)

    def on_partitions_lost(self, lost: list[TopicPartition]) -> None:
        self._forget(lost)


class Intake:
    """The consumers of a worker's queues."""

    def __init__(self, settings: Settings, offsets: Offsets[TopicPartition]) -> None:
        self._offsets = offsets
        self._dead_letters = DeadLetters(settings)
        self._refused: list[tuple[ConsumerRecord, Place[TopicPartition], str]] = []  # waiting to become dead letters
        self._committed: dict[TopicPartition, int] = {}
        self._holding = False
        session = max(SHORTEST_SESSION_MS, int(settings.lease.total_seconds() * 1000))
        self._consumers: dict[str, KafkaConsumer] = {}
        for queue in settings.queues:
            consumer = KafkaConsumer(
                bootstrap_servers=list(settings.kafka),
                group_id=group(queue),
                enable_auto_commit=False,
                # Records that are older than the group are tasks all the same: nothing is skipped.
                auto_offset_reset="earliest",
                allow_auto_create_topics=False,
                partition_assignment_strategy=(CooperativeStickyAssignor,),
                session_timeout_ms=session,
                heartbeat_interval_ms=session // 3,
                request_timeout_ms=max(30_000, session + 5_000),
                fetch_max_bytes=16 * 1024 * 1024,
                max_poll_records=MAX_POLL_RECORDS,
                reconnect_backoff_max_ms=1000,
                bootstrap_timeout_ms=int(START_TIMEOUT.total_seconds() * 1000),
                metrics_enabled=False,
            )
            consumer.subscribe([topic(queue)], listener=_Listener(offsets.lost))
            self._consumers[queue] = consumer

    @property
    def rejected(self) -> int:
        """How many records were no tasks and went to the dead letters."""
        return self._dead_letters.count

    def poll(self, seconds: float) -> list[Received]:
        """Give the tasks that have come, waiting at most so long for the first of them."""
        received: list[Received] = []
        wait_ms = int(seconds * 1000 / len(self._consumers))
        for queue, consumer in self._consumers.items():
            for partition, records in consumer.poll(timeout_ms=wait_ms).items():
                self._take(queue, partition, records, received)
        self._bury()
        return received

    def hold(self, full: bool) -> None:
        """Stop fetching while the worker has enough in hand; go on when it has not. Membership is kept meanwhile."""
        if full:
            # Each time, not only at first: partitions that were assigned meanwhile come unpaused.
            for consumer in self._consumers.values():
                consumer.pause(*consumer.assignment())
        elif self._holding:
            for consumer in self._consumers.values():
                consumer.resume(*consumer.paused())
        self._holding = full

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

    def close(self) -> None:
        """Leave the groups, so that the partitions go to other workers at once."""
        for consumer in self._consumers.values():
            consumer.close(autocommit=False, timeout_ms=5000)
        self._dead_letters.close()

    def _commit_ended(self, offsets: dict[TopicPartition, OffsetAndMetadata], answer: object) -> None:
        if isinstance(answer, Exception):
            log.warning("offsets were not committed; they are again with the next: %s", answer)
            for partition in offsets:
                self._committed.pop(partition, None)

    def _take(
        self, queue: str, partition: TopicPartition, records: list[ConsumerRecord], received: list[Received]
    ) -> None:
        places = self._offsets.received(partition, [record.offset for record in records])
        for raw, place in zip(records, places, strict=True):
            try:
                record = decode_record(raw.value)
            except RecordError as error:
                self._refused.append((raw, place, str(error)))
                continue
            options = record.options or _NO_OPTIONS
            task = NewTask(
                record.task_id,
                record.task_type,
                bytes(record.payload),
                queue,
                options.result_ttl_seconds,
                raw.timestamp * 1000,
            )
            received.append(Received(record.attempt, task, place, len(raw.value)))

    def _bury(self) -> None:
        while self._refused:
            record, place, reason = self._refused[0]
            if not self._dead_letters.put(record, reason):
                return
            self._offsets.settled([place])
            self._refused.pop(0)
