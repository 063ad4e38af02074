"""Takes what Kafka sent apart into records. Called by the consumer, in the worker's loop.

kafka-python (3.0.12) makes two objects for each record, by a call for each of its numbers: a third of what a task that
does nothing costs its worker. aiokafka reads the same bytes in C, in a tenth of the time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatch
from kafka import KafkaConsumer
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError
from kafka.record import MemoryRecords

#: A record: its offset, its timestamp in ms, its value. A tuple, since a million of them are made a minute.
Raw = tuple[int, int, bytes | None]


def read_records(batch: Any) -> list[Raw]:
    """Give the records of a batch of any format, in their order.

    Raises
    ------
    kafka.errors.CorruptRecordError
        If it does not have the shape that it says it has.
    """
    if batch.magic < 2 or batch.compression_type:
        # The oldest format has no timestamps.
        return [(record.offset, record.timestamp or 0, record.value) for record in batch]
    try:
        buffer = bytes(batch._buffer)  # nothing public gives it
        return [(record.offset, record.timestamp, record.value) for record in DefaultRecordBatch(buffer)]
    except CorruptRecordException as error:
        raise CorruptRecordError(f"a batch of {len(batch._buffer)} bytes: {error}") from error


class RawRecords(Fetcher.PartitionRecords):  # type: ignore[misc]
    """What one fetch gave of a partition. The consumer hands out `Raw` in place of its own records."""

    def _unpack_records(self, tp: Any, records: MemoryRecords, *_deserializers: Any) -> Iterator[Raw]:
        while (batch := records.next_batch()) is not None:
            if not batch.validate_crc():
                raise CorruptRecordError(f"a batch of {tp} at offset {batch.base_offset} has a wrong checksum")
            self.bytes_read += batch.size_in_bytes
            if batch.magic >= 2:
                self.leader_epoch = batch.leader_epoch
                if batch.is_control_batch:  # the end of a transaction: of no interest
                    self.next_fetch_offset = batch.next_offset
                    continue
            for raw in read_records(batch):
                self.next_fetch_offset = raw[0] + 1
                yield raw
            if batch.magic >= 2:
                # Beyond its last record, where that was compacted away.
                self.next_fetch_offset = batch.next_offset
        self.drain()

    def _maybe_skip_record(self, record: Raw) -> bool:
        return bool(record[0] < self.fetch_offset)


def read_raw(consumer: KafkaConsumer) -> None:
    """Let a consumer's `poll` give `Raw` for each partition."""
    consumer._fetcher.PartitionRecords = RawRecords  # nothing public takes it; pinned by the lock, held by tests
