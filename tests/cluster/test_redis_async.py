"""The API's connections to Redis, on the loop that the API runs on."""

from __future__ import annotations

import sys
from collections.abc import Callable

import httpx
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


@pytest.mark.parametrize(
    "happens",
    [
        pytest.param(lambda client: client.script_flush(), id="has forgotten its scripts"),
        pytest.param(lambda client: client.client_kill_filter(_type="normal", skipme=True), id="has cut connections"),
    ],
)
def test_what_is_accepted_has_its_state_at_once_though_redis(
    happens: Callable[[redis.Redis], object], http: httpx.Client, redis_client: redis.Redis, queue: str
) -> None:
    options = {"queue": queue, "allowUnknown": True}
    one = {"taskType": "ECHO", "payload": 1, "options": options}
    batch = {"taskType": "ECHO", "payloads": [], "last": True, "options": options}
    for path, body in (("/tasks", one), ("/batches", batch)):
        # given that it has happened since the last submit
        http.post(path, json=body).raise_for_status()
        happens(redis_client)

        # when the next one is accepted
        accepted = http.post(path, json=body).raise_for_status().json()

        # then it can be asked for
        assert 200 == http.get(f"{path}/{accepted.get('taskId') or accepted['batchId']}").status_code
