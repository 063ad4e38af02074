"""The words of NexusQ as types. See ``docs/design.md`` for what each one means."""

from __future__ import annotations

import re
from enum import StrEnum


class Status(StrEnum):
    """Where a task stands. The last three are terminal: written once, never left.

    ``SCHEDULED → QUEUED → IN_PROGRESS → COMPLETED | FAILED | CANCELLED``
    """

    SCHEDULED = "SCHEDULED"
    QUEUED = "QUEUED"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def terminal(self) -> bool:
        """Whether the task has ended: it will never change its status again."""
        return self in TERMINAL


class Priority(StrEnum):
    """Which of a queue's three topics a task waits in. Workers share their time out by `WEIGHTS`: none is starved."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class Missed(StrEnum):
    """What becomes of a schedule's ticks that nobody served: one submit for all of them, one each, or none."""

    ONCE = "once"
    ALL = "all"
    SKIP = "skip"


#: Of 21 tasks that are claimed while all three wait, so many are of each priority.
WEIGHTS = {Priority.HIGH: 16, Priority.NORMAL: 4, Priority.LOW: 1}

TERMINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})

DEFAULT_QUEUE = "default"
#: Task types, queues and schedules' names stand in topic names, URLs and shell commands: no blanks, no separators.
TASK_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9_.:-]{0,99}", re.ASCII)
QUEUE = re.compile(r"[a-z0-9][a-z0-9_-]{0,59}", re.ASCII)
SCHEDULE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}", re.ASCII)
BATCH_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}", re.ASCII)
#: They would be taken for the topics of dead letters and of priorities.
RESERVED_QUEUES = frozenset({"dead", "high", "low", "normal"})

#: The largest record that NexusQ puts on a topic; Kafka's own default limit is about the same.
MAX_TASK_BYTES = 900_000
#: The most tasks in one body of ``POST /batches``; a larger batch comes in several chunks.
MAX_CHUNK_TASKS = 10_000
