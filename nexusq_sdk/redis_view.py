"""The same reads as `Connection`, straight from Redis: for those who may reach it and have many rows to read.

Reads only: what changes a task's state goes through the API or a worker. May be used from many threads.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, cast

import redis

from nexusq_sdk.errors import (
    ConnectionFailed,
    ResultExpired,
    UnknownTask,
    check_batch_id,
    check_batch_reference,
    check_task_id,
)
from nexusq_sdk.protocol import columns, ids, redis_layout
from nexusq_sdk.protocol.blobs import read_key
from nexusq_sdk.protocol.views import SAID_FIELDS, batch_view, first_expiry, sampled, task_said, task_view
from nexusq_sdk.protocol.waits import ASK_REDIS, pauses, read_task, read_task_script
from nexusq_sdk.protocol.wire import BatchView, TaskPage, TaskView

#: Lots of rows that are on their way at once.
AHEAD = 3


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
        self._read_task: Any = self._redis.register_script(read_task_script())

    @property
    def taken_back(self) -> int:
        """How often tasks that had ended were taken back through it: it only reads."""
        return 0

    def task(self, task_id: str, hold: float = 0.0) -> TaskView:
        """Give all that is known of a task, as soon as it has ended, but not later than `hold` seconds from now.

        Raises
        ------
        UnknownTask, ResultExpired
        """
        check_task_id(task_id)
        until = time.monotonic() + hold
        for pause in pauses(ASK_REDIS):
            left = until - time.monotonic()
            with _connected():
                answer = self._read_task(keys=[redis_layout.task_key(task_id)], args=[int(left > 0)])
            if answer is not None:
                break
            time.sleep(min(pause, max(0.0, left)))
        state, expires = read_task(answer)
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
        key, said_key = redis_layout.batch_key(batch_id), redis_layout.said_key(batch_id)
        state, speakers = self._ask(lambda pipeline: (pipeline.hgetall(key), pipeline.zrevrange(said_key, 0, -1)))
        if b"submittedUs" not in state:
            raise UnknownTask(f"there is no batch {batch_id}: it never was, or was forgotten long after its end")
        expires, said = None, []
        if b"finishedUs" not in state and speakers:
            keys = [redis_layout.task_key(task_id.decode()) for task_id in speakers]
            said = task_said(speakers, self._ask(lambda pipeline: [pipeline.hmget(key, SAID_FIELDS) for key in keys]))
        elif b"finishedUs" in state:
            names = sampled(batch_id, int(state.get(b"size", 0)))
            keys = [redis_layout.task_key(name) for name in names]
            expires = first_expiry(self._ask(lambda pipeline: [pipeline.pexpiretime(key) for key in keys]))
        return batch_view(batch_id, state, time.time_ns() // 1000, expires, said)

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
        names = columns.fields(payload=payload)
        at, broken, size = first, -1, self.batch(batch_id).size
        while at < size:
            try:
                for page in self._lots(batch_id, at, size, names):
                    at += len(page.columns["taskId"])
                    yield page
            except ConnectionFailed:
                if at == broken:
                    raise
                broken = at  # once more from here on

    def _lots(self, batch_id: str, at: int, size: int, names: tuple[str, ...]) -> Iterator[TaskPage]:
        """Give rows from `at` on. While one lot is made use of, Redis makes the next ones ready.

        Without a thread, which would wait for the interpreter's lock each time.
        """
        rows = columns.BatchRows(batch_id, at, size, names)
        asked: deque[tuple[int, list[str | int]]] = deque()
        with _connected(), self._lent() as connection:
            connection.send_command(*rows.opening)
            rows.opened(connection.read_response(disable_decoding=True))
            while True:
                while len(asked) < AHEAD and (lot := rows.ask()):
                    # A look at the connection's health is a PING: its answer would be taken for a lot.
                    connection.send_command(*lot[1], check_health=False)
                    asked.append(lot)
                if not asked:
                    return
                count, _ = asked.popleft()
                read = rows.answer(count, connection.read_response(disable_decoding=True))
                task_ids = [ids.task_id(batch_id, index) for index in range(at, at + count)]
                yield TaskPage(columns={"taskId": task_ids, **dict(zip(names, read.lists(), strict=True))})
                at += count

    @contextlib.contextmanager
    def _lent(self) -> Iterator[Any]:
        """Give a connection of its own for a while."""
        pool = self._redis.connection_pool
        connection: Any = pool.get_connection()
        try:
            yield connection
        except BaseException:
            connection.disconnect()  # answers may be on their way that nobody waits for
            raise
        finally:
            pool.release(connection)

    def _hash(self, key: str) -> dict[bytes, bytes]:
        with _connected():
            return cast(dict[bytes, bytes], self._redis.hgetall(key))

    def _ask(self, commands: Callable[[Any], object]) -> list[Any]:
        """Give the answers to several commands."""
        pipeline = self._redis.pipeline(transaction=False)
        commands(pipeline)
        with _connected():
            answers: list[Any] = pipeline.execute()
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
