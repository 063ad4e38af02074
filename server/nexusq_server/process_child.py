"""The child process that runs handlers for `process_pool`, one at a time, and the messages that both speak.

``python -m nexusq_server.process_child``: the main thread reads stdin and runs handlers, another one waits for stdin's
end. Messages are msgpack. It ends when its stdin does: at once while a handler runs, since then its parent has died. It
must load neither Kafka's client nor Redis's, and a handler must not reach the pipes through 0 and 1.

Tasks may lie in stdin ahead of their time: each is begun once its **token**, a byte with its number, has been taken
from a socket. Its parent takes tokens too, to have tasks back: whoever gets the byte has the task, and what lies in
stdin without a token is passed over. What runs, the child itself writes into its slot.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import logging
import os
import resource
import select
import signal
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import msgspec

from nexusq_sdk.protocol.wire import TaskError
from nexusq_sdk.protocol.words import Status
from nexusq_sdk.tasks import CURRENT, CurrentTask
from nexusq_server.clock import now_us
from nexusq_server.pipes import Inbox, write
from nexusq_server.registry import Handler, find_handler, load_handlers
from nexusq_server.runs import attempt, take_note
from nexusq_server.slots import Slots
from nexusq_server.work import Ended, failed

_PR_SET_PDEATHSIG = 1
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_fork = threading.local()

encode = msgspec.msgpack.Encoder().encode


class Hello(msgspec.Struct, array_like=True):
    """The first message to a child; it answers with an empty one once it has loaded its handlers."""

    path: list[str]  # where the parent looks for modules
    max_result_bytes: int
    tells_memory: bool  # whether its replies are to say how much it holds: to look costs as much as all else of a reply
    tokens: int  # the socket's file descriptor
    slots: int  # the page's
    slot_count: int
    slot: int


class Request(msgspec.Struct, array_like=True):
    """A task to run. Comes behind a byte with its number."""

    task_id: str
    task_type: str
    attempt: int
    lease: int  # the number of the lease under which it was claimed
    payload: bytes


class Remark(msgspec.Struct, array_like=True):
    """What a handler has said while it runs. Comes before the reply, behind `REMARK`, which no reply begins with."""

    fraction: float | None
    text: str
    lines: tuple[str, ...]


REMARK = b"\xc1"  # the one byte that msgpack never uses
#: The answer to a request that was not begun, since its lease had run out: it may be another worker's.
LAPSED = b""
#: How often a child tells what its handler says.
REMARK_SECONDS = 0.25


class Reply(msgspec.Struct, array_like=True):
    """How it ended, and how much memory the child holds now; 0 where the parent does not want to know."""

    status: Status
    value: bytes
    started_us: int
    finished_us: int
    kinds: tuple[str, ...]
    retry_seconds: float | None
    hopeless: bool
    rss_bytes: int

    @classmethod
    def of(cls, ended: Ended, rss_bytes: int) -> Reply:
        """Put an end into a message."""
        return cls(
            ended.status,
            ended.value,
            ended.started_us,
            ended.finished_us,
            ended.kinds,
            None if ended.retry_in is None else ended.retry_in.total_seconds(),
            ended.hopeless,
            rss_bytes,
        )

    def ended(self) -> Ended:
        """Give the end that the message tells."""
        return Ended(
            self.status,
            self.value,
            self.started_us,
            self.finished_us,
            self.kinds,
            None if self.retry_seconds is None else timedelta(seconds=self.retry_seconds),
            self.hopeless,
        )


def rss_bytes() -> int:
    """Give the memory that this process holds now; where the system does not say, the most it has held."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, IndexError, ValueError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


