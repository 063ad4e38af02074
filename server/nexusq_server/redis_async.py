"""The API's client of Redis: like `store.connect`'s, for an event loop."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from nexusq_server.settings import Settings


def connect_async(settings: Settings) -> redis.asyncio.Redis:
    """Make a client. It connects when used and tries once more: that a connection was cut off shows only in use."""
    pool = redis.asyncio.ConnectionPool.from_url(
        settings.redis, socket_timeout=10, socket_connect_timeout=2, retry=Retry(NoBackoff(), 1)
    )
    pool.connection_class = _told(pool.connection_class)
    return redis.asyncio.Redis.from_pool(pool)


def _told(kind: type[Any]) -> type[Any]:
    """Give a kind of connection that says so, as redis-py does, where it was closed before something is written.

    uvloop raises a bare RuntimeError then ("unable to perform operation ...; the handler is closed"), which redis-py
    (7.4.1) passes on: nobody would take it for a Redis that is away.
    """

    class Told(kind):  # type: ignore[misc]
        async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
            try:
                await super().send_packed_command(command, check_health)
            except RuntimeError as error:
                raise redis.ConnectionError(f"the connection was closed: {error}") from error

    return Told
