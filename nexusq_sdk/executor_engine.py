"""The futures of an executor and the one thread that sends, asks and tells for all of them.

`Engine.add`, `shutdown` and a future's `cancel` are called by any thread and only take notes, under one condition; all
that goes over the network, and all that a future is told but its cancel, is done by the engine's thread.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, TypeVar

import msgspec

from nexusq_sdk.connection import Connection
from nexusq_sdk.errors import (
    ConnectionFailed,
    NexusQError,
    ResultExpired,
    ServerUnavailable,
    TaskCancelled,
    task_failed,
)
from nexusq_sdk.functions import open_result
from nexusq_sdk.protocol import ids
from nexusq_sdk.protocol.wire import Options, TaskError
from nexusq_sdk.protocol.words import Status
from nexusq_sdk.sending import CHUNK_BYTES, CHUNK_TASKS, batch_head, chunk_body, send_task

T = TypeVar("T")

#: Seconds for which what is submitted is gathered before it is sent.
GATHER = 0.003
#: Seconds between two questions: few at first, since most calls are short.
FIRST_PAUSE, LONGEST_PAUSE = 0.005, 0.25
#: Tasks that one question is about; above the second number it leaves out results, which are then read in such pages.
QUESTION, WITH_RESULTS = 5_000, 200
#: Seconds for which what was accepted may be unknown: Kafka has it, Redis was away.
LAG = 60.0


class TaskFuture(concurrent.futures.Future[T]):
    """A future whose call is a task.

    Attributes
    ----------
    task_id : str or None
        The task, once it was sent: good for `Client.task` in any kernel.
    """

    task_id: str | None = None

    def __init__(self, cancelled: Callable[[TaskFuture[Any]], None]) -> None:
        super().__init__()
        self._tell = cancelled

    def cancel(self) -> bool:
        """Take it back unless it has started or ended, as far as was heard; whether that was in time."""
        before = self.cancelled()
        if not super().cancel():
            return False
        if not before:
            self._tell(self)
        return True


class _Item(NamedTuple):
    """A call that was not sent yet."""

    future: TaskFuture[Any]
    task_type: str
    payload: bytes


class _Sent(NamedTuple):
    """A call that was sent, and when."""

    future: TaskFuture[Any]
    at: float


class Engine:
    """All calls of one executor."""

    _all: ClassVar[weakref.WeakSet[Engine]] = weakref.WeakSet()
    _exiting: ClassVar[bool] = False

    def __init__(self, connection: Connection, said: Options, limit: int | None) -> None:
        self._connection = connection
        self._said = said
        self._limit = limit
        self._changed = threading.Condition()  # guards what follows
        self._backlog: deque[_Item] = deque()  # beyond the limit
        self._outbox: deque[_Item] = deque()  # handed over, to be sent
        self._sending: list[_Item] = []  # taken out of the outbox, not in `_sent` yet, or only just
        self._sent: dict[str, _Sent] = {}
        self._cancels: list[str] = []
        self._closed = False
        self._thread: threading.Thread | None = None

    def check_open(self) -> None:
        """Raise RuntimeError after `close`."""
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown: make another one by client.executor()")
        if Engine._exiting:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    def add(self, task_type: str, payload: bytes) -> TaskFuture[Any]:
        """Take a call in."""
        item = _Item(TaskFuture(self._take_back), task_type, payload)
        with self._changed:
            self.check_open()
            self._backlog.append(item)
            self._hand_over()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="nexusq-executor", daemon=True)
                self._thread.start()
                Engine._all.add(self)
                # The last one in is the first one out: before a cluster that this process has started is stopped.
                atexit.unregister(Engine.flush_all)
                atexit.register(Engine.flush_all)
            self._changed.notify_all()
        return item.future

    def close(self) -> None:
        """Take no further calls; those that are here go on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def shutdown(self, wait: bool, cancel_futures: bool) -> None:
        """Do what `Executor.shutdown` says."""
        self.close()
        if cancel_futures:
            with self._changed:
                waiting = [item.future for item in (*self._backlog, *self._outbox, *self._sending)]
                waiting += [sent.future for sent in self._sent.values()]
            for future in waiting:
                future.cancel()
        if wait and self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def describe(self) -> str:
        """Say how many calls are where."""
        with self._changed:
            waiting = len(self._backlog) + len(self._outbox) + len(self._sending)
            return f"{waiting} to be sent, {len(self._sent)} sent{', shut down' if self._closed else ''}"

    @staticmethod
    def flush_all() -> None:
        """At the interpreter's end: see that everything is sent; it then runs without us."""
        Engine._exiting = True
        for engine in list(Engine._all):
            with engine._changed:
                engine._limit = None
                engine._hand_over()
                engine._changed.notify_all()
                while engine._alive() and (engine._outbox or engine._sending):
                    engine._changed.wait(0.1)

    def _alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _hand_over(self) -> None:
        """Move calls from the backlog to the outbox, as the limit allows. The condition is held."""
        while self._backlog:
            room = self._limit is None or len(self._outbox) + len(self._sending) + len(self._sent) < self._limit
            if not room:
                return
            item = self._backlog.popleft()
            # With a limit it is a pool of that size: what was handed over counts as running.
            if self._limit is not None and not item.future.set_running_or_notify_cancel():
                continue
            self._outbox.append(item)

    def _take_back(self, future: TaskFuture[Any]) -> None:
        """Note that a future was cancelled: its task is to be, if it was sent."""
        with self._changed:
            if future.task_id is not None and future.task_id in self._sent:
                self._cancels.append(future.task_id)
            self._changed.notify_all()

    def _run(self) -> None:
        pause, asked = FIRST_PAUSE, 0.0
        while True:
            with self._changed:
                while not self._due(asked + pause):
                    if self._closed and not (self._backlog or self._sent):
                        return
                    left = asked + pause - time.monotonic() if self._sent else None
                    self._changed.wait(left)
                items = bool(self._outbox)
                cancels, self._cancels = self._cancels, []
            try:
                if items:
                    self._send()
                    pause = FIRST_PAUSE
                if cancels:
                    self._cancel(cancels)
                if self._sent and time.monotonic() >= asked + pause:
                    told = self._ask()
                    pause = FIRST_PAUSE if told else min(1.3 * pause, LONGEST_PAUSE)
                    asked = time.monotonic()
            except Exception as error:  # whatever it is, nobody is to wait for ever
                self._give_up(error)

    def _due(self, ask_at: float) -> bool:
        if self._outbox or self._cancels:
            return True
        return bool(self._sent) and time.monotonic() >= ask_at

    def _send(self) -> None:
        time.sleep(GATHER)
        with self._changed:
            items = list(self._outbox)
            self._outbox.clear()
            self._sending = items
        groups: dict[str, list[_Item]] = {}
        for item in items:
            if item.future.cancelled():
                item.future.set_running_or_notify_cancel()
            else:
                groups.setdefault(item.task_type, []).append(item)
        del items
        try:
            for task_type, group in groups.items():
                for chunk in _chunks(group):
                    self._send_chunk(task_type, chunk)
        finally:
            with self._changed:
                self._sending = []
                self._hand_over()
                self._changed.notify_all()

    def _send_chunk(self, task_type: str, chunk: list[_Item]) -> None:
        try:
            names = self._post(task_type, chunk)
        except Exception as error:
            for item in chunk:
                _fail(item.future, error)
        else:
            self._note(names, chunk)

    def _post(self, task_type: str, chunk: list[_Item]) -> list[str]:
        if len(chunk) == 1:
            return [send_task(self._connection, task_type, chunk[0].payload, self._said).task_id]
        batch_id = ids.new_id()
        head = batch_head(task_type, batch_id, self._said)
        self._connection.submit_chunk(chunk_body(head, 0, [item.payload for item in chunk], True))
        return [ids.task_id(batch_id, index) for index in range(len(chunk))]

    def _note(self, names: list[str], chunk: list[_Item]) -> None:
        now = time.monotonic()
        with self._changed:
            for name, item in zip(names, chunk, strict=True):
                item.future.task_id = name
                self._sent[name] = _Sent(item.future, now)
                if item.future.cancelled():
                    self._cancels.append(name)  # while it was on its way

    def _cancel(self, names: list[str]) -> None:
        """Cancel tasks: a batch's at once where all that is left of it is to go."""
        for name in names:
            sent = self._drop(name)
            if sent is not None:
                sent.future.set_running_or_notify_cancel()
        with self._changed:
            left = {name.rpartition("-")[0] for name in self._sent}
        batches: dict[str, list[str]] = {}
        for name in names:
            split = ids.split_task_id(name)
            batches.setdefault(split[0] if split else name, []).append(name)
        for batch_id, members in batches.items():
            # It may have ended meanwhile; and where nobody answers it runs, which a cancel may find at any time.
            with contextlib.suppress(NexusQError):
                if len(members) > 1 and batch_id not in left:
                    self._connection.cancel_batch(batch_id)
                    continue
                for name in members:
                    self._connection.cancel_task(name)

    def _ask(self) -> int:
        """Ask how all tasks stand, tell the futures; give how many have ended."""
        with self._changed:
            names = list(self._sent)
        if len(names) > WITH_RESULTS:
            ended = []
            for start in range(0, len(names), QUESTION):
                columns = self._connection.lookup(names[start : start + QUESTION], results=False).columns
                for name, status in zip(columns["taskId"], columns["status"], strict=True):
                    if status is None or Status(status).terminal:
                        ended.append(name)
                    else:
                        self._running(name, status)
            names = ended
        told = 0
        for start in range(0, len(names), WITH_RESULTS):
            page = self._connection.lookup(names[start : start + WITH_RESULTS]).columns
            wanted = (page[column] for column in ("taskId", "taskType", "status", "result", "error"))
            for name, task_type, status, result, error in zip(*wanted, strict=True):
                told += self._tell(name, task_type, status, result, error)
        return told

    def _running(self, name: str, status: str) -> None:
        sent = self._sent.get(name)
        if status == Status.IN_PROGRESS and sent is not None:
            _begin(sent.future)

    def _tell(self, name: str, task_type: str | None, status: str | None, result: Any, error: Any) -> bool:
        """Tell a future how its task stands; whether it has ended."""
        sent = self._sent.get(name)
        if sent is None or (status is None and time.monotonic() - sent.at < LAG):
            return False
        if status is not None and not Status(status).terminal:
            self._running(name, status)
            return False
        future = sent.future
        if self._drop(name) is None or not _begin(future):
            return True
        if status == Status.COMPLETED:
            try:
                future.set_result(open_result(task_type or "", name, result, self._connection.signing_key))
            except Exception as fault:
                future.set_exception(fault)
        elif status == Status.FAILED:
            told = msgspec.convert(error, TaskError) if error else TaskError(type="Exception", message="")
            future.set_exception(task_failed(name, told.type, told.message, told.traceback))
        elif status == Status.CANCELLED:
            future.set_exception(TaskCancelled(f"task {name} was cancelled"))
        else:
            future.set_exception(ResultExpired(f"task {name} has ended and its state is not kept any more"))
        return True

    def _drop(self, name: str) -> _Sent | None:
        with self._changed:
            sent = self._sent.pop(name, None)
            self._hand_over()
            self._changed.notify_all()
        return sent

    def _give_up(self, error: Exception) -> None:
        """Tell all that wait that nobody answers; their tasks go on."""
        if isinstance(error, ConnectionFailed | ServerUnavailable):
            error.add_note("The tasks that were sent go on: client.task(future.task_id) takes each one up again.")
        with self._changed:
            futures = [sent.future for sent in self._sent.values()]
            self._sent.clear()
            self._hand_over()
        for future in futures:
            _fail(future, error)


def _begin(future: TaskFuture[Any]) -> bool:
    """Mark a future as running; False if it was cancelled before."""
    return future.running() or future.set_running_or_notify_cancel()


def _fail(future: TaskFuture[Any], error: Exception) -> None:
    if _begin(future):
        future.set_exception(error)


def _chunks(items: list[_Item]) -> list[list[_Item]]:
    chunks: list[list[_Item]] = [[]]
    size = 0
    for item in items:
        if chunks[-1] and (len(chunks[-1]) >= CHUNK_TASKS or size + len(item.payload) > CHUNK_BYTES):
            chunks.append([])
            size = 0
        chunks[-1].append(item)
        size += len(item.payload)
    return chunks
