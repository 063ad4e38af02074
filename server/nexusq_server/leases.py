"""The worker's lease: starts its keeper, tells it what the lease shows, says whether the lease is still held.

While the lease lasts no other worker takes this one's tasks over; when it has run out, nothing new is claimed. Called
by the worker's loop. The lease itself is renewed by another process: see `lease_keeper`.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

from nexusq_server.settings import Settings
from nexusq_server.slots import Slots

log = logging.getLogger(__name__)

#: How often the keeper is told what the lease is to show.
TELL_SECONDS = 1.0


class Lease:
    """The worker's end. `fields` tells what the lease shows of the worker, `members` who it is to its Kafka groups."""

    def __init__(
        self,
        settings: Settings,
        worker: str,
        slots: Slots,
        fields: Callable[[], Mapping[str, str | int]],
        members: Callable[[], Mapping[str, str]],
    ) -> None:
        self._settings = settings
        self._worker = worker
        self._slots = slots
        self._fields = fields
        self._members = members
        self._keeper: subprocess.Popen[bytes] | None = None
        self._told = 0.0
        self._told_members: Mapping[str, str] = {}

    def tend(self) -> None:
        """Tell the keeper how the worker is, a second after it was told last; start it if it does not run.

        Who the worker is to its groups is told at once: killed right after it has joined, it must be taken out, too.
        """
        now, members = time.monotonic(), dict(self._members())
        if self._keeper is None or self._keeper.poll() is not None:
            if self._keeper is not None:
                log.warning(
                    "the lease's keeper ended with exit code %s: another one is started", self._keeper.returncode
                )
            self._keeper = self._start()
        elif now - self._told < TELL_SECONDS and members == self._told_members:
            return
        self._told, self._told_members = now, members
        fields = {name: str(value) for name, value in self._fields().items()}
        self._tell(json.dumps({"lease": fields, "members": members}).encode())

    def held(self) -> bool:
        """Whether the lease will surely last a little longer."""
        return self._slots.covers(self._slots.lease, 0.2 * self._settings.lease.total_seconds())

    def end(self) -> None:
        """Give the lease back: what this worker still held may be taken over at once."""
        if self._keeper is None:
            return
        self._tell(b"end")
        try:
            self._keeper.wait(self._settings.lease.total_seconds() + 5)
        except subprocess.TimeoutExpired:
            log.warning("the lease could not be given back, it ends in %s", self._settings.lease)
            self._keeper.kill()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "nexusq_server.lease_keeper", self._worker]
        command += [str(self._slots.fileno), str(self._slots.count)]
        lease = f"{self._settings.lease.total_seconds() * 1000:.0f}ms"
        stores = {"NEXUSQ_REDIS": self._settings.redis, "NEXUSQ_KAFKA": ",".join(self._settings.kafka)}
        environment = os.environ | stores | {"NEXUSQ_LEASE": lease}
        return subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, pass_fds=[self._slots.fileno])

    def _tell(self, line: bytes) -> None:
        keeper = self._keeper
        if keeper is None or keeper.stdin is None:
            return
        try:
            keeper.stdin.write(line + b"\n")
            keeper.stdin.flush()
        except BrokenPipeError:
            log.warning("the lease's keeper does not read any more")
