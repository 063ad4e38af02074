"""Every key that NexusQ writes to Redis, and the fields behind it. The Lua scripts use the same names.

Redis Cluster: one call changes many tasks and their batch's counters at once, which a cluster allows only for
keys of one slot. NexusQ therefore asks for one primary (with replicas or Sentinel as one likes) and uses no
hash tags; beyond one primary's memory, run a NexusQ for each team. A whole cluster's use is thus decided against.
"""

from __future__ import annotations

TASK = "nexusq:task:"
"""HASH of one task, readable by ``HGETALL``: status, taskType, payload, result, error, attempt, deliveries, worker,
queue (unless default), ttl (seconds the state is kept once ended), submittedUs, startedUs, finishedUs."""

BATCH = "nexusq:batch:"
"""HASH of one batch: taskType, queue, size, closed, submittedUs, startedUs, lastUs (of the latest outcome so far),
finishedUs (once closed and all ended), ttl, and a count a status."""

WORKER = "nexusq:worker:"
"""HASH of one worker; it expires unless the worker renews it: while it is there, the worker lives (its lease)."""

GONE = "nexusq:gone:"
"""STRING that outlives a single task's state, so that expired (410) never looks like unknown (404)."""

WORKERS = "nexusq:workers"
"""ZSET worker id → when its lease was last renewed, Unix seconds."""

TYPES = "nexusq:types"
"""HASH task type → JSON of `wire.TaskType`: every type that a worker has offered."""

RECENT = "nexusq:recent"
"""ZSET id of a single task or of a batch → submittedUs: what ``GET /tasks`` walks, newest first."""

DURABLE = "nexusq:durable"
"""STRING that workers write to learn what is on Redis's disk (`WAITAOF` waits for a write of one's own)."""


def task_key(task_id: str) -> str:
    """Name the hash of a task."""
    return TASK + task_id


def batch_key(batch_id: str) -> str:
    """Name the hash of a batch."""
    return BATCH + batch_id


def worker_key(worker_id: str) -> str:
    """Name the lease of a worker."""
    return WORKER + worker_id
