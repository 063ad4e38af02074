"""A child process as its parent sees it, and the seat of the thread that owns it. `process_child` is the other side.

A child is its owner's; another thread reaches it through the seat alone, under the seat's lock.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping

import msgspec

from nexusq_server.clock import now_us
from nexusq_server.pipes import Inbox, write
from nexusq_server.process_child import Hello, Reply, encode
from nexusq_server.seats import Seat
from nexusq_server.slots import Slots
from nexusq_server.work import Claimed

#: How long a child that is let go may take to end before it is killed.
LEAVE_SECONDS = 5.0
#: A child's death is noticed at once by its pipe, after so long where something it has started holds the pipe open.
LOOK_SECONDS = 1.0

decode_reply = msgspec.msgpack.Decoder(Reply).decode


class ChildDied(Exception):
    """A child ended without an answer; the message says how."""


class Child:
    """One child process. `tasks` it has ended, `rss_bytes` it has held after the last of them: counted by its owner."""

    def __init__(
        self, environment: Mapping[str, str], slots: Slots, slot: int, max_result_bytes: int, *, tells_memory: bool
    ) -> None:
        self.tasks = 0
        self.rss_bytes = 0
        # Both ends stay open here: a token that the child has not taken can be taken back.
        self._tokens, self._childs_tokens = socket.socketpair()
        shared = (self._childs_tokens.fileno(), slots.fileno)
        try:
            # A group of its own: a terminal's Ctrl-C does not reach it, and a kill reaches all that it has started.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "nexusq_server.process_child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                env=environment,
                process_group=0,
                pass_fds=shared,
            )
        except OSError:
            self._tokens.close()
            self._childs_tokens.close()
            raise
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._inbox = Inbox(self._stdout.fileno())
        self._poll = select.poll()
        self._poll.register(self._stdout, select.POLLIN)
        try:
            self.send(encode(Hello(sys.path, max_result_bytes, tells_memory, *shared, slots.count, slot)))
            while self.receive(LOOK_SECONDS) is None:
                pass
        except ChildDied:
            self.bury()
            raise

    def alive(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    def allow(self, number: int) -> None:
        """Let it begin what is sent by this number, once it has ended what it was allowed before."""
        self._tokens.send(bytes((number,)))

    def take_back(self) -> bytes:
        """Take back all tokens that it has not taken: by these numbers it will begin nothing."""
        try:
            return self._childs_tokens.recv(256, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return b""

    def send(self, message: bytes) -> None:
        """Send a message; waits while the pipe is full. `ChildDied` if it ends before it has all of it."""
        try:
            write(self._stdin.fileno(), message)
        except OSError:
            raise ChildDied(self._cause()) from None

    def receive(self, seconds: float) -> bytes | None:
        """Wait for a message, for at most so long without a byte of it; `ChildDied` if it ends before that."""
        while (message := self._inbox.take()) is None:
            if not self._poll.poll(1000 * seconds):
                if self._process.poll() is None:
                    return None
                if not self._poll.poll(0):  # what it said last is there by now
                    raise ChildDied(self._cause())
            if not self._inbox.read():
                raise ChildDied(self._cause())
        return message

    def received(self) -> bytes | None:
        """Give a message that has been read already."""
        return self._inbox.take()

    def kill(self) -> None:
        """Kill it and what it has started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def leave(self) -> None:
        """Let it end, as an interpreter does; kill it if that takes long."""
        self._tokens.close()
        self._stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(LEAVE_SECONDS)
        self.bury()

    def bury(self) -> None:
        """Kill what is left of it and of what it has started, and close the pipes."""
        self.kill()
        self._process.wait()
        for end in (self._stdin, self._stdout, self._tokens, self._childs_tokens):
            end.close()

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


class ChildSeat(Seat):
    """A child, and the tasks that it was given and has not answered, by their numbers, in their order.

    Until the child has taken its token, any but the first can be taken back. A blow is the child's end.
    """

    __slots__ = ("_back", "_number", "_struck", "child", "given", "next", "silent", "since_us")

    def __init__(self, back: Callable[[list[Claimed]], None]) -> None:
        super().__init__(self._kill)
        self._back = back  # told what was taken back
        self._number = 0
        self._struck = False
        self.child: Child | None = None
        self.given: dict[int, Claimed] = {}
        self.since_us = 0  # when the first of them became the first
        self.next: Claimed | None = None  # what only an idle child may be given
        self.silent = False  # the child has had the first for long

    def give(self, run: Claimed) -> int | None:
        """Let the child begin a run, after all others; give the number to send it by. None: it is cancelled."""
        with self._lock:
            # A cancel either finds it among those given or was seen here.
            if run.cancelled:
                self.due = float("inf")
                return None
            assert self.child is not None
            self._number = number = (self._number + 1) % 256
            if not self.given:
                self.since_us = now_us()
            self.given[number] = run
            if run.limit is not None:
                self.run = run
            self.child.allow(number)
            return number

    def may_have_more(self) -> bool:
        """Whether the child may be given something ahead: nothing waits for its first task's end."""
        return self.run is None and self.next is None and not self.silent and not self._struck

    def first(self) -> Claimed | None:
        """Give the run that the child answers next, if any."""
        with self._lock:
            return next(iter(self.given.values()), None)

    def answered(self) -> Claimed:
        """Take out the run that the child has answered: once this returns, no blow for it comes any more."""
        with self._lock:
            run = self.given.pop(next(iter(self.given)))
            self.since_us = now_us()
            self.run, self.due, self.silent = None, float("inf"), False
            return run

    def lose(self) -> tuple[list[Claimed], list[Claimed]]:
        """Take out all, the child has died: the runs that this is an end of, and those that can begin elsewhere.

        A run that the child has begun after the one that it was killed for is none that it died of.
        """
        ended: list[Claimed] = []
        rest: list[Claimed] = []
        with self._lock:
            tokens = b"" if self.child is None else self.child.take_back()
            for number, run in self.given.items():
                begun = number not in tokens and not self._struck
                (ended if begun or run.interrupt is not None else rest).append(run)
            self.given.clear()
            self.run, self.due, self.silent, self._struck = None, float("inf"), False, False
        return ended, rest

    def take_back(self, task_id: str | None = None) -> None:
        """Take back what the child has not begun, but for the first: if this task is among it, or in any case."""
        with self._lock:
            ahead = list(self.given.values())[1:]
            wanted = ahead if task_id is None else [run for run in ahead if run.id == task_id]
            back = self._take_back() if wanted else []
        self._back(back)

    def strike(self, run: Claimed, reason: type[BaseException]) -> bool:
        """Kill the child if `run` is what it has begun last, and let it begin nothing more."""
        with self._lock:
            back = self._take_back() if run in self.given.values() else []
            struck = run.interrupt is None and run is next(reversed(self.given.values()), None)
            if struck:
                run.interrupt = reason
                self._struck = True
                self._blow(reason)
        self._back(back)
        return struck

    def _take_back(self) -> list[Claimed]:
        assert self.child is not None
        tokens, first = self.child.take_back(), next(iter(self.given))
        if first in tokens:
            self.child.allow(first)
        return [self.given.pop(number) for number in tokens if number != first]

    def _kill(self, _reason: type[BaseException]) -> None:
        if self.child is not None:
            self.child.kill()