class _Child:
    """What its threads share: whether a request is being run, whether the parent is gone, what the handler says."""

    def __init__(self, inbound: int, outbound: int) -> None:
        self._inbound = inbound
        self._outbound = outbound
        self._current: CurrentTask | None = None  # written by the main thread, read by the one that tells remarks
        self._writing = threading.Lock()
        # One thread sets its own of these two, then looks at the other's: one of them sees both.
        self._busy = False
        self._orphaned = False

    def run(self) -> None:
        """Load the handlers, then run what is asked for until the parent says no more."""
        inbox = Inbox(self._inbound)
        hello = inbox.next()
        if hello is None:
            return
        told = msgspec.msgpack.decode(hello, type=Hello)
        for inherited in (told.tokens, told.slots):
            os.set_inheritable(inherited, False)
        slots = Slots(told.slot_count, told.slots)
        self._busy = True  # loading: nobody waits for it once the parent is gone
        threading.Thread(target=self._listen, name="parent", daemon=True).start()
        sys.path[:] = told.path
        handlers = _handlers()
        self._busy = False
        write(self._outbound, b"")
        threading.Thread(target=self._remarks, name="remarks", daemon=True).start()
        decode = msgspec.msgpack.Decoder(Request).decode
        while token := os.read(told.tokens, 1):
            while (message := inbox.next()) is not None and not message.startswith(token):
                pass  # its parent has it back
            self._busy = True
            if self._orphaned or message is None:
                return
            request = decode(memoryview(message)[1:])
            if slots.covers(request.lease):
                slots.start(told.slot, request.task_id)
                ended = self._attempt(request, handlers, told.max_result_bytes)
                reply = encode(Reply.of(ended, rss_bytes() if told.tells_memory else 0))
            else:
                reply = LAPSED
            self._busy = False
            with contextlib.suppress(BrokenPipeError), self._writing:  # the parent is gone: stdin ends as well
                self._remark()
                self._current = None
                write(self._outbound, reply)

    def _remarks(self) -> None:
        """Tell the parent what the handler says, a few times a second."""
        while True:
            time.sleep(REMARK_SECONDS)
            with contextlib.suppress(BrokenPipeError), self._writing:
                self._remark()

    def _remark(self) -> None:
        note = None if self._current is None else take_note(self._current)
        if note is not None:
            write(self._outbound, REMARK + encode(Remark(note.fraction, note.text, note.lines)))

    def _listen(self) -> None:
        """Wait for stdin's end. Reading is the main thread's: to hand each message over would cost time."""
        poll = select.poll()
        poll.register(self._inbound, 0)  # nothing but its end
        poll.poll()
        self._orphaned = True
        if self._busy:
            os._exit(1)

    def _attempt(self, request: Request, handlers: dict[str, Handler], max_result_bytes: int) -> Ended:
        handler = find_handler(handlers, request.task_type)
        if handler is None:
            message = (
                f"expected the process for handlers to know {request.task_type!r} as its worker does, "
                f"got {', '.join(sorted(handlers))}"
            )
            return failed(TaskError(type="UnknownTaskType", message=message), now_us(), hopeless=True)
        current = CurrentTask(request.task_id, request.task_type, request.attempt)
        CURRENT.set(current)
        self._current = current
        return attempt(current, handler, request.payload, None, max_result_bytes)


def _handlers() -> dict[str, Handler]:
    # Here, because what they import is heavy and their errors are for the log.
    from nexusq_server.handlers import builtin_handlers  # noqa: PLC0415
    from nexusq_server.settings import load_settings  # noqa: PLC0415

    settings = load_settings()
    logging.basicConfig(
        level=settings.log_level,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    return load_handlers(settings.tasks, builtin_handlers(settings))


def _die_with_parent() -> None:
    """Ask Linux for a SIGKILL when the parent dies: a handler that holds the interpreter would not see stdin's end."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _hold_signals() -> None:
    # What comes to a forked process before it has its usual signals again waits until it has.
    _fork.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _let_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _fork.mask)


def _usual_signals() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _let_signals()


def main() -> None:
    """Serve the parent."""
    _die_with_parent()
    # The parent decides when this ends: a signal to a whole service is not for its children. Not SIG_IGN: programs that
    # handlers start would inherit it. And what they fork must end by SIGTERM, or multiprocessing waits for ever.
    for number in _SIGNALS:
        signal.signal(number, lambda *_: None)
    os.register_at_fork(before=_hold_signals, after_in_parent=_let_signals, after_in_child=_usual_signals)
    # The pipes under numbers of their own: what a handler prints goes to stderr, what it reads is empty.
    inbound, outbound = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)
    faulthandler.enable()
    _Child(inbound, outbound).run()


if __name__ == "__main__":
    main()
