"""Messages over the pipes between a worker and its child processes: each behind four bytes of length.

Child processes import this too: it must load neither Kafka's client nor Redis's.
"""

from __future__ import annotations

import os
import struct

_LENGTH = struct.Struct(">I")
#: What is read at a time: as much as a pipe holds on Linux.
_READ_BYTES = 64 * 1024


def write(fd: int, message: bytes) -> None:
    """Write a message whole."""
    rest = memoryview(_LENGTH.pack(len(message)) + message)
    while rest:
        rest = rest[os.write(fd, rest) :]


class Inbox:
    """What comes through a pipe, message by message; a small one is one read. Used by one thread."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._data = bytearray()

    def take(self) -> bytes | None:
        """Give the next message, if all of it has been read."""
        if len(self._data) < _LENGTH.size:
            return None
        end = _LENGTH.size + _LENGTH.unpack_from(self._data)[0]
        if len(self._data) < end:
            return None
        message = bytes(self._data[_LENGTH.size : end])
        del self._data[:end]
        return message

    def read(self) -> bool:
        """Wait for more and read it; False at the pipe's end."""
        chunk = os.read(self._fd, _READ_BYTES)
        self._data += chunk
        return bool(chunk)

    def next(self) -> bytes | None:
        """Wait for the next message; None at the pipe's end."""
        while (message := self.take()) is None:
            if not self.read():
                return None
        return message
