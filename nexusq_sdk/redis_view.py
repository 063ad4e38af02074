"""The same reads as `Connection`, straight from Redis: for those who may reach it and have many rows to read.

Reads only: what changes a task's state goes through the API or a worker. May be used from many threads.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import msgspec
import redis

from nexusq_sdk.errors import (
    ConnectionFailed,
    ResultExpired,
    UnknownTask,
    check_batch_id,
    check_batch_reference,
    check_task_id,
)
from nexusq_sdk.protocol import ids, redis_layout
from nexusq_sdk.protocol.blobs import read_key
from nexusq_sdk.protocol.views import batch_view, first_expiry, sampled, task_view
from nexusq_sdk.protocol.wire import COLUMNS, PAYLOAD_COLUMN, BatchView, TaskPage, TaskView

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
        key = redis_layout.task_key(task_id)
        state, expires = self._ask(lambda pipeline: (pipeline.hgetall(key), pipeline.pexpiretime(key)))
        if not state:
            raise self._absent(task_id, ids.split_task_id(task_id))
        return task_view(task_id, state, expires)

    def batch(self, batch_id: str) -> BatchView:
        """Give a batch's counters.

        Raises
        ------
        UnknownTask
        """
        check_batch_id(batch_id)
        state = self._hash(redis_layout.batch_key(batch_id))
        if b"submittedUs" not in state:
            raise UnknownTask(f"there is no batch {batch_id}: it never was, or was forgotten long after its end")
        expires = None
        if b"finishedUs" in state:
            names = sampled(batch_id, int(state.get(b"size", 0)))
            keys = [redis_layout.task_key(name) for name in names]
            expires = first_expiry(self._ask(lambda pipeline: [pipeline.pexpiretime(key) for key in keys]))
        return batch_view(batch_id, state, time.time_ns() // 1000, expires)

    def batch_id(self, name: str) -> str:
        """Give the id of a batch by its name; an id is given as it is.

        Raises
        ------
        UnknownTask
        """
        check_batch_reference(name)
        if ids.is_id(name):
            return name
        with _connected():
            found = cast(bytes | None, self._redis.hget(redis_layout.name_key(name), "batchId"))
        if found is None:
            raise UnknownTask(f"there is no batch named {name!r}: it never was, or was forgotten long after its end")
        return found.decode()

    def batch_tasks(self, batch_id: str, *, payload: bool = False, first: int = 0) -> Iterator[TaskPage]:
        """Give a batch's tasks by columns, page after page, from row `first` on."""
        names = (*COLUMNS[1:], PAYLOAD_COLUMN) if payload else COLUMNS[1:]
        size = self.batch(batch_id).size
        for start in range(first, size, PAGE):
            task_ids = [ids.task_id(batch_id, index) for index in range(start, min(size, start + PAGE))]
            pipeline = self._redis.pipeline(transaction=False)
            for task_id in task_ids:
                pipeline.hmget(redis_layout.task_key(task_id), names)
            with _connected():
                columns = zip(*pipeline.execute(), strict=True)
            page = {name: _column(name, values) for name, values in zip(names, columns, strict=True)}
            yield TaskPage(columns={"taskId": task_ids, **page})

    def _hash(self, key: str) -> dict[bytes, bytes]:
        with _connected():
            return cast(dict[bytes, bytes], self._redis.hgetall(key))

    def _ask(self, commands: Callable[[Any], object]) -> list[Any]:
        """Give the answers to several commands; of PEXPIRETIME, which Redis has since 7.0, what it says or why not."""
        pipeline = self._redis.pipeline(transaction=False)
        commands(pipeline)
        with _connected():
            answers: list[Any] = pipeline.execute(raise_on_error=False)
            for answer in answers:
                if isinstance(answer, Exception) and not isinstance(answer, redis.ResponseError):
                    raise answer
        return answers

    def _absent(self, task_id: str, split: tuple[str, int] | None) -> UnknownTask | ResultExpired:
        if split is None:
            with _connected():
                was = bool(self._redis.exists(redis_layout.GONE + task_id))
        else:
            was = split[1] < int(self._hash(redis_layout.batch_key(split[0])).get(b"size", 0))
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
