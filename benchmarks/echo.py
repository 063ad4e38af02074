"""An endpoint that answers what it is sent: the same framework, server and settings as the API's, and nothing behind.

``python -m benchmarks.echo PORT``.
"""

from __future__ import annotations

import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


async def echo(request: Request) -> Response:
    """Answer the body."""
    return Response(await request.body(), 202, media_type="application/json")


if __name__ == "__main__":
    app = Starlette(routes=[Route("/tasks", echo, methods=["POST"])])
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_config=None, access_log=False)
