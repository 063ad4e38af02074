"""Writes the states of what Kafka has taken, from the API's event loop: the store's `submit`, and a batch's close."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import redis
import redis.asyncio

from nexusq_sdk.protocol import redis_layout
from nexusq_sdk.protocol.words import DEFAULT_QUEUE
from nexusq_server.clock import now_us
from nexusq_server.settings import Settings
from nexusq_server.states import NewTask
from nexusq_server.store import register, submissions


class Accepted:
    """Both raise `redis.RedisError` when Redis is away or refuses."""

    def __init__(self, client: redis.asyncio.Redis, settings: Settings) -> None:
        self._settings = settings
        # A connection of its own: one from the pool is looked at first, which takes a turn of a busy loop.
        self._client = client.client()
        self._turn = asyncio.Lock()
        self._submit, self._close = register(self._client, "submit"), register(self._client, "close_batch")

    async def submit(self, tasks: Sequence[NewTask]) -> int:
        """Write the state of tasks that nobody has written yet; give how many those were."""
        written = 0
        for call in submissions(tasks, self._settings):
            written += await self._call(self._submit, **call)
        return written

    async def close_batch(
        self, batch_id: str, size: int, task_type: str, queue: str, ttl_seconds: float | None
    ) -> None:
        """Record that a batch has all its tasks: `size` of them. For a batch whose last chunk has no rows."""
        ttl = "" if ttl_seconds is None else repr(ttl_seconds)
        lane = "" if queue == DEFAULT_QUEUE else queue
        kept, gone = self._settings.result_ttl.total_seconds(), self._settings.gone_ttl.total_seconds()
        await self._call(
            self._close,
            keys=[redis_layout.batch_key(batch_id), redis_layout.RECENT],
            args=[batch_id, size, task_type, lane, ttl, now_us(), kept, gone],
        )

    async def close(self) -> None:
        """Let go of the connection."""
        await self._client.aclose()

    async def _call(self, script: Any, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run a script by its connection, past the client, which takes as long for a call as all the rest of it."""
        async with self._turn:
            if self._client.connection is None:
                await self._client.initialize()
            connection: Any = self._client.connection
            try:
                await connection.send_command("EVALSHA", script.sha, len(keys), *keys, *args)
                return await connection.read_response()
            except (redis.ConnectionError, redis.exceptions.NoScriptError):
                return await script(keys=keys, args=args)  # this connects and loads
