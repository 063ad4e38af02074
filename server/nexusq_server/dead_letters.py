"""Puts records that are no tasks on the dead-letter topic, with the reason. Called by the worker's loop."""

from __future__ import annotations

import base64
import logging

import msgspec
from kafka import KafkaProducer
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import KafkaError

from nexusq_sdk.protocol.wire import DeadLetter
from nexusq_server.settings import Settings
from nexusq_server.topics import DEAD_LETTERS, connect_producer

log = logging.getLogger(__name__)

#: How much of a record is kept: in base64 it must stay below Kafka's default limit of 1 MiB a record.
MAX_KEPT_BYTES = 600_000


class DeadLetters:
    """Keeps one producer, connected when the first dead letter comes."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._producer: KafkaProducer | None = None
        self.count = 0

    def put(self, record: ConsumerRecord, reason: str) -> bool:
        """Write one dead letter; False if Kafka did not take it, to be tried again."""
        value = record.value or b""
        if len(value) > MAX_KEPT_BYTES:
            reason += f" (the first {MAX_KEPT_BYTES} of its {len(value)} bytes are kept here)"
        letter = DeadLetter(
            reason=reason,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            record=base64.b64encode(value[:MAX_KEPT_BYTES]).decode(),
        )
        try:
            if self._producer is None:
                self._producer = connect_producer(self._settings)
            self._producer.send(DEAD_LETTERS, msgspec.json.encode(letter)).get(
                timeout=self._settings.submit_timeout.total_seconds()
            )
        except KafkaError as error:
            log.warning("a dead letter could not be written, it is tried again: %s", error)
            return False
        self.count += 1
        log.warning(
            "%s, partition %d, offset %d is no task and was put on %s: %s",
            record.topic,
            record.partition,
            record.offset,
            DEAD_LETTERS,
            reason,
        )
        return True

    def close(self) -> None:
        """Close the producer."""
        if self._producer is not None:
            self._producer.close(timeout=5)
