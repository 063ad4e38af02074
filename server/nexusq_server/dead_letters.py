"""Writes dead letters: tasks that failed for good, and records that are no tasks. Each to its Kafka topic.

Called by the settler (tasks) and by the worker's loop (records). A letter is there before what it is about is settled.
"""

from __future__ import annotations

import base64
import logging
import threading
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec
from kafka import KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from nexusq_sdk.protocol.wire import DeadLetter
from nexusq_server.settings import Settings
from nexusq_server.topics import DEAD_LETTERS, connect_producer

log = logging.getLogger(__name__)

#: How much of a record is kept: in base64 it must stay below Kafka's default limit of 1 MiB a record.
MAX_KEPT_BYTES = 600_000


class DeadLetters:
    """Keeps one producer, connected when the first dead letter comes. `count` is of records that were no tasks."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._producer: KafkaProducer | None = None
        self.count = 0

    def put(self, letters: Sequence[bytes]) -> bool:
        """Write dead letters; False if Kafka did not take them all, to be tried again."""
        producer = None
        try:
            with self._lock:
                if self._producer is None:
                    self._producer = connect_producer(self._settings)
                producer = self._producer
            sent = [producer.send(DEAD_LETTERS, letter) for letter in letters]
            for future in sent:
                future.get(timeout=self._settings.submit_timeout.total_seconds())
        except KafkaError as error:
            log.warning("%d dead letters could not be written, they are tried again: %s", len(letters), error)
            if producer is not None:
                # A producer that has lost a batch may be unable to number the next one: a new one starts clean.
                with self._lock:
                    if self._producer is producer:
                        self._producer = None
                producer.close(timeout=0)
            return False
        return True

    def put_record(self, partition: TopicPartition, offset: int, value: bytes, reason: str) -> bytes | None:
        """Write the letter of a record that is no task and give it; None if Kafka did not take it."""
        if len(value) > MAX_KEPT_BYTES:
            reason += f" (the first {MAX_KEPT_BYTES} of its {len(value)} bytes are kept here)"
        letter = msgspec.json.encode(
            DeadLetter(
                reason=reason,
                at=datetime.now(UTC),
                topic=partition.topic,
                partition=partition.partition,
                offset=offset,
                record=base64.b64encode(value[:MAX_KEPT_BYTES]).decode(),
            )
        )
        if not self.put([letter]):
            return None
        self.count += 1
        log.warning(
            "%s, partition %d, offset %d is no task and was put on %s: %s",
            partition.topic,
            partition.partition,
            offset,
            DEAD_LETTERS,
            reason,
        )
        return letter

    def close(self) -> None:
        """Close the producer."""
        if self._producer is not None:
            self._producer.close(timeout=5)
