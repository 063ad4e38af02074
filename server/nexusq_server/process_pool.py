"""Runs handlers in child processes: what a handler does to its process, it does to its own attempt alone.

`processes` threads, each with a child of its own (`children`), started with its first task and again after its death.
A time limit and a cancel are a SIGKILL to the child and what it has started. Must never touch Kafka or Redis.

While tasks are short, a child has its next ones at hand: it begins one without waiting for its thread, which then wakes
for several answers at once. Until the child has begun one, it can be taken back.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterable, Mapping
from datetime import timedelta
from queue import Empty

import msgspec

from nexusq_sdk.protocol.wire import TaskError
from nexusq_sdk.protocol.words import Status
from nexusq_sdk.tasks import WorkerLost
from nexusq_server.children import LOOK_SECONDS, Child, ChildDied, ChildSeat, decode_reply
from nexusq_server.clock import now_us
from nexusq_server.process_child import LAPSED, REMARK, Remark, Request, encode
from nexusq_server.runs import OnEnd, out_of_time
from nexusq_server.seated import SeatedExecutor
from nexusq_server.seats import MOMENT
from nexusq_server.settings import Settings
from nexusq_server.slots import Slots
from nexusq_server.work import Claimed, cancelled, failed, kinds_of

log = logging.getLogger(__name__)

#: Waits between tries to start a child.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
#: A child has what it does in so long, but so many tasks at the most, and only small ones: they must fit into a pipe,
#: or parent and child would wait for each other.
HAND_SECONDS, HAND_TASKS, HAND_BYTES = 0.05, 8, 2048
#: It is heard so long after it was given work, at the most, while there is more; and what it has not begun is taken
#: back once it has been silent for so long: the others may have nothing to do.
HEAR_SECONDS, SILENT_SECONDS = 0.02, 0.1

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
        self._seats = [ChildSeat(self._queue_again) for _ in range(processes)]
        super().__init__(self._seats, slots, first_slot, on_end, max_result_bytes, freed)
        self._environment = {**os.environ, **(environment or {})}
        self._recycle_tasks = recycle_tasks
        self._recycle_bytes = recycle_mib * 1024 * 1024
        self._stopping = threading.Event()
        self._begin("process")

    def cancel(self, task_id: str) -> bool:
        """End a task as cancelled: at once if its handler has not started; False if it is not in hand."""
        for seat in self._seats:
            seat.take_back(task_id)
        return super().cancel(task_id)

    def take_back(self) -> list[Claimed]:
        """Give back what has not started. It is out of hand and will not start here."""
        for seat in self._seats:
            seat.take_back()
        return super().take_back()

    def stop(self) -> None:
        """Let threads and children end after what they have; waits for none of them."""
        self._stopping.set()
        super().stop()

    def _serve(self, place: int) -> None:
        seat = self._seats[place]
        while True:
            try:
                if not seat.given:
                    run = seat.next or self._queue.get()
                    seat.next = None
                    if run is None:
                        break
                    # The child first: until it is ready, the task has not started and can be taken back.
                    if not self._ready(place, run) or not self._take(run):
                        continue
                    self._give(place, run)
                self._give_ahead(place)
                self._hear(place)
            except ChildDied as error:
                self._bury(place, str(error))
            if not seat.given and seat.child is not None and self._worn(seat.child):
                seat.child.leave()
                seat.child = None
        if seat.child is not None:
            seat.child.leave()
            seat.child = None

    def _ready(self, place: int, run: Claimed) -> bool:
        """See to a living child; False if the run is no longer waited for, or none starts and the pool is stopping."""
        seat = self._seats[place]
        if seat.child is not None and seat.child.alive():
            return True
        if seat.child is not None:
            seat.child.bury()
            seat.child = None
        pause = FIRST_PAUSE
        while run in self._queued:
            try:
                seat.child = Child(
                    self._environment,
                    self._slots,
                    self._first_slot + place,
                    self._max_result_bytes,
                    tells_memory=self._recycle_bytes > 0,
                )
            except (ChildDied, OSError) as error:
                # Not the task's doing: it waits, and whoever runs this worker is told.
                log.error("no process for handlers could be started, trying again in %g s: %s", pause, error)
                if self._stopping.wait(pause):
                    return False
                pause = min(pause * 2, LONGEST_PAUSE)
            else:
                return True
        return False

    def _give(self, place: int, run: Claimed) -> None:
        """Give the child a task that was taken."""
        seat = self._seats[place]
        if run.limit is not None:
            self._deadlines.watch(seat, run, run.limit)
        number = seat.give(run)
        self._running[place] = seat.first()
        if number is None:
            self._ended(place, run, cancelled(now_us()))
            return
        assert seat.child is not None
        payload = bytes(run.received.record.payload)
        request = Request(run.id, run.task_type, run.attempt, run.lease, payload)
        seat.child.send(bytes((number,)) + encode(request))

    def _give_ahead(self, place: int) -> None:
        """Give the child what it will do next. One with a time limit, which counts from its start, is given alone."""
        seat = self._seats[place]
        most = 1 if self._recycle_tasks or self._recycle_bytes else min(HAND_TASKS, int(HAND_SECONDS / self._mean))
        while 0 < len(seat.given) < most and seat.may_have_more() and self._queue.qsize() > self.places:
            try:
                run = self._queue.get_nowait()
            except Empty:
                return
            if run is None:
                self._queue.put(None)
                return
            if run.limit is not None or len(run.received.record.payload) > HAND_BYTES:
                seat.next = run
            elif self._take(run):
                self._give(place, run)

    def _hear(self, place: int) -> None:
        """Wait for what the child says, and take it in."""
        seat, child = self._seats[place], self._seats[place].child
        if child is None or not seat.given:
            return
        others_wait = len(seat.given) > 1 or seat.next is not None
        pause = min(HEAR_SECONDS, self._mean * len(seat.given) / 2)
        if len(seat.given) > 1 and pause > MOMENT and not self._queue.empty():
            time.sleep(pause)
        message = child.receive(SILENT_SECONDS if others_wait else LOOK_SECONDS)
        if message is None and others_wait:
            seat.silent = True
            seat.take_back()
            if seat.next is not None:
                self._queue.put(seat.next)
                seat.next = None
        while message is not None:
            self._heard(place, child, message)
            message = child.received()

    def _heard(self, place: int, child: Child, message: bytes) -> None:
        """Take in what the child says of the first task that it was given and has not answered."""
        seat = self._seats[place]
        if message.startswith(REMARK):
            remark, run = _decode_remark(message[1:]), seat.first()
            if run is not None:
                said = run._speaks()
                said.fraction, said.text, said.lines, said.news = remark.fraction, remark.text, remark.lines, True
            return
        run = seat.answered()
        if message == LAPSED:
            self._vacate(place)
            self._lapse(run)
            return
        reply = decode_reply(message)
        child.tasks += 1
        child.rss_bytes = reply.rss_bytes
        lost = run.cancelled and reply.status is Status.FAILED
        self._ended(place, run, cancelled(reply.started_us) if lost else reply.ended())
        if run.interrupt is not None:
            raise ChildDied

    def _bury(self, place: int, death: str) -> None:
        """Tell the end of what a child that has died was running, and queue what it had not begun."""
        seat = self._seats[place]
        assert seat.child is not None
        with contextlib.suppress(ChildDied):
            while (message := seat.child.receive(0)) is not None:  # what it said before
                self._heard(place, seat.child, message)
        since, (begun, rest) = seat.since_us, seat.lose()
        seat.child.bury()
        seat.child = None
        for run in begun:
            if run.cancelled:
                ended = cancelled(since)
            elif run.interrupt is not None:
                ended = out_of_time(run.limit, since)
            else:
                log.warning("task %s (%s): %s", run.id, run.task_type, death)
                ended = failed(TaskError(type=WorkerLost.__name__, message=death), since, kinds=kinds_of(WorkerLost))
            self._ended(place, run, ended)
        self._queue_again(rest)

    def _queue_again(self, runs: Iterable[Claimed]) -> None:
        for run in runs:
            self._queued[run] = None
            self._queue.put(run)

    def _vacate(self, place: int) -> None:
        # The child writes its slot; once it has nothing to do, its thread may.
        self._running[place] = self._seats[place].first()
        if self._running[place] is None:
            self._slots.end(self._first_slot + place)

    def _worn(self, child: Child) -> bool:
        return (0 < self._recycle_tasks <= child.tasks) or (0 < self._recycle_bytes < child.rss_bytes)
