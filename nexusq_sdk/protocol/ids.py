"""Task and batch ids.

An id is a UUIDv7 (RFC 9562, section 5.7): it sorts by the time at which it was made. The tasks of a batch are
``<batch id>-<index>``, so that no list of members has to be kept, and a chunk that is posted twice
carries the same ids.
"""

from __future__ import annotations

import functools
import os
import re
import time
import uuid

from nexusq_sdk.protocol.words import BATCH_NAME

_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_ID = re.compile(_UUID)
_INDEX_DIGITS = 10
_TASK_ID = re.compile(rf"({_UUID})(?:-(0|[1-9][0-9]{{0,{_INDEX_DIGITS - 1}}}))?")


def new_id() -> str:
    """Make a UUIDv7: 48 bits of Unix milliseconds, then 74 random bits."""
    random = int.from_bytes(os.urandom(10))
    value = (time.time_ns() // 1_000_000 & (1 << 48) - 1) << 80
    value |= 0x7 << 76 | (random >> 68 & 0xFFF) << 64 | 0b10 << 62 | random & (1 << 62) - 1
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


#: The namespace of ids that are made from idempotency keys (RFC 9562, section 5.5).
_KEYS = uuid.UUID("6f3c1a52-8f0e-5c6e-9a57-2f6e3d1b7c44")


def id_from_key(key: str) -> str:
    """Make the UUIDv5 that an idempotency key stands for: the same key gives the same task or batch."""
    return str(uuid.uuid5(_KEYS, key))


#: The namespace of the ids of named batches.
_NAMES = uuid.UUID("3e0d3c8a-5b1f-5c57-9a3e-6f0c2d9b8e41")


def named_id(name: str, digest: str) -> str:
    """Make the UUIDv5 of a named batch: two who submit the same inputs under the same name submit one batch."""
    return str(uuid.uuid5(_NAMES, f"{digest}:{name}"))


#: The namespace of the ids of scheduled tasks.
_TICKS = uuid.UUID("b0a6f0c9-4d0e-5f39-8f0b-3f5d8a1c27e6")


def scheduled_id(schedule: str, tick: int) -> str:
    """Make the UUIDv5 of a schedule's task for one tick (Unix seconds): whoever submits it submits the same task."""
    return str(uuid.uuid5(_TICKS, f"{tick}:{schedule}"))


@functools.lru_cache(1000)
def _is_batch_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def is_id(text: str) -> bool:
    """Whether `text` is the id of a batch or of a single task: a UUID in lower case."""
    return _ID.fullmatch(text) is not None


def is_batch_name(text: str) -> bool:
    """Whether `text` may name a batch: a name that is no id, whatever its case.

    Examples
    --------
    >>> is_batch_name("exp-7"), is_batch_name("01A20E45-5716-74DF-A356-688BECB510F5"), is_batch_name("a/b")
    (True, False, False)
    """
    return BATCH_NAME.fullmatch(text) is not None and _TASK_ID.fullmatch(text.lower()) is None


def is_task_id(text: str) -> bool:
    """Whether `text` is a task's id: a UUID, or in a batch ``<UUID>-<index>``."""
    # A worker reads thousands of one batch in a row: its id is looked at once.
    index = text[37:]
    if index.isdecimal() and index.isascii() and text[36] == "-":
        return (index[0] != "0" or index == "0") and len(index) <= _INDEX_DIGITS and _is_batch_id(text[:36])
    return _TASK_ID.fullmatch(text) is not None


def task_id(batch_id: str, index: int) -> str:
    """Name the task that is row `index` (from 0) of a batch."""
    return f"{batch_id}-{index}"


def split_task_id(task_id: str) -> tuple[str, int] | None:
    """Give ``(batch id, index)`` of a batch's task, or None for a task that stands alone.

    Raises
    ------
    ValueError
        If `task_id` is not a task's id.
    """
    match = _TASK_ID.fullmatch(task_id)
    if match is None:
        raise ValueError(f"expected a task id, <uuid> or <uuid>-<index>, got {task_id!r}")
    batch_id, index = match.groups()
    return None if index is None else (batch_id, int(index))
