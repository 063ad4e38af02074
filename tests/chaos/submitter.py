"""Submits orders to either API, again with the same ids until a 202 comes, and writes down which ids got one.

Threads take orders in turn and share the books; cancels are sent at their time by other threads.
"""

from __future__ import annotations

import heapq
import itertools
import json
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from nexusq_sdk.protocol import ids
from tests.chaos.facts import Sent, SentBatch
from tests.chaos.orders import CHUNK, Order

#: Answers after which the same is sent again: the API, Kafka or Redis is away.
AWAY = frozenset({502, 503, 504})
AGAIN_SECONDS = 0.2
THREADS = 6
#: A cancel is answered when it is on Redis's disk, which takes up to a second.
CANCELLERS = 4
#: How long what has not been accepted yet is tried for after the end.
LAST_SECONDS = 60.0


class Submitter:
    """The books and the threads, from `start` until `finish`."""

    def __init__(self, urls: list[str], orders: Iterator[Order], rate: float, folder: Path) -> None:
        self.sent: dict[str, Sent] = {}
        self.batches: dict[str, SentBatch] = {}
        self.refusals: list[str] = []
        self._urls = urls
        self._orders = orders
        self._rate = rate
        self._lock = threading.Lock()  # guards all of these and the orders
        self._file = (folder / "accepted.jsonl").open("a")
        self._next = time.monotonic()
        self._cancels: list[tuple[float, int, str, str]] = []
        self._count = itertools.count()
        self._ended = threading.Event()
        self._gave_up = threading.Event()
        self._threads = [threading.Thread(target=self._submit_all, daemon=True) for _ in range(THREADS)]
        self._cancellers = [threading.Thread(target=self._cancel_all, daemon=True) for _ in range(CANCELLERS)]

    def start(self) -> None:
        """Begin to submit."""
        for thread in (*self._threads, *self._cancellers):
            thread.start()

    def finish(self) -> None:
        """Take no further order; see those through that were taken."""
        self._ended.set()
        deadline = time.monotonic() + LAST_SECONDS
        for thread in (*self._threads, *self._cancellers):
            thread.join(max(0.0, deadline - time.monotonic()))
        self._gave_up.set()
        self._file.close()

    def _submit_all(self) -> None:
        with httpx.Client(timeout=20, trust_env=False) as http:
            while not self._ended.is_set():
                with self._lock:
                    order = next(self._orders)
                    wait = self._next - time.monotonic()
                    self._next = max(self._next, time.monotonic() - 1) + max(1, order.size) / self._rate
                if self._ended.wait(max(0.0, wait)):
                    return
                if order.size:
                    self._submit_batch(http, order)
                else:
                    self._submit_task(http, order)

    def _submit_task(self, http: httpx.Client, order: Order) -> None:
        task_id = ids.new_id()
        self._note_tried(order, [task_id], None, 0)
        body = {
            "taskId": task_id,
            "taskType": order.task_type,
            "payload": order.payloads[0],
            "options": order.options,
        }
        if self._post(http, "/tasks", body):
            self._note_accepted([task_id])
            self._plan_cancel(order, "tasks", task_id)

    def _submit_batch(self, http: httpx.Client, order: Order) -> None:
        batch_id = ids.new_id()
        with self._lock:
            batch = self.batches[batch_id] = SentBatch(batch_id, order.size)
        for first in range(0, order.size, CHUNK):
            payloads = order.payloads[first : first + CHUNK]
            names = [ids.task_id(batch_id, first + index) for index in range(len(payloads))]
            self._note_tried(order, names, batch_id, first)
            last = first + CHUNK >= order.size
            body = {
                "batchId": batch_id,
                "taskType": order.task_type,
                "payloads": payloads,
                "firstIndex": first,
                "last": last,
                "options": order.options,
            }
            if not self._post(http, "/batches", body):
                return
            self._note_accepted(names)
            batch.accepted += len(names)
            batch.closed = last
        self._plan_cancel(order, "batches", batch_id)

    def _post(self, http: httpx.Client, path: str, body: dict[str, Any] | None, wanted: int = 202) -> Any:
        """Send until the wanted answer comes; None if it never does."""
        while not self._gave_up.is_set():
            url = random.choice(self._urls) + path  # not from the seed: threads come in any order
            try:
                answer = http.post(url, json=body)
            except httpx.TransportError:
                self._gave_up.wait(AGAIN_SECONDS)
                continue
            if answer.status_code == wanted:
                return answer.json()
            # A cancel may come before Redis knows (again) of the task.
            if answer.status_code not in AWAY and not (wanted == 200 and answer.status_code == 404):
                with self._lock:
                    self.refusals.append(f"POST {path}: {answer.status_code} {answer.text[:500]}")
                return None
            self._gave_up.wait(AGAIN_SECONDS)
        return None

    def _note_tried(self, order: Order, names: list[str], batch: str | None, first: int) -> None:
        with self._lock:
            for index, name in enumerate(names, first):
                self.sent[name] = Sent(
                    task=name,
                    kind=order.kind,
                    task_type=order.task_type,
                    payload=order.payloads[index],
                    max_attempts=order.max_attempts,
                    delay=order.delay,
                    batch=batch,
                    to_cancel=order.cancel_after is not None,
                    tried_at=time.time(),
                )

    def _note_accepted(self, names: list[str]) -> None:
        with self._lock:
            for name in names:
                self.sent[name].accepted_at = time.time()
            self._file.write(json.dumps({"at": time.time(), "accepted": names}) + "\n")
            self._file.flush()

    def _plan_cancel(self, order: Order, what: str, name: str) -> None:
        if order.cancel_after is not None:
            with self._lock:
                at = time.monotonic() + order.cancel_after
                heapq.heappush(self._cancels, (at, next(self._count), what, name))

    def _cancel_all(self) -> None:
        with httpx.Client(timeout=20, trust_env=False) as http:
            while not self._gave_up.is_set():
                with self._lock:
                    due = bool(self._cancels) and self._cancels[0][0] <= time.monotonic()
                    entry = heapq.heappop(self._cancels) if due else None
                    over = self._ended.is_set() and not self._cancels
                if entry is not None:
                    self._cancel(http, *entry[2:])
                elif over and not any(thread.is_alive() for thread in self._threads):
                    return
                else:
                    self._gave_up.wait(0.05)

    def _cancel(self, http: httpx.Client, what: str, name: str) -> None:
        answer = self._post(http, f"/{what}/{name}/cancel", None, wanted=200)
        if answer is None:
            return
        with self._lock:
            self._file.write(json.dumps({"at": time.time(), "cancelled": name, "answer": answer}) + "\n")
            if what == "batches":
                self.batches[name].cancelled = True
            else:
                self.sent[name].cancel_answer = answer["status"]
                self.sent[name].cancelled_at = time.time()
