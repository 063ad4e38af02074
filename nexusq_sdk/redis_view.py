"""The same reads as `Connection`, straight from Redis: for those who may reach it and have many rows to read.

Reads only: what changes a task's state goes through the API or a worker. May be used from many threads.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, cast

import msgspec
import redis
from msgspec import UNSET, Raw

from nexusq_sdk.errors import ConnectionFailed, ResultExpired, UnknownTask, check_batch_id, check_task_id
from nexusq_sdk.protocol import ids, redis_layout
from nexusq_sdk.protocol.blobs import read_key
from nexusq_sdk.protocol.wire import COLUMNS, PAYLOAD_COLUMN, BatchView, FailedAttempt, TaskError, TaskPage, TaskView
from nexusq_sdk.protocol.words import DEFAULT_QUEUE, TERMINAL, Priority, Status

PAGE = 10_000  # tasks a pipeline
_JSON = frozenset({"result", "error", "payload"})
_NUMBERS = frozenset({"attempt", "submittedUs", "startedUs", "finishedUs"})
_decode = msgspec.json.Decoder().decode


class RedisView:
    """Tasks and batches as Redis has them: what `Task` and `Batch` take in place of an API.

    Parameters
    ----------
    source : str or redis.Redis
        Redis's URL, or a client that does not decode responses.
    signing_key : str, optional
        The key (hexadecimal) that opens the results of functions; otherwise ``NEXUSQ_SIGNING_KEY``.

    Examples
    --------
    >>> view = RedisView("redis://127.0.0.1:6379/0")
    >>> nexusq_sdk.Batch("01a20e45-5716-74df-a356-688becb510f5", view).frame()  # doctest: +SKIP
    """

    def __init__(self, source: str | redis.Redis, *, signing_key: str | None = None) -> None:
        text = signing_key or os.environ.get("NEXUSQ_SIGNING_KEY")
        self.signing_key = read_key(text.strip()) if text else None
        self._redis = redis.Redis.from_url(source) if isinstance(source, str) else source
        if self._redis.get_connection_kwargs().get("decode_responses"):
            raise ValueError("expected a Redis client that gives bytes, got one made with decode_responses=True")

    def task(self, task_id: str) -> TaskView:
        """Give all that is known of a task.

        Raises
        ------
        UnknownTask, ResultExpired
        """
        check_task_id(task_id)
        state = self._hash(redis_layout.task_key(task_id))
        split = ids.split_task_id(task_id)
        if not state:
            raise self._absent(task_id, split)
        error = state.get("error")
        return TaskView(
            task_id=task_id,
            task_type=state["taskType"].decode(),
            status=Status(state["status"].decode()),
            payload=Raw(state["payload"]) if "payload" in state else UNSET,
            result=Raw(state["result"]) if "result" in state else UNSET,
            error=None if error is None else msgspec.json.decode(error, type=TaskError),
            attempt=int(state.get("attempt", 0)),
            worker=state["worker"].decode() if "worker" in state else None,
            queue=state.get("queue", b"").decode() or DEFAULT_QUEUE,
            priority=Priority(state.get("priority", b"").decode() or Priority.NORMAL),
            batch_id=split[0] if split else None,
            history=msgspec.json.decode(state.get("history", b"[]"), type=list[FailedAttempt]),
            submitted_at=_time(state.get("submittedUs")),
            due_at=_time(state.get("dueUs")) if state["status"] == b"SCHEDULED" else None,
            started_at=_time(state.get("startedUs")),
            finished_at=_time(state.get("finishedUs")),
        )

    def batch(self, batch_id: str) -> BatchView:
        """Give a batch's counters.

        Raises
        ------
        UnknownTask
        """
        check_batch_id(batch_id)
        state = self._hash(redis_layout.batch_key(batch_id))
        if not state:
            raise UnknownTask(f"there is no batch {batch_id}: it never was, or was forgotten long after its end")
        counts = {status.value: int(state.get(status.value, 0)) for status in Status}
        started, finished = _time(state.get("startedUs")), _time(state.get("finishedUs"))
        seconds = ((finished or datetime.now(UTC)) - started).total_seconds() if started else 0.0
        return BatchView(
            batch_id=batch_id,
            task_type=state["taskType"].decode(),
            queue=state.get("queue", b"").decode() or DEFAULT_QUEUE,
            size=int(state.get("size", 0)),
            closed="closed" in state,
            counts=counts,
            rate_per_second=round(sum(counts[status] for status in TERMINAL) / seconds, 1) if seconds > 0 else 0.0,
            submitted_at=cast(datetime, _time(state["submittedUs"])),
            started_at=started,
            finished_at=finished,
        )

    def batch_tasks(self, batch_id: str, *, payload: bool = False) -> Iterator[TaskPage]:
        """Give a batch's tasks by columns, page after page."""
        names = (*COLUMNS[1:], PAYLOAD_COLUMN) if payload else COLUMNS[1:]
        size = self.batch(batch_id).size
        for start in range(0, size, PAGE):
            task_ids = [ids.task_id(batch_id, index) for index in range(start, min(size, start + PAGE))]
            pipeline = self._redis.pipeline(transaction=False)
            for task_id in task_ids:
                pipeline.hmget(redis_layout.task_key(task_id), names)
            with _connected():
                columns = zip(*pipeline.execute(), strict=True)
            page = {name: _column(name, values) for name, values in zip(names, columns, strict=True)}
            yield TaskPage(columns={"taskId": task_ids, **page})

    def _hash(self, key: str) -> dict[str, bytes]:
        with _connected():
            state = cast(dict[bytes, bytes], self._redis.hgetall(key))
        return {name.decode(): value for name, value in state.items()}

    def _absent(self, task_id: str, split: tuple[str, int] | None) -> UnknownTask | ResultExpired:
        if split is None:
            with _connected():
                was = bool(self._redis.exists(redis_layout.GONE + task_id))
        else:
            was = split[1] < int(self._hash(redis_layout.batch_key(split[0])).get("size", 0))
        if was:
            return ResultExpired(f"task {task_id} has ended and its state is not kept any more (NEXUSQ_RESULT_TTL)")
        return UnknownTask(f"there is no task {task_id}: it was never accepted, or forgotten long after its end")


@contextlib.contextmanager
def _connected() -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:
        raise ConnectionFailed(f"expected Redis to answer, got {type(error).__name__}: {error}") from error


def _column(name: str, values: tuple[bytes | None, ...]) -> list[Any]:
    if name in _JSON:
        return [None if value is None else _decode(value) for value in values]
    if name in _NUMBERS:
        return [None if value is None else int(value) for value in values]
    return [None if value is None else value.decode() for value in values]


def _time(value: bytes | None) -> datetime | None:
    return None if value is None else datetime.fromtimestamp(int(value) / 1_000_000, UTC)
