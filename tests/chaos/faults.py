"""The plan of what is done to which part and when, drawn from a seed, and whoever carries it out.

The same seed gives the same plan. It is dealt from decks: each holds every kind of fault, so that all of them come.
"""

from __future__ import annotations

import random
import signal
import time
from dataclasses import dataclass, replace

import redis

from tests.chaos.cluster import API_NAMES, LEASE_SECONDS, WORKER_NAMES, ChaosCluster
from tests.chaos.facts import (
    CRASH_REDIS,
    CUT_REDIS,
    FREEZE_WORKER,
    KILL_API,
    KILL_KAFKA,
    KILL_REDIS,
    KILL_WORKER,
    KILL_WORKER_AND_KEEPER,
    STOP_API,
    STOP_WORKER,
    WORKER_FAULTS,
    Fault,
)

DECK = (
    *(KILL_WORKER, KILL_WORKER, KILL_WORKER_AND_KEEPER, STOP_WORKER, FREEZE_WORKER),
    *(KILL_API, STOP_API, KILL_KAFKA, KILL_REDIS, CRASH_REDIS, CUT_REDIS),
)
#: Seconds between two faults, and until a killed part is started again.
BETWEEN = (2.5, 5.5)
DOWN = (0.0, 3.0)
#: When the first worker is killed, and until when nothing else happens.
ALONE = (5.0, 21.0)
#: How long a frozen worker sleeps, and how long a part needs after its start before it is hit again.
FROZEN = (LEASE_SECONDS + 2, LEASE_SECONDS + 4)
REST = {"kafka": 8.0, "redis": 2.0, "worker": 4.0, "api": 3.0}


@dataclass(frozen=True, order=True)
class Step:
    """One thing to do: a fault, or (`ends`) what makes up for it. `at` is in seconds from the beginning."""

    at: float
    kind: str
    part: str
    ends: bool = False


def plan(seed: int, seconds: float, kinds: tuple[str, ...] = DECK) -> list[Step]:
    """Draw what happens in so many seconds."""
    draw = random.Random(f"faults {seed}")
    steps: list[Step] = []
    busy = dict.fromkeys((*WORKER_NAMES, *API_NAMES, "kafka", "redis"), 0.0)
    deck: list[str] = []
    # First a kill alone, with time to recover from it: what is promised of that holds for no heap of faults.
    alone = draw.choice(WORKER_NAMES)
    if KILL_WORKER in kinds and seconds > ALONE[1]:
        steps = [Step(ALONE[0], KILL_WORKER, alone), Step(ALONE[1] - 1, KILL_WORKER, alone, ends=True)]
    at = ALONE[1] if steps else draw.uniform(*BETWEEN)
    while at < seconds:
        if not deck:
            deck = draw.sample(kinds, len(kinds))
        kind = deck.pop()
        idle = [part for part in _targets(kind) if busy[part] <= at]
        down = draw.uniform(*(FROZEN if kind == FREEZE_WORKER else DOWN))
        if idle:
            part = draw.choice(idle)
            steps.append(Step(at, kind, part))
            if kind != CUT_REDIS:
                steps.append(Step(at + down, kind, part, ends=True))
                busy[part] = at + down + REST[part.partition("-")[0]]
        at += draw.uniform(*BETWEEN)
    return sorted(steps)


def _targets(kind: str) -> tuple[str, ...]:
    if kind in WORKER_FAULTS:
        return WORKER_NAMES
    if kind in {KILL_API, STOP_API}:
        return API_NAMES
    return ("kafka",) if kind == KILL_KAFKA else ("redis",)


class Faults:
    """Carries a plan out, and keeps what was done when."""

    def __init__(self, cluster: ChaosCluster) -> None:
        self.done: list[Fault] = []
        self._cluster = cluster

    def carry_out(self, steps: list[Step], seconds: float) -> None:
        """Do each step at its time; return once all `seconds` are over and nobody is frozen or down."""
        began = time.monotonic()
        for step in steps:
            self._wait(began + step.at)
            if step.part in {"kafka", "redis"} and not step.ends:
                began += self._cluster.wait_until_listening(step.part)  # what follows comes as much later
            if step.ends:
                self._make_up(step)
            else:
                self.done.append(self._do(step))
        self._wait(began + seconds)
        self._cluster.calm()

    def _wait(self, until: float) -> None:
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.5))
            self._cluster.look()

    def _do(self, step: Step) -> Fault:
        part = self._cluster.parts[step.part]
        fault = Fault(time.time(), step.kind, part.label)
        if step.kind == KILL_WORKER_AND_KEEPER:
            part.kill_with_keeper()
        elif step.kind in {STOP_WORKER, STOP_API}:
            part.signal(signal.SIGTERM)
        elif step.kind == FREEZE_WORKER:
            part.signal(signal.SIGSTOP)
        elif step.kind == CUT_REDIS:
            with redis.Redis.from_url(self._cluster.redis_url) as client:
                client.client_kill_filter(_type="normal", skipme=True)
        elif step.kind == CRASH_REDIS:
            # First it falls silent: what it has told anybody of its disk has then arrived at the watcher too.
            part.signal(signal.SIGSTOP)
            time.sleep(0.1)
            part.kill()
            fault = replace(fault, since=self._cluster.disk.lose())
        else:
            part.kill()
        return fault

    def _make_up(self, step: Step) -> None:
        part = self._cluster.parts[step.part]
        if step.kind == FREEZE_WORKER:
            # Steps may run late: it sleeps as long as it was to all the same.
            asleep = max(fault.at for fault in self.done if fault.kind == FREEZE_WORKER and fault.part == part.label)
            self._wait(time.monotonic() + FROZEN[0] - (time.time() - asleep))
            part.signal(signal.SIGCONT)
            for index, fault in enumerate(self.done):
                if fault.kind == FREEZE_WORKER and fault.part == part.label and fault.until is None:
                    self.done[index] = replace(fault, until=time.time())
        else:
            self._cluster.start(step.part)
