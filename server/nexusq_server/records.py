"""Takes what Kafka sent apart into records. Called by the consumer, in the worker's loop.

kafka-python (3.0.12) makes two objects of thirteen and of seven fields for each record, by a call for each of its
numbers: a third of what a task that does nothing costs its worker. Of a record, NexusQ asks for three fields.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kafka import KafkaConsumer
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError
from kafka.record import MemoryRecords
from kafka.record.default_records import DefaultRecordBatch
from kafka.record.util import decode_varint

#: A record: its offset, its timestamp in ms, its value. A tuple, since a million of them are made a minute.
Raw = tuple[int, int, bytes | None]


def read_records(batch: Any) -> Iterator[Raw] | list[Raw]:
    """Give the records of a batch of any format, in their order.

    Raises
    ------
    kafka.errors.CorruptRecordError
        If it does not have the shape that it says it has.
    """
    if batch.magic < 2 or batch.compression_type:
        # The oldest format has no timestamps.
        return ((record.offset, record.timestamp or 0, record.value) for record in batch)
    # The format: https://kafka.apache.org/documentation/#record
    buffer = bytes(batch._buffer)  # nothing public gives it; a bytearray would be copied twice for each value
    base, first = batch.base_offset, batch.first_timestamp
    appended = batch.max_timestamp if batch.timestamp_type == batch.LOG_APPEND_TIME else None
    records: list[Raw] = []
    position = DefaultRecordBatch.HEADER_STRUCT.size
    try:
        for _ in range(batch.records_count):
            size, position = _number(buffer, position)
            end = position + size
            position += 1  # the attributes, of which there are none
            delta = buffer[position]
            if delta < 0x80:
                delta, position = (delta >> 1) ^ -(delta & 1), position + 1
            else:
                delta, position = _number(buffer, position)
            offset, position = _number(buffer, position)
            key = buffer[position]
            if key == 1:  # -1: none, as in all of ours
                position += 1
            else:
                key, position = _number(buffer, position)
                position += max(0, key)
            length, position = _number(buffer, position)
            # Headers follow, which nobody reads: a byte at the least, that there are none.
            if position + max(0, length) >= end:
                raise CorruptRecordError(f"a record of {size} bytes has a value of {length}")
            value = None if length < 0 else buffer[position : position + length]
            records.append((base + offset, first + delta if appended is None else appended, value))
            position = end
    except (IndexError, ValueError) as error:
        raise CorruptRecordError(f"a batch of {len(buffer)} bytes breaks off: {error!r}") from error
    if position != len(buffer):
        raise CorruptRecordError(f"a batch of {len(buffer)} bytes has {position} bytes of records")
    return records


def _number(buffer: bytes, position: int) -> tuple[int, int]:
    """Read a number (zigzag varint) and give it with the position behind it; most have one or two bytes."""
    low = buffer[position]
    if low < 0x80:
        return (low >> 1) ^ -(low & 1), position + 1
    high = buffer[position + 1]
    if high < 0x80:
        low = low & 0x7F | high << 7
        return (low >> 1) ^ -(low & 1), position + 2
    number, position = decode_varint(buffer, position)
    return number, position


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
