"""Routes of blobs: signed bytes, functions and their large arguments. On the event loop.

A blob is named by its SHA-256: putting it twice changes nothing. What is not signed with the API's key is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import redis.asyncio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from nexusq_sdk.protocol import blobs, calls, redis_layout
from nexusq_sdk.protocol.wire import Blob
from nexusq_server.answers import Answer, Endpoint
from nexusq_server.bodies import Query, read_body
from nexusq_server.problems import BlobNotFound, BodyTooLarge, FunctionsOff, InvalidRequest, WrongKey
from nexusq_server.settings import Settings


class BlobRoutes:
    """The routes' methods. Every one raises `redis.RedisError` when Redis is away."""

    def __init__(self, settings: Settings, client: redis.asyncio.Redis, wait_on_disk: Callable[[], None]) -> None:
        self._key = blobs.read_key(settings.signing_key) if settings.signing_key else None
        self._limit_mib = settings.max_blob_mib
        self._ttl = settings.blob_ttl
        self._redis = client
        self._wait_on_disk = wait_on_disk

    async def put(self, request: Request) -> Response:
        """``PUT /blobs/{blobId}``: keep it; answered once it is on Redis's disk."""
        Query(request)
        blob_id, key = self._asked(request)
        try:
            body = await read_body(request, self._limit_mib * 2**20)
        except BodyTooLarge:
            raise BodyTooLarge(
                f"expected a function, or a large argument of one, of at most {self._limit_mib} MiB "
                f"(NEXUSQ_MAX_BLOB_MIB); store the data where workers can read it and send where it is"
            ) from None
        if blobs.blob_id(body) != blob_id:
            raise InvalidRequest(f"expected bytes whose SHA-256 is {blob_id}, got others", field="blobId")
        try:
            blobs.verify(key, body)
        except blobs.BadSignature as error:
            raise WrongKey(f"{error}: give the client the server's key") from None
        name = redis_layout.blob_key(blob_id)
        await self._redis.set(name, body, ex=self._ttl)
        await asyncio.to_thread(self._wait_on_disk)
        return Answer(Blob(blob_id=blob_id, bytes=len(body)))

    async def get(self, request: Request) -> Response:
        """``GET /blobs/{blobId}``: whether it is kept; it is then kept for longer. Never gives the bytes."""
        Query(request)
        blob_id, _ = self._asked(request)
        name = redis_layout.blob_key(blob_id)
        if not await self._redis.expire(name, self._ttl):
            raise BlobNotFound(f"there is no blob {blob_id}: it never was, or was not used for {self._ttl}")
        return Answer(Blob(blob_id=blob_id, bytes=await self._redis.strlen(name)))

    def _asked(self, request: Request) -> tuple[str, bytes]:
        if self._key is None:
            raise FunctionsOff(
                "functions by value are off here: to turn them on, set NEXUSQ_SIGNING_KEY to the same key for the API "
                "and its workers"
            )
        blob_id = request.path_params["blob_id"]
        if calls.BLOB_ID.fullmatch(blob_id) is None:
            raise BlobNotFound(f"expected a blob's id, a SHA-256 in hexadecimal, got {blob_id[:100]!r}")
        return blob_id, self._key


def routes(endpoint: Callable[[str], Endpoint]) -> list[Route]:
    """Give the routes; `endpoint` makes that of a method's name."""
    return [
        Route("/blobs/{blob_id}", endpoint("put"), methods=["PUT"]),
        Route("/blobs/{blob_id}", endpoint("get"), methods=["GET"]),
    ]
