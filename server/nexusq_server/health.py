"""A worker's /healthz and /readyz, for Kubernetes: a thread of its own, only where a port is set. Reads, never
writes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from nexusq_server.settings import Settings


class Health(threading.Thread):
    """The thread. `ready` says whether the worker polls and may claim."""

    def __init__(self, settings: Settings, ready: Callable[[], bool]) -> None:
        super().__init__(name="health", daemon=True)
        self._server: ThreadingHTTPServer | None = None
        if settings.health_port:
            self._server = ThreadingHTTPServer(("", settings.health_port), _handler(ready))

    def run(self) -> None:
        """Serve until `end`; at once over where no port is set."""
        if self._server is not None:
            self._server.serve_forever()

    def end(self) -> None:
        """Stop serving."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


def _handler(ready: Callable[[], bool]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = {"/healthz": True, "/readyz": ready()}
            good = known.get(self.path)
            self.send_response(404 if good is None else 200 if good else 503)
            self.end_headers()
            self.wfile.write(b"ok\n" if good else b"not found\n" if good is None else b"not ready: no poll lately\n")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
            """Say nothing: probes come every few seconds."""

    return Handler
