"""Routes of batches' names: give one, find one. What was given is on Redis's disk when it is answered.

On the API's event loop. A name goes when its batch is forgotten (the scripts see to that), or after an hour if none of
its tasks ever comes.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import cast

import msgspec
import redis
import redis.asyncio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from nexusq_sdk.protocol import ids
from nexusq_sdk.protocol.redis_layout import DURABLE, batch_key, name_key
from nexusq_sdk.protocol.wire_reports import NameBatch, NamedBatch
from nexusq_server.answers import Answer, Endpoint
from nexusq_server.bodies import Query, content_type, decode, read_body
from nexusq_server.problems import BatchNotFound, InvalidRequest, NameTaken, UnsupportedBody
from nexusq_server.store import DISK_MS

BODY_LIMIT = 10_000
#: Seconds that a name is kept for a batch of which no task comes.
UNUSED = 3600
_decoder = msgspec.json.Decoder(NameBatch)


class Names:
    """The routes' methods. Every one raises `redis.RedisError` when Redis is away."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._redis = client
        self._script = client.register_script((files("nexusq_server") / "lua" / "name_batch.lua").read_text())

    async def put(self, request: Request) -> Response:
        """``PUT /names/{name}``: the name stands for this batch from now on, unless it stands for another one."""
        Query(request)
        name = request.path_params["name"]
        if not ids.is_batch_name(name):
            raise InvalidRequest(
                f"expected a batch's name to be such as 'exp-7' (a letter or digit, then letters, digits, '_', '.', "
                f"':' or '-'; 100 at most; no uuid), got {name!r}",
                field="name",
            )
        if content_type(request) != "json":
            raise UnsupportedBody("expected which batch is to have the name as JSON")
        wanted = decode(await read_body(request, BODY_LIMIT), _decoder)
        if not ids.is_id(wanted.batch_id):
            raise InvalidRequest(
                f"expected batchId to be a uuid in lower case, got {wanted.batch_id!r}", field="batchId"
            )
        if not 1 <= len(wanted.digest) <= 200:
            raise InvalidRequest(
                f"expected digest to have 1 to 200 characters, got {len(wanted.digest)}", field="digest"
            )
        batch_id, digest = await self.name_batch(name, wanted.batch_id, wanted.digest, wanted.new)
        if digest != wanted.digest:
            raise NameTaken(
                f"expected the inputs that batch {name!r} ({batch_id}) was submitted with (task type, queue and rows), "
                f"got others. Give these another name, or say new=True to begin another batch under this one"
            )
        return Answer(NamedBatch(name=name, batch_id=batch_id, digest=digest))

    async def name_batch(self, name: str, batch_id: str, digest: str, new: bool) -> tuple[str, str]:
        """Give a batch a name unless another one has it; give the id and the digest that it stands for now."""
        found = await self._script(
            keys=[name_key(name), batch_key(batch_id)], args=[name, batch_id, digest, int(new), UNUSED]
        )
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.set(DURABLE, "", ex=60)
        pipeline.waitaof(1, 0, DISK_MS)
        for answer in await pipeline.execute(raise_on_error=False):
            # Without an append-only file Redis refuses WAITAOF: there is nothing to wait for.
            if isinstance(answer, Exception) and not isinstance(answer, redis.ResponseError):
                raise answer
        has_id, has_digest = cast(list[bytes], found)
        return has_id.decode(), has_digest.decode()

    async def get(self, request: Request) -> Response:
        """``GET /names/{name}``: which batch it stands for."""
        Query(request)
        name = request.path_params["name"]
        found = cast(list[bytes | None], await self._redis.hmget(name_key(name), ["batchId", "digest"]))
        if found[0] is None or found[1] is None:
            raise BatchNotFound(f"there is no batch named {name!r}: it never was, or was forgotten long after its end")
        return Answer(NamedBatch(name=name, batch_id=found[0].decode(), digest=found[1].decode()))


def routes(endpoint: Callable[[str], Endpoint]) -> list[Route]:
    """Give the routes; `endpoint` makes that of a method's name."""
    return [
        Route("/names/{name}", endpoint("put"), methods=["PUT"]),
        Route("/names/{name}", endpoint("get"), methods=["GET"]),
    ]
