"""Records are read as Kafka's client reads them, and what is broken is noticed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka import TopicPartition
from kafka.errors import CorruptRecordError
from kafka.record import MemoryRecords
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from kafka.record.legacy_records import LegacyRecordBatchBuilder
from kafka.record.util import calc_crc32c

from nexusq_server.records import Raw, RawRecords, read_records

PARTITION = TopicPartition("task-queue", 0)
GZIP = 1
Row = tuple[int, bytes | None, bytes | None, list[tuple[str, bytes | None]], int]
blobs = st.none() | st.binary(max_size=300)
headers = st.lists(st.tuples(st.text(max_size=9), blobs), max_size=3)
#: Timestamp, key, value, headers; the offset's distance to the one before, since compaction leaves holes.
rows = st.lists(st.tuples(st.integers(0, 2**42), blobs, blobs, headers, st.integers(1, 300)), min_size=1, max_size=20)


def built(records: list[Row], how: int, appended_at: int | None = None) -> bytes:
    """Write a batch by Kafka's client; with `appended_at` as a topic keeps it that has the broker's time."""
    builder = DefaultRecordBatchBuilder(2, how, 0, -1, -1, -1, 2**30)
    offset = -1
    for timestamp, key, value, told, step in records:
        offset += step
        builder.append(offset, timestamp, key, value, told)
    batch = bytearray(builder.build())
    if appended_at is not None:
        batch[22] |= DefaultRecordBatch.TIMESTAMP_TYPE_MASK
        batch[35:43] = appended_at.to_bytes(8, "big")  # the latest timestamp
        checksum(batch)
    return bytes(batch)


def checksum(batch: bytearray) -> None:
    """Write what the batch's checksum is now."""
    batch[17:21] = calc_crc32c(memoryview(batch)[DefaultRecordBatch.ATTRIBUTES_OFFSET :]).to_bytes(4, "big")


def fetched(*batches: bytes, since: int = 0) -> RawRecords:
    """Give what a fetch from an offset on has brought."""
    return RawRecords(since, PARTITION, MemoryRecords(b"".join(batches)))


def as_kafka_reads(batch: bytes) -> list[Raw]:
    return [(record.offset, record.timestamp, record.value) for record in DefaultRecordBatch(batch)]


@given(rows, st.sampled_from([0, GZIP]), st.none() | st.integers(0, 2**42))
def test_records_are_those_that_kafkas_client_reads(records: list[Row], how: int, appended_at: int | None) -> None:
    # given a batch with keys, headers, values that are null and offsets that are missing
    batch = built(records, how, appended_at)

    # then it is read as Kafka's own client reads it
    assert as_kafka_reads(batch) == list(read_records(DefaultRecordBatch(batch)))
    assert as_kafka_reads(batch) == fetched(batch).take(100)


@given(rows, st.data())
def test_a_batch_that_is_damaged_is_no_record(records: list[Row], data: st.DataObject) -> None:
    # given a batch of which one byte behind its checksum has changed
    batch = bytearray(built(records, 0))
    at = data.draw(st.integers(DefaultRecordBatch.ATTRIBUTES_OFFSET, len(batch) - 1))
    batch[at] ^= data.draw(st.integers(1, 255))

    # then it is refused, as by Kafka's client
    with pytest.raises(CorruptRecordError, match="checksum"):
        fetched(bytes(batch)).take(100)


@given(rows, st.integers(0, 10_000))
def test_records_that_break_off_are_refused(records: list[Row], cut: int) -> None:
    # given a batch that says it is whole, and is not
    batch = built(records, 0)
    cut = cut % (len(batch) - DefaultRecordBatch.HEADER_STRUCT.size) + 1

    # then it is not read as something else
    with pytest.raises(CorruptRecordError):
        list(read_records(DefaultRecordBatch(batch[:-cut])))


@given(rows, st.binary(min_size=1, max_size=9))
def test_bytes_after_the_last_record_are_refused(records: list[Row], more: bytes) -> None:
    with pytest.raises(CorruptRecordError, match="after all records"):
        list(read_records(DefaultRecordBatch(built(records, 0) + more)))


def test_reading_goes_on_where_it_stopped_and_behind_what_was_compacted_away() -> None:
    # given two batches, of which the first has lost its last record (offset 9) to compaction
    first = bytearray(built([(1, None, b"a", [], 1), (1, None, b"b", [], 1)], 0))
    first[23:27] = (9).to_bytes(4, "big")  # the last offset's distance is kept when its record goes
    checksum(first)
    assert 9 == DefaultRecordBatch(first).last_offset
    second = bytearray(built([(2, None, b"d", [], 1)], 0))
    second[0:8] = (10).to_bytes(8, "big")

    # when records are taken one by one, from the second on
    records = fetched(bytes(first), bytes(second), since=1)
    one = records.take(1)
    after_one = records.next_fetch_offset
    two = records.take(1)

    # then none comes twice and none is left out; the next fetch begins behind the last
    assert [(1, 1, b"b")] == one
    assert 2 == after_one
    assert [(10, 2, b"d")] == two
    assert [] == records.take(1)
    assert 11 == records.next_fetch_offset
    assert not records


@pytest.mark.parametrize("magic", [0, 1])
def test_batches_of_old_formats_are_read_too(magic: int) -> None:
    # given a batch as clients before Kafka 0.11 wrote it
    builder = LegacyRecordBatchBuilder(magic, 0, 10_000)
    builder.append(0, 7, None, b"a")
    builder.append(1, 8, b"k", b"b")
    batch = bytes(builder.build())

    # then its records are read as by Kafka's client
    wanted = [(record.offset, record.timestamp or 0, record.value) for part in MemoryRecords(batch) for record in part]
    assert [b"a", b"b"] == [value for _, _, value in wanted]
    assert wanted == fetched(batch).take(10)
