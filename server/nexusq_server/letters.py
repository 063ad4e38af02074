"""Reads the list of dead letters in Redis: tasks that failed for good, and records that were no tasks. Called in
threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import cast

import msgspec
import redis

from nexusq_sdk.protocol import ids, redis_layout
from nexusq_sdk.protocol.wire import DeadLetter, FailedAttempt, TaskError
from nexusq_sdk.protocol.words import DEFAULT_QUEUE
from nexusq_server.problems import InvalidRequest

#: Entries a look.
SLICE = 500
_RECORD = "record:"
_FIELDS = ("taskType", "payload", "error", "history", "attempt", "queue", "status")


class Letters:
    """The list. Every method raises `redis.RedisError` when Redis is away."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def page(
        self, task_type: str | None, batch: str | None, cursor: str | None, limit: int
    ) -> tuple[list[DeadLetter], str | None]:
        """Give up to `limit` letters that match, newest first, and where to go on."""
        if cursor is not None and not cursor.isdigit():
            raise InvalidRequest(
                f"expected cursor to be the nextCursor of an earlier page, got {cursor!r}", field="cursor"
            )
        found: list[DeadLetter] = []
        for rank, letter in self._letters(int(cursor or 0)):
            if not _matches(letter, task_type, batch):
                continue
            if len(found) == limit:
                return found, str(rank)
            found.append(letter)
        return found, None

    def task_ids(self, task_type: str | None, batch: str | None) -> list[str]:
        """Give the ids of all tasks in the list that match."""
        letters = (letter for _, letter in self._letters(0))
        return [letter.task_id for letter in letters if letter.task_id and _matches(letter, task_type, batch)]

    def _letters(self, first: int) -> Iterator[tuple[int, DeadLetter]]:
        """Give rank and letter from a rank on; what has expired meanwhile is passed over."""
        while True:
            entries = cast(
                list[tuple[bytes, float]],
                self._redis.zrevrange(redis_layout.DEAD, first, first + SLICE - 1, withscores=True),
            )
            if not entries:
                return
            pipeline = self._redis.pipeline(transaction=False)
            for member, _ in entries:
                name = member.decode()
                if name.startswith(_RECORD):
                    pipeline.get(redis_layout.DEAD_RECORD + name.removeprefix(_RECORD))
                else:
                    pipeline.hmget(redis_layout.task_key(name), _FIELDS)
            for rank, ((member, score), state) in enumerate(zip(entries, pipeline.execute(), strict=True), first):
                letter = _letter(member.decode(), score, state)
                if letter is not None:
                    yield rank, letter
            first += SLICE


def _letter(name: str, score: float, state: bytes | list[bytes | None] | None) -> DeadLetter | None:
    if not isinstance(state, list):
        return None if state is None else msgspec.json.decode(state, type=DeadLetter)
    task_type, payload, error, history, attempt, queue, status = state
    if task_type is None or status != b"FAILED" or error is None:
        return None
    failure = _failure(error)
    split = ids.split_task_id(name)
    return DeadLetter(
        reason=f"{failure.type}: {failure.message[:500]}",
        at=datetime.fromtimestamp(score / 1e6, UTC),
        task_id=name,
        task_type=task_type.decode(),
        batch_id=split[0] if split else None,
        queue=(queue or DEFAULT_QUEUE.encode()).decode(),
        attempt=int(attempt or 0),
        payload=msgspec.Raw(payload or b"null"),
        error=failure,
        history=msgspec.json.decode(history, type=list[FailedAttempt]) if history else [],
    )


def _failure(error: bytes) -> TaskError:
    """Read a task's error; one that somebody else wrote in another form is shown as it stands."""
    try:
        return msgspec.json.decode(error, type=TaskError)
    except msgspec.DecodeError:
        return TaskError(type="Unknown", message=error.decode("utf-8", "replace"))


def _matches(letter: DeadLetter, task_type: str | None, batch: str | None) -> bool:
    return (task_type is None or letter.task_type == task_type) and (batch is None or letter.batch_id == batch)
