"""The names of Redis keys, written here and nowhere else; what their values hold.

One primary, no Redis Cluster: a script changes many tasks and their batch's counters at once, which a cluster
allows only for keys of one slot. Replicas (Sentinel) are fine. To go beyond one primary's memory, run a NexusQ for each
team. A whole cluster's use is thus decided against.
"""

from __future__ import annotations

TASK = "nexusq:task:"
"""HASH of one task, readable by ``HGETALL``: status, taskType, payload, result, error, attempt, worker, queue and
priority (unless usual), options (JSON, as on its record), ttl (seconds the state is kept once ended), submittedUs,
startedUs, finishedUs, dueUs (while SCHEDULED), progress, progressText and log (JSON: what its handler says of it),
history (JSON, the attempts that failed before), deliveries (claims without an end, once there was more than one),
record (the attempt that its newest Kafka record is for), spent (attempts that count no more since it was taken back
from the dead letters), cancel (asked for while IN_PROGRESS)."""

BATCH = "nexusq:batch:"
"""HASH of one batch: taskType, queue, size, closed, cancelled, submittedUs, startedUs, lastUs (of the latest outcome so
far), finishedUs (once closed and all ended), ttl, name, said (once one of its tasks has), and a count a status. Of what
has ended: ``ranUs:<edge>`` counts attempts that ran for at most so many µs (and longer than the edge below),
``error:<type>`` failed tasks by the type of their error, ``errorAt:<type>`` is one of them."""

SAID = "nexusq:said:"
"""ZSET of one batch: the twenty of its tasks whose handlers said something last (`current_task().progress`, `.log`)
→ when, Unix seconds. It goes a day after the last word."""

NAME = "nexusq:name:"
"""HASH of one batch's name: batchId, digest (of its inputs). It goes when the batch's hash does."""

WORKER = "nexusq:worker:"
"""HASH of one worker; it expires unless the worker's keeper renews it: while it is there, the worker lives (its lease).
Beside it ``…:running`` (SET of started tasks), ``…:parked`` (SET of tasks whose offsets are committed although they
still run) and ``…:cancel`` (SET of running tasks that are to be cancelled)."""

GONE = "nexusq:gone:"
"""STRING that outlives a single task's state, so that expired (410) never looks like unknown (404)."""

WORKERS = "nexusq:workers"
"""ZSET worker id → when its lease was last renewed, Unix seconds; dead ones are taken out once nothing of theirs
waits.
"""

TYPES = "nexusq:types"
"""HASH task type → JSON of `wire.TaskType`: every type that a worker has offered."""

RECENT = "nexusq:recent"
"""ZSET id of a single task or of a batch → submittedUs: what ``GET /tasks`` walks, newest first."""

DUE = "nexusq:due"
"""ZSET task id → when it is due, µs: SCHEDULED tasks. A scheduler that takes one out for producing moves it ahead a
little, so that another one takes over if it dies."""

DEAD = "nexusq:dead"
"""ZSET id → when it failed for good, µs: tasks, and records that were no tasks
(``record:<topic>:<partition>:<offset>``).
"""

DEAD_RECORD = "nexusq:dead-record:"
"""STRING: the JSON of the dead letter of a record that was no task."""

SCHEDULES = "nexusq:schedules"
"""HASH name → JSON of `wire.ScheduleView`, without what changes from tick to tick."""

SCHEDULE_DUE = "nexusq:schedule-due"
"""ZSET schedule's name → its next tick, Unix seconds. A paused one is not in it."""

SCHEDULE_LAST = "nexusq:schedule-last"
"""HASH schedule's name → ``<tick> <task id>`` of its latest submit."""

BLOB = "nexusq:blob:"
"""STRING: signed bytes under their SHA-256, a function or a large argument. It expires (NEXUSQ_BLOB_TTL) after its last
use."""

ROWS = "nexusq:rows"
"""LIST of the numbers 0 to 999 as text, then 000 to 999: with what stands before the last three digits of a row's
number it names the rows of a batch, for ``SORT_RO … GET``. Made by whoever reads first."""

DURABLE = "nexusq:durable"
"""STRING that workers write to learn what is on Redis's disk (`WAITAOF` waits for a write of one's own)."""


def task_key(task_id: str) -> str:
    """Name the hash of a task."""
    return TASK + task_id


def batch_key(batch_id: str) -> str:
    """Name the hash of a batch."""
    return BATCH + batch_id


def said_key(batch_id: str) -> str:
    """Name the set of a batch's tasks that have said something."""
    return SAID + batch_id


def name_key(name: str) -> str:
    """Name the hash of a batch's name."""
    return NAME + name


def worker_key(worker_id: str) -> str:
    """Name the lease of a worker."""
    return WORKER + worker_id


def blob_key(blob_id: str) -> str:
    """Name the string of a blob."""
    return BLOB + blob_id
