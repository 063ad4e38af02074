"""Renews a worker's lease from a process of its own, so that no handler can keep it from doing so.

A handler that holds the interpreter's lock for a minute, or starves the machine, does not make its worker look dead.
The worker writes how it is to this process's standard input, a line of JSON each time; the line ``end`` gives the
lease back. When the input ends without that, the worker has died: what its slots say was running is written down for
those who take it over, the lease ends at once, and it is taken out of its consumer groups. A worker that is stopped
(SIGSTOP) is not renewed for: it may be stopped for good.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import redis

from nexusq_server.settings import Settings, load_settings
from nexusq_server.slots import Slots
from nexusq_server.store import Store, connect

DEAD = timedelta(0)
#: How often it looks whether its worker is stopped, and tries again when Redis is away.
LOOK_SECONDS = 0.5
#: How long it tries to tell Kafka that its worker has died.
LEAVE_SECONDS = 30.0


def is_stopped(process: int) -> bool:
    """Whether a process is stopped by a signal. Where there is no /proc that is not known: then it is not."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] in {"T", "t"}


class Keeper:
    """The loop of the process."""

    def __init__(self, worker: str, settings: Settings, slots: Slots) -> None:
        self._worker = worker
        self._lease = settings.lease
        self._slots = slots
        self._settings = settings
        self._store = Store(connect(settings), settings)
        self._parent = os.getppid()
        self._fields: Mapping[str, str] = {}
        self._members: Mapping[str, str] = {}  # group → the id that Kafka knows the worker by
        self._input = b""

    def run(self) -> None:
        """Renew three times a lease until the input ends."""
        pause = self._lease.total_seconds() / 3
        next_renewal = 0.0
        noted = False
        while True:
            more = self._read(min(LOOK_SECONDS, pause))
            if more is None and os.getppid() != self._parent:
                more = True  # it has died, but a process that a handler forked holds the input open
            now = time.monotonic()
            if more is not None:
                self._leave(died=more)
                return
            stopped = is_stopped(self._parent)
            if stopped and not noted:
                # Its lease may end now: what had started until then is charged an attempt.
                noted = self._note_running()
            elif not stopped:
                noted = False
            if self._fields and now >= next_renewal and not stopped:
                next_renewal = now + (pause if self._renew() else LOOK_SECONDS)

    def _read(self, seconds: float) -> bool | None:
        """Take what has come in. None: go on; else whether the worker died."""
        if not select.select([0], [], [], seconds)[0]:
            return None
        chunk = os.read(0, 65536)
        if not chunk:
            return True
        *lines, self._input = (self._input + chunk).split(b"\n")
        if b"end" in lines:
            return False
        if lines:
            first = not self._fields
            told = json.loads(lines[-1])
            self._fields, self._members = told["lease"], told["members"]
            if first:
                self._renew()
        return None

    def _renew(self) -> bool:
        # The clock is read before the call: the lease in Redis can only last longer than the worker believes.
        until = time.monotonic() + self._lease.total_seconds()
        try:
            lasted = self._store.renew_lease(self._worker, self._lease, self._fields, self._slots.running())
        except redis.RedisError as error:
            print(f"the lease of {self._worker} could not be renewed: {error}", file=sys.stderr, flush=True)
            return False
        self._slots.renew(until, anew=not lasted)
        return True

    def _note_running(self) -> bool:
        try:
            self._store.note_running(self._worker, self._slots.running())
        except redis.RedisError:
            return False
        return True

    def _leave(self, died: bool) -> None:
        """Give the lease back; while Redis is away, try as long as the lease would have lasted."""
        deadline = time.monotonic() + self._lease.total_seconds()
        while time.monotonic() < deadline:
            try:
                if died:
                    self._store.renew_lease(self._worker, DEAD, {}, self._slots.running())
                else:
                    self._store.end_lease(self._worker)
            except redis.RedisError:
                time.sleep(LOOK_SECONDS)
            else:
                break
        if died and self._members:
            self._leave_groups()

    def _leave_groups(self) -> None:
        """Take the worker out of its groups; while Kafka is away, try for a while: back, it waits for dead members."""
        # Only now: Kafka's client takes memory that a keeper needs at no other time.
        from nexusq_server.membership import leave_for  # noqa: PLC0415 - as said

        deadline = time.monotonic() + LEAVE_SECONDS
        while (fault := leave_for(self._settings, self._members)) is not None:
            if time.monotonic() > deadline:
                print(f"{self._worker} leaves its groups when its sessions end: {fault}", file=sys.stderr, flush=True)
                return
            time.sleep(LOOK_SECONDS)


def main() -> None:
    """Run for the worker that started it: arguments are its id, the slots' file descriptor and their number."""
    worker, fileno, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends when its worker does
    Keeper(worker, load_settings(), Slots(count, fileno)).run()


if __name__ == "__main__":
    main()
