"""What the API answers with: JSON; and how a route comes to its answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

_encode = msgspec.json.Encoder().encode
_TYPE = (b"content-type", b"application/json")


class Answer(Response):
    """A value as JSON; bytes are JSON already."""

    media_type = "application/json"

    def __init__(self, value: Any, status: int = 200) -> None:
        # Starlette's own works out headers that are always the same: a tenth of what a single submit costs.
        self.status_code = status
        self.background = None
        self.body = value if isinstance(value, bytes) else _encode(value)
        self.raw_headers = [(b"content-length", b"%d" % len(self.body)), _TYPE]


class Endpoint:
    """What a route calls: the method that `find` gives when it is asked, since the API is made when its loop runs.

    An ASGI application of its own, so that the framework catches what it raises once, not in two places.
    """

    def __init__(self, find: Callable[[], Callable[[Request], Awaitable[Response]]]) -> None:
        self._find = find

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, as ASGI has it."""
        answer = await self._find()(Request(scope, receive))
        await answer(scope, receive, send)
