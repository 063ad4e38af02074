"""How tasks are posted: one, or a batch in chunks while its rows are read. Their ids are made here, before that."""

from __future__ import annotations

import concurrent.futures
import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec

from nexusq_sdk.connection import Connection
from nexusq_sdk.errors import ConnectionFailed, NexusQError, ServerUnavailable
from nexusq_sdk.protocol import ids
from nexusq_sdk.protocol.wire import BatchView, ChunkAccepted, Options, TaskView
from nexusq_sdk.protocol.words import DEFAULT_QUEUE, TASK_TYPE, Status

#: A chunk is full at either: large enough to be cheap, small enough for two of them to be in memory.
CHUNK_TASKS, CHUNK_BYTES = 5_000, 4_000_000
_encode = msgspec.json.Encoder().encode


def send_task(connection: Connection, task_type: str, payload: bytes, said: Options) -> TaskView:
    """Post one task; give what is known of it."""
    task_id = ids.new_id() if said.idempotency_key is None else ids.id_from_key(said.idempotency_key)
    head = b'{"taskType":%b,"taskId":"%b"%b,"payload":' % (type_field(task_type), task_id.encode(), options_field(said))
    answer = connection.submit_task(head + payload + b"}")
    return TaskView(task_id=task_id, task_type=task_type, status=answer.status)


def send_batch(
    connection: Connection, task_type: str, payloads: Iterator[bytes], said: Options, batch_id: str | None = None
) -> BatchView:
    """Post a batch, chunk by chunk while its payloads are made; give what is known of it."""
    if batch_id is None:
        batch_id = ids.new_id() if said.idempotency_key is None else ids.id_from_key(said.idempotency_key)
    size = _send_chunks(connection, batch_id, batch_head(task_type, batch_id, said), payloads)
    return BatchView(
        batch_id=batch_id,
        task_type=task_type,
        queue=said.queue or DEFAULT_QUEUE,
        size=size,
        closed=True,
        counts={status.value: size if status is Status.QUEUED else 0 for status in Status},
        rate_per_second=0.0,
        submitted_at=datetime.now(UTC),
    )


def batch_head(task_type: str, batch_id: str, said: Options) -> bytes:
    """Give what all chunks of a batch begin with."""
    return b'{"taskType":%b,"batchId":"%b"%b' % (type_field(task_type), batch_id.encode(), options_field(said))


def chunk_body(head: bytes, first: int, payloads: list[bytes], last: bool) -> bytes:
    """Give the body of a chunk."""
    flags = b',"firstIndex":%d,"last":%b' % (first, b"true" if last else b"false")
    return head + flags + b',"payloads":[' + b",".join(payloads) + b"]}"


def type_field(task_type: Any) -> bytes:
    """Give a task type as JSON. Raises ValueError for what can't be one."""
    if not isinstance(task_type, str) or TASK_TYPE.fullmatch(task_type) is None:
        raise ValueError(f"expected the task type to be a name such as 'EMAIL_SEND', got {task_type!r}")
    return _encode(task_type)


def options_field(options: Options) -> bytes:
    """Give options as a field of a body; nothing where they say nothing."""
    encoded = _encode(Options(**msgspec.structs.asdict(options)))
    return b"" if encoded == b"{}" else b',"options":' + encoded


def _send_chunks(connection: Connection, batch_id: str, head: bytes, payloads: Iterator[bytes]) -> int:
    """Send all rows; give how many. Where that breaks off, close the batch with what was accepted, and say so."""
    accepted = 0
    on_its_way: concurrent.futures.Future[ChunkAccepted] | None = None
    # While one chunk is on its way the next one is made; a third would only wait.
    with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="nexusq-submit") as sender:
        try:
            for first, chunk, last in _chunks(payloads):
                body = chunk_body(head, first, chunk, last)
                if on_its_way is not None:
                    accepted += on_its_way.result().accepted
                on_its_way = sender.submit(connection.submit_chunk, body)
            assert on_its_way is not None  # even an empty batch has a chunk
            return accepted + on_its_way.result().accepted
        except BaseException as error:
            if on_its_way is not None and on_its_way.exception() is None:
                accepted = on_its_way.result().first_index + on_its_way.result().accepted
            if accepted:
                # A batch that is never closed would be waited for in vain.
                if not isinstance(error, ConnectionFailed | ServerUnavailable):
                    with contextlib.suppress(NexusQError):
                        connection.submit_chunk(chunk_body(head, accepted, [], True))
                error.add_note(
                    f"The {accepted} rows before were accepted as batch {batch_id} and run: client.batch({batch_id!r})"
                )
            raise


def _chunks(payloads: Iterator[bytes]) -> Iterator[tuple[int, list[bytes], bool]]:
    """Give ``(first row, payloads, whether these are the last)``; at least one, be it empty."""
    first, size = 0, 0
    chunk: list[bytes] = []
    for payload in payloads:
        if chunk and (len(chunk) >= CHUNK_TASKS or size + len(payload) > CHUNK_BYTES):
            yield first, chunk, False
            first, size, chunk = first + len(chunk), 0, []
        chunk.append(payload)
        size += len(payload)
    yield first, chunk, True
