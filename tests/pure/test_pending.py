"""Records in a worker's hand: none is lost or given twice, each priority has its share, and low moves on."""

from __future__ import annotations

import collections
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec import Raw

from nexusq_sdk.protocol.wire import Record
from nexusq_sdk.protocol.words import WEIGHTS, Priority
from nexusq_server.pending import FULL, FULL_BYTES, ROOM, Pending
from nexusq_server.work import Received

KINDS = ("thread", "process")
priorities = st.sampled_from(list(Priority))


def record(name: str, priority: str = "normal", queue: str = "default", size: int = 10) -> Received:
    task = Record(task_id=name, task_type="ECHO", payload=Raw(b"1"))
    return Received(task, queue, Priority(priority), 0, None, 1, 0, size)  # type: ignore[arg-type]


def names(records: list[Received]) -> list[str]:
    return [received.task_id for received in records]


def shares(pending: Pending, wanted: int, kind: str = "thread") -> dict[str, int]:
    return collections.Counter(str(received.priority) for received in pending.take(kind, wanted))


def fill(pending: Pending, **counts: int) -> None:
    for priority, count in counts.items():
        for number in range(count):
            pending.add("thread", record(f"{priority}-{number}", priority))


class Hands(RuleBasedStateMachine):
    """Whatever is added and taken, in any order: a lane is a queue, and nothing is lost, doubled or made up."""

    def __init__(self) -> None:
        super().__init__()
        self.pending = Pending(KINDS)
        self.lanes: dict[tuple[str, str, str], list[str]] = {}
        self.number = 0

    @rule(
        kind=st.sampled_from(KINDS),
        queue=st.sampled_from(["default", "reports"]),
        priority=priorities,
        first=st.booleans(),
        count=st.integers(1, 20),
    )
    def add(self, kind: str, queue: str, priority: str, first: bool, count: int) -> None:
        for _ in range(count):
            self.number += 1
            name = str(self.number)
            self.pending.add(kind, record(name, priority, queue), first=first)
            lane = self.lanes.setdefault((kind, queue, priority), [])
            lane.insert(0 if first else len(lane), name)

    @rule(kind=st.sampled_from(KINDS), wanted=st.integers(0, 40))
    def take(self, kind: str, wanted: int) -> None:
        waiting = sum(len(lane) for (of, _, _), lane in self.lanes.items() if of == kind)
        taken = self.pending.take(kind, wanted)
        assert min(wanted, waiting) == len(taken)
        for received in taken:
            lane = self.lanes[kind, received.queue, str(received.priority)]
            assert lane.pop(0) == received.task_id

    @rule()
    def clear(self) -> None:
        self.pending.clear()
        self.lanes.clear()

    @invariant()
    def adds_up(self) -> None:
        assert sum(map(len, self.lanes.values())) == len(self.pending)
        for kind in KINDS:
            assert any(lane for (of, _, _), lane in self.lanes.items() if of == kind) == self.pending.waits(kind)


TestHands = Hands.TestCase


@given(st.integers(1, 60), st.integers(2, 200))
def test_while_all_three_wait_each_priority_gets_its_weight(wanted: int, rounds: int) -> None:
    # given more of each than is handed out
    pending = Pending(KINDS)
    total = wanted * rounds
    fill(pending, high=total, normal=total, low=total)

    # when records are taken, many or few at a time
    got: collections.Counter[str] = collections.Counter()
    for _ in range(rounds):
        got.update(shares(pending, wanted))

    # then each has its share to within a few records
    weights = sum(WEIGHTS.values())
    assert total == sum(got.values())
    for priority, weight in WEIGHTS.items():
        assert abs(got[priority] - total * weight / weights) <= 3 + wanted * 0.2, got


@given(st.lists(st.integers(1, 8), min_size=45, max_size=80))
def test_low_moves_however_few_are_taken_at_a_time(sizes: list[int]) -> None:
    pending = Pending(KINDS)
    fill(pending, high=700, low=10)

    got = [name for wanted in sizes for name in names(pending.take("thread", wanted))]

    assert any(name.startswith("low") for name in got)


def test_a_high_record_that_comes_later_is_among_the_next_ones() -> None:
    # given a worker that has taken normal ones for a while
    pending = Pending(KINDS)
    fill(pending, normal=2000, low=1000)
    for _ in range(50):
        pending.take("thread", 8)

    # when a high one comes
    pending.add("thread", record("urgent", "high"))

    # then it is among the next that start
    assert "urgent" in names(pending.take("thread", 8))


def test_queues_share_evenly_within_a_priority() -> None:
    pending = Pending(KINDS)
    for queue in ("a", "b"):
        for number in range(100):
            pending.add("thread", record(f"{queue}{number}", queue=queue))

    got = collections.Counter(name[0] for _ in range(10) for name in names(pending.take("thread", 4)))

    assert {"a": 20, "b": 20} == got


def test_an_idle_priority_saves_nothing_up() -> None:
    # given normal records that had the worker to themselves for long
    pending = Pending(KINDS)
    fill(pending, normal=3000)
    pending.take("thread", 2000)

    # when high ones come
    fill(pending, high=1000)

    # then they get their share at once
    assert shares(pending, 20)["high"] >= 15


@pytest.mark.parametrize("priority", ["high", "normal", "low"])
def test_a_topic_is_full_at_its_limit_and_has_room_again_well_below_it(priority: str) -> None:
    # given one record less than the limit
    pending = Pending(KINDS)
    fill(pending, **{priority: FULL - 1})
    assert set() == pending.full()

    # when one more comes, and then as many go as leave it just above the room that is wanted
    pending.add("process", record("one more", priority))
    assert {("default", priority)} == pending.full()
    pending.take("thread", FULL - ROOM)
    assert {("default", priority)} == pending.full()

    # then it takes one more to go on fetching
    pending.take("thread", 1)
    assert set() == pending.full()


def test_large_records_stop_all_fetching_at_their_bytes() -> None:
    pending = Pending(KINDS)
    pending.add("thread", record("huge", size=FULL_BYTES))
    pending.add("thread", record("small", "low"))

    assert {("default", "normal"), ("default", "low")} == pending.full()
    taken: list[Any] = pending.take("thread", 2)
    assert 2 == len(taken)
    assert set() == pending.full()
