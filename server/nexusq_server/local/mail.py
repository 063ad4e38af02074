"""A mail server that keeps what it is sent: each mail a line of JSON. A process of its own: EMAIL_SEND's sink."""

from __future__ import annotations

import argparse
import asyncio
import email.policy
import json
import signal
from email.parser import BytesParser
from pathlib import Path
from typing import IO

from aiosmtpd.smtp import SMTP, Envelope, Session


class Sink:
    """Writes each mail to a file before it says that it has taken it."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: ARG002, N802
        """Take one mail; the name and the parameters are aiosmtpd's."""
        content = envelope.content if isinstance(envelope.content, bytes) else str(envelope.content).encode()
        message = BytesParser(policy=email.policy.default).parsebytes(content)
        body = message.get_body(("plain",))
        line = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "subject": str(message["Subject"]),
            "body": body.get_content().replace("\r\n", "\n").rstrip("\n") if body else "",
        }
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        return "250 OK"


async def serve(port: int, path: Path) -> None:
    """Serve on loopback until SIGTERM."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    with path.open("a") as file:
        server = await loop.create_server(lambda: SMTP(Sink(file), hostname="localhost", loop=loop), "127.0.0.1", port)
        await ended.wait()
        server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--file", type=Path, required=True)
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.port, arguments.file))
