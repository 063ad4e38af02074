"""What is submitted: an endless, seeded mixture of tasks and batches of every kind. Pure."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

#: Kinds, and how many of a hundred orders are of each. A batch is one order.
QUICK, SLOW, PROCESS, ASYNC = "quick", "slow (parked)", "in a process", "on the loop"
RETRIED, FAILING, DELAYED, CANCELLED, POSTPONED = (
    "retried",
    "failing",
    "delayed",
    "cancelled",
    "cancelled while delayed",
)
BATCH, BATCH_RETRIED, BATCH_CANCELLED = "in a batch", "retried in a batch", "in a cancelled batch"
SHARES = {
    QUICK: 31,
    SLOW: 2,
    PROCESS: 8,
    ASYNC: 10,
    RETRIED: 16,
    FAILING: 10,
    DELAYED: 8,
    CANCELLED: 6,
    POSTPONED: 3,
    BATCH: 3,
    BATCH_RETRIED: 1.5,
    BATCH_CANCELLED: 1.5,
}
#: Tasks of one chunk of a batch, and chunks of a batch.
CHUNK, CHUNKS = 10, (2, 5)


@dataclass(frozen=True)
class Order:
    """One thing to submit: a single task, or (`size` above 0) a batch. `cancel_after`: seconds, None: never."""

    kind: str
    task_type: str
    payloads: list[dict[str, Any]]
    options: dict[str, Any]
    size: int = 0
    cancel_after: float | None = None

    @property
    def max_attempts(self) -> int:
        """How often each task is tried."""
        return int(self.options.get("maxAttempts", 1))

    @property
    def delay(self) -> float:
        """How long each task has to wait."""
        return float(self.options.get("delaySeconds", 0.0))


def orders(seed: int) -> Iterator[Order]:
    """Draw orders without end."""
    draw = random.Random(f"orders {seed}")
    numbers = itertools.count()
    while True:
        [kind] = draw.choices(list(SHARES), list(SHARES.values()))
        yield _order(kind, draw, numbers)


def _order(kind: str, draw: random.Random, numbers: Iterator[int]) -> Order:
    task_type = draw.choice(["CHAOS_THREAD", "CHAOS_THREAD", "CHAOS_ASYNC"])
    options: dict[str, Any] = {}
    if draw.random() < 0.4:
        options["priority"] = draw.choice(["high", "low"])
    seconds, fails, cancel_after, size = draw.uniform(0, 0.3), 0, None, 0
    if kind == SLOW:
        seconds = draw.uniform(10, 20)
    elif kind == PROCESS:
        task_type = "CHAOS_PROCESS"
    elif kind == ASYNC:
        task_type = "CHAOS_ASYNC"
    elif kind in {RETRIED, BATCH_RETRIED}:
        fails = draw.randint(1, 3)
        # Deaths of workers charge attempts too: enough are left for them.
        options |= {"maxAttempts": fails + 1, "backoff": {"initialSeconds": 0.2, "capSeconds": draw.choice([1, 4])}}
    elif kind == FAILING:
        fails = -1
        options |= {"maxAttempts": draw.randint(1, 4), "backoff": {"initialSeconds": 0.2, "capSeconds": 2}}
    elif kind == DELAYED:
        options["delaySeconds"] = round(draw.uniform(0.5, 8), 2)
    elif kind == CANCELLED:
        task_type = draw.choice(["CHAOS_THREAD", "CHAOS_PROCESS", "CHAOS_ASYNC"])
        seconds, cancel_after = draw.uniform(0.5, 4), draw.uniform(0, 3)
    elif kind == POSTPONED:
        options["delaySeconds"], cancel_after = 15, draw.uniform(0, 3)
    elif kind == BATCH_CANCELLED:
        seconds, cancel_after = draw.uniform(0.1, 0.5), draw.uniform(0, 1.5)
    if kind in {BATCH, BATCH_RETRIED, BATCH_CANCELLED}:
        size = CHUNK * draw.randint(*CHUNKS)
    payloads = [{"number": next(numbers), "seconds": round(seconds, 3), "fails": fails} for _ in range(size or 1)]
    return Order(kind, task_type, payloads, options, size, cancel_after)
