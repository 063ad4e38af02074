"""Our produce request and its answer are, byte by byte, what aiokafka's own schemas make of the same."""

from __future__ import annotations

from io import BytesIO

from aiokafka.protocol.produce import ProduceRequest, ProduceResponse_v7
from hypothesis import given
from hypothesis import strategies as st

from nexusq_server.produce import Produce, ProduceAnswer

PRODUCE, VERSIONS = 0, (0, 7)
partitions = st.integers(0, 2**31 - 1)
topics = st.text(st.characters(codec="ascii", min_codepoint=33), min_size=1, max_size=30)
offsets = st.integers(-1, 2**62)


@given(
    batches=st.dictionaries(topics, st.lists(st.tuples(partitions, st.binary(max_size=50)), max_size=4), max_size=3),
    wait_ms=st.integers(0, 2**31 - 1),
)
def test_a_request_is_written_as_kafka_has_it(batches: dict[str, list[tuple[int, bytes]]], wait_ms: int) -> None:
    expected = ProduceRequest(None, -1, wait_ms, list(batches.items())).prepare({PRODUCE: VERSIONS})
    ours = Produce(batches, wait_ms).prepare({PRODUCE: VERSIONS})

    assert ours.encode() == expected.encode()
    assert ours.build_request_header(7, "api").encode() == expected.build_request_header(7, "api").encode()


@given(
    outcomes=st.lists(
        st.tuples(topics, st.lists(st.tuples(partitions, st.integers(-1, 100), offsets, offsets, offsets), max_size=4)),
        max_size=3,
    ),
    throttle_ms=st.integers(0, 1000),
)
def test_an_answer_is_read_as_kafka_wrote_it(
    outcomes: list[tuple[str, list[tuple[int, int, int, int, int]]]], throttle_ms: int
) -> None:
    wire = ProduceResponse_v7(outcomes, throttle_ms).encode()
    buffer = BytesIO(b"head" + wire)
    buffer.seek(4)  # the client has read the header

    expected = [(topic, partition, code) for topic, rows in outcomes for partition, code, *_ in rows]
    assert ProduceAnswer.decode(buffer).outcomes == expected
    assert ProduceAnswer.decode(wire).outcomes == expected
