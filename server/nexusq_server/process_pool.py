"""Runs handlers in child processes: what a handler does to its process, it does to its own attempt alone.

`processes` threads, each with a child of its own (`process_child`), started with its first task and again after its
death. A time limit and a cancel are a SIGKILL to the child and what it has started. Must never touch Kafka or Redis.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from datetime import timedelta

import msgspec

from nexusq_sdk.protocol.wire import TaskError
from nexusq_sdk.protocol.words import Status
from nexusq_sdk.tasks import WorkerLost
from nexusq_server.clock import now_us
from nexusq_server.pipes import Inbox, write
from nexusq_server.process_child import REMARK, Hello, Remark, Reply, Request, encode
from nexusq_server.runs import OnEnd, out_of_time
from nexusq_server.seated import SeatedExecutor
from nexusq_server.seats import Seat
from nexusq_server.settings import Settings
from nexusq_server.slots import Slots
from nexusq_server.work import Claimed, Ended, cancelled, failed, kinds_of

log = logging.getLogger(__name__)

#: How long a child that is let go may take to end before it is killed.
LEAVE_SECONDS = 5.0
#: Waits between tries to start a child.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
#: A child's death is noticed at once by its pipe, after so long where something it has started holds the pipe open.
LOOK_MS = 1000

_decode = msgspec.msgpack.Decoder(Reply).decode
_decode_remark = msgspec.msgpack.Decoder(Remark).decode


def environment_of(settings: Settings) -> dict[str, str]:
    """Give the environment that tells a child the settings that were given, by flags too."""
    told = {}
    for name in settings.model_fields_set:
        value = getattr(settings, name)
        if value is None:
            continue
        if isinstance(value, timedelta):
            text = f"{value.total_seconds():.6f}s"
        elif isinstance(value, (tuple, list, frozenset, set)):
            text = ",".join(map(str, value))
        else:
            text = str(value)
        told[f"NEXUSQ_{name.upper()}"] = text
    return told


class ChildDied(Exception):
    """A child ended without an answer; the message says how."""


class ProcessExecutor(SeatedExecutor):
    """`processes` places, each a thread with a child process."""

    def __init__(
        self,
        processes: int,
        slots: Slots,
        first_slot: int,
        on_end: OnEnd,
        max_result_bytes: int,
        freed: threading.Event | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        recycle_tasks: int = 0,
        recycle_mib: int = 0,
    ) -> None:
        self._seats = [_ChildSeat() for _ in range(processes)]
        super().__init__(self._seats, slots, first_slot, on_end, max_result_bytes, freed)
        self._environment = {**os.environ, **(environment or {})}
        self._recycle_tasks = recycle_tasks
        self._recycle_bytes = recycle_mib * 1024 * 1024
        self._stopping = threading.Event()
        self._begin("process")

    def stop(self) -> None:
        """Let threads and children end after what they have; waits for none of them."""
        self._stopping.set()
        super().stop()

    def _serve(self, place: int) -> None:
        seat = self._seats[place]
        while (run := self._queue.get()) is not None:
            # The child first: until it is ready, the task has not started and can be taken back.
            child = self._ready(seat, run)
            if child is None or not self._take(run):
                continue
            self._began(place, run)
            ended = self._attempt(seat, child, run)
            self._ended(place, run, ended)
            if seat.child is not None and self._worn(seat.child):
                seat.child.leave()
                seat.child = None
        if seat.child is not None:
            seat.child.leave()
            seat.child = None

    def _ready(self, seat: _ChildSeat, run: Claimed) -> Child | None:
        """Give a living child; None if the run is no longer waited for, or no child starts and the pool is stopping."""
        if seat.child is not None and seat.child.alive():
            return seat.child
        if seat.child is not None:
            seat.child.bury()
            seat.child = None
        hello = Hello(sys.path, self._max_result_bytes, self._recycle_bytes > 0)
        pause = FIRST_PAUSE
        while run in self._queued:
            try:
                seat.child = Child(self._environment, hello)
            except (ChildDied, OSError) as error:
                # Not the task's doing: it waits, and whoever runs this worker is told.
                log.error("no process for handlers could be started, trying again in %g s: %s", pause, error)
                if self._stopping.wait(pause):
                    return None
                pause = min(pause * 2, LONGEST_PAUSE)
            else:
                return seat.child
        return None

    def _attempt(self, seat: _ChildSeat, child: Child, run: Claimed) -> Ended:
        started = now_us()
        if run.limit is not None:
            self._deadlines.watch(seat, run, run.limit)
        seat.run = run
        reply: Reply | None = None
        death = ""
        try:
            if not run.cancelled:  # after the seat was taken: a cancel either finds it there or was seen here
                payload = bytes(run.received.record.payload)
                reply = child.ask(Request(run.id, run.task_type, run.attempt, payload), run)
        except ChildDied as error:
            death = str(error)
        finally:
            seat.leave()
        if death or run.interrupt is not None:
            child.bury()
            seat.child = None
        if run.cancelled and (reply is None or reply.status is Status.FAILED):
            return cancelled(started)
        if reply is not None:
            return reply.ended()
        if run.interrupt is not None:
            return out_of_time(run.limit, started)
        log.warning("task %s (%s): %s", run.id, run.task_type, death)
        return failed(TaskError(type=WorkerLost.__name__, message=death), started, kinds=kinds_of(WorkerLost))

    def _worn(self, child: Child) -> bool:
        return (0 < self._recycle_tasks <= child.tasks) or (0 < self._recycle_bytes < child.rss_bytes)


class Child:
    """One child process and the pipes to it. Used by the thread that owns it; `kill` by any, while it is asked."""

    def __init__(self, environment: Mapping[str, str], hello: Hello) -> None:
        self.tasks = 0
        self.rss_bytes = 0
        # A group of its own: a terminal's Ctrl-C does not reach it, and a kill reaches all that it has started.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "nexusq_server.process_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=environment,
            process_group=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._inbox = Inbox(self._stdout.fileno())
        self._poll = select.poll()
        self._poll.register(self._stdout, select.POLLIN)
        try:
            self._send(encode(hello))
            self._receive()
        except ChildDied:
            self.bury()
            raise

    def alive(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    def ask(self, request: Request, run: Claimed) -> Reply:
        """Let the child run a task, and its handler speak for the run; `ChildDied` if it ends before it answers."""
        self._send(encode(request))
        while (message := self._receive()).startswith(REMARK):
            remark = _decode_remark(message[1:])
            said = run._speaks()
            said.fraction, said.text, said.lines, said.news = remark.fraction, remark.text, remark.lines, True
        reply = _decode(message)
        self.tasks += 1
        self.rss_bytes = reply.rss_bytes
        return reply

    def kill(self) -> None:
        """Kill it and what it has started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def leave(self) -> None:
        """Let it end, as an interpreter does; kill it if that takes long."""
        self._stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(LEAVE_SECONDS)
        self.bury()

    def bury(self) -> None:
        """Kill what is left of it and of what it has started, and close the pipes."""
        self.kill()
        self._process.wait()
        self._stdin.close()
        self._stdout.close()

    def _send(self, message: bytes) -> None:
        try:
            write(self._stdin.fileno(), message)
        except OSError:
            raise ChildDied(self._cause()) from None

    def _receive(self) -> bytes:
        while (message := self._inbox.take()) is None:
            if not self._poll.poll(LOOK_MS):
                if self._process.poll() is not None:
                    raise ChildDied(self._cause())
            elif not self._inbox.read():
                raise ChildDied(self._cause())
        return message

    def _cause(self) -> str:
        """Say how the process ended, which it has, or is about to."""
        try:
            code = self._process.wait(1)
        except subprocess.TimeoutExpired:
            return "the handler's process closed its pipes and was killed"
        if code >= 0:
            return f"the handler's process ended with exit code {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        hint = " (out of memory?)" if -code == signal.SIGKILL else ""
        return f"the handler's process was killed by {name}{hint}"


class _ChildSeat(Seat):
    """A child's window: a blow is its end."""

    __slots__ = ("child",)

    def __init__(self) -> None:
        super().__init__(self._kill)
        self.child: Child | None = None

    def _kill(self, _reason: type[BaseException]) -> None:
        if self.child is not None:
            self.child.kill()
