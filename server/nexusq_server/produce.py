"""Kafka's produce request, written in one go, and its answer, read in one go. Called by `outlet`.

The layout is version 7 of https://kafka.apache.org/protocol#The_Messages_Produce, which brokers know from 2.1 on.
aiokafka's own classes go through a schema, field by field: with a batch for each of eight partitions that is more than
all the rest of sending a round of single `POST`s.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from io import BytesIO

from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Schema

#: No transaction; acknowledged by every in-sync replica; how long a broker waits for those, in ms; how many topics.
_HEAD = struct.Struct(">hhii")
_COUNT = struct.Struct(">i")
_LENGTH = struct.Struct(">h")
#: A partition's number, and the length of its batch.
_PARTITION = struct.Struct(">ii")
#: A partition's number, its error, then the first record's offset, its time, and the offset of the log's start.
_OUTCOME = struct.Struct(">ihqqq")
NO_TRANSACTION, ACKS_ALL = -1, -1

#: By topic, batches with the number of their partition.
Batches = Mapping[str, Sequence[tuple[int, bytes | bytearray]]]


class ProduceAnswer(Response):  # type: ignore[misc]
    """What became of the batches: topic, partition and error code of each."""

    API_KEY, API_VERSION, SCHEMA = 0, 7, Schema()

    def __init__(self, outcomes: list[tuple[str, int, int]]) -> None:
        self.outcomes = outcomes

    @classmethod
    def decode(cls, data: BytesIO | bytes) -> ProduceAnswer:
        """Read it: the client calls this with all that follows the header."""
        rest = data if isinstance(data, bytes) else data.read()
        outcomes: list[tuple[str, int, int]] = []
        (topics,) = _COUNT.unpack_from(rest)
        at = _COUNT.size
        for _ in range(topics):
            (length,) = _LENGTH.unpack_from(rest, at)
            at += _LENGTH.size
            topic = rest[at : at + length].decode()
            at += length
            (partitions,) = _COUNT.unpack_from(rest, at)
            at += _COUNT.size
            end = at + partitions * _OUTCOME.size
            outcomes += [(topic, partition, code) for partition, code, *_ in _OUTCOME.iter_unpack(rest[at:end])]
            at = end
        return cls(outcomes)


class _Produce(RequestStruct):  # type: ignore[misc]
    API_KEY, API_VERSION, RESPONSE_TYPE, SCHEMA = 0, 7, ProduceAnswer, Schema()

    def __init__(self, batches: Batches, wait_ms: int) -> None:
        self._batches = batches
        self._wait_ms = wait_ms

    def encode(self) -> bytes:
        parts: list[bytes | bytearray] = [_HEAD.pack(NO_TRANSACTION, ACKS_ALL, self._wait_ms, len(self._batches))]
        for topic, batches in self._batches.items():
            name = topic.encode()
            parts += (_LENGTH.pack(len(name)), name, _COUNT.pack(len(batches)))
            for partition, batch in batches:
                parts += (_PARTITION.pack(partition, len(batch)), batch)
        return b"".join(parts)


class Produce(Request[_Produce]):  # type: ignore[misc]
    """Batches for partitions that one broker leads, at most one for each, to be given to the client's `send`.

    Its answer is a `ProduceAnswer`.
    """

    API_KEY = 0

    def __init__(self, batches: Batches, wait_ms: int) -> None:
        self._batches = batches
        self._wait_ms = wait_ms

    def build(self, request_struct_class: type[_Produce]) -> _Produce:
        """Give what is sent."""
        return request_struct_class(self._batches, self._wait_ms)
