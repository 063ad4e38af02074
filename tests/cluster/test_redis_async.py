"""The API's connections to Redis, on the loop that the API runs on."""

from __future__ import annotations

import sys

import pytest
import redis

from nexusq_server.redis_async import connect_async
from nexusq_server.settings import Settings

uvloop = pytest.importorskip("uvloop", reason="the API runs on asyncio's own loop here")


@pytest.mark.skipif(sys.platform == "win32", reason="uvloop is not for Windows")
def test_a_connection_that_was_closed_is_a_redis_that_is_away_and_the_next_try_succeeds(settings: Settings) -> None:
    async def use_it() -> None:
        client = connect_async(settings)
        connection = await client.connection_pool.get_connection()
        # given a transport that is closed while redis-py takes it for open, as when Redis dies during a handshake
        connection._writer.transport.abort()

        # then it is said in redis-py's words, and the next try connects anew
        with pytest.raises(redis.ConnectionError, match="closed"):
            await connection.send_command("PING")
        await connection.send_command("PING")
        assert b"PONG" == await connection.read_response()
        await client.connection_pool.release(connection)
        assert await client.ping()
        await client.aclose()

    uvloop.run(use_it())
