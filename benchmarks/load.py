"""Posts the same request again and again over many connections: ``python -m benchmarks.load URL CONNECTIONS SECONDS``.

The body comes by standard input. One process, no HTTP library: an answer's end is found by its Content-Length. What is
measured must be the server, so it says which share of a CPU it needed itself.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import cast
from urllib.parse import urlsplit

import uvloop


class Connection(asyncio.Protocol):
    """One connection: a request, its answer, the next request."""

    def __init__(self, request: bytes, times: list[float]) -> None:
        self._request = request
        self._times = times
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._began = 0.0
        self.stopping = False
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is of no class of asyncio's
        self._send()

    def data_received(self, data: bytes) -> None:
        """Take a part of an answer; at its end send the next request."""
        self._buffer = self._buffer + data if self._buffer else data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        lower = head.lower()
        at = lower.find(b"content-length:")
        if at < 0 or not head.startswith(b"HTTP/1.1 2"):
            self._fail(f"expected an answer of 2xx with a Content-Length, got {self._buffer[:500]!r}")
            return
        if len(body) < int(lower[at + 15 :].split(b"\r\n", 1)[0]):
            return
        self._buffer = b""
        self._times.append(time.perf_counter() - self._began)
        if self.stopping:
            assert self._transport is not None
            self._transport.close()
        else:
            self._send()

    def connection_lost(self, error: Exception | None) -> None:
        """Say that it has ended."""
        if self.ended.done():
            return
        if self.stopping and error is None:
            self.ended.set_result(None)
        else:
            self._fail(f"the server closed the connection: {error}")

    def _send(self) -> None:
        assert self._transport is not None
        self._began = time.perf_counter()
        self._transport.write(self._request)

    def _fail(self, why: str) -> None:
        if not self.ended.done():
            self.ended.set_exception(ConnectionError(why))
        assert self._transport is not None
        self._transport.close()


async def run(url: str, connections: int, seconds: float, body: bytes) -> dict[str, float]:
    """Post for so long; give requests a second, the median and the 99th percentile of an answer's time."""
    place = urlsplit(url)
    head = (
        f"POST {place.path} HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    loop = asyncio.get_running_loop()
    times: list[float] = []
    opened = [
        (
            await loop.create_connection(
                lambda: Connection(head.encode() + body, times), place.hostname or "", place.port or 80
            )
        )[1]
        for _ in range(connections)
    ]
    await asyncio.sleep(min(1.0, seconds / 4))  # what is being warmed up does not count
    times.clear()
    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.wait([one.ended for one in opened], timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
    took, busy, done = time.perf_counter() - began, time.process_time() - cpu, sorted(times)
    for one in opened:
        one.stopping = True
    await asyncio.gather(*(one.ended for one in opened))
    return {
        "rate": len(done) / took,
        "p50_ms": 1000 * done[len(done) // 2],
        "p99_ms": 1000 * done[int(len(done) * 0.99)],
        "generator_cpu": busy / took,
    }


if __name__ == "__main__":
    address, count, span = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    print(json.dumps(uvloop.run(run(address, count, span, sys.stdin.buffer.read()))))
