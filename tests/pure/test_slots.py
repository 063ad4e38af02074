"""The page that says what runs, read by another process once its worker is dead."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from nexusq_server.slots import SLOT_BYTES, Slots

SINGLE = "01a20e45-5716-74df-a356-688becb510f5"
MEMBER = f"{SINGLE}-4294967295"[:47]


@pytest.fixture
def slots() -> Iterator[Slots]:
    page = Slots(3)
    yield page
    page.close()


def test_what_has_started_and_not_ended_is_named(slots: Slots) -> None:
    # given a single task and one of a batch that started
    slots.start(0, SINGLE)
    slots.start(2, MEMBER)
    assert [SINGLE, MEMBER] == slots.running()

    # when one ends
    slots.end(0)

    # then only the other is named
    assert [MEMBER] == slots.running()


def test_a_shorter_id_after_a_longer_one_is_read_right(slots: Slots) -> None:
    slots.start(1, MEMBER)
    slots.end(1)
    slots.start(1, SINGLE)

    assert [SINGLE] == slots.running()


def test_a_half_written_slot_reads_as_empty(slots: Slots) -> None:
    # given a slot whose writer was killed between the length and the whole of the name
    slots.start(0, SINGLE)
    slots._page[8 + 1 + 20 : 8 + 1 + len(SINGLE)] = bytes(len(SINGLE) - 20)

    # then it names nothing
    assert [] == slots.running()
    assert len(MEMBER) < SLOT_BYTES


def test_another_process_reads_the_same_page_after_its_writers_death(slots: Slots) -> None:
    # given a process that dies in the middle of a task
    child = os.fork()
    if child == 0:
        slots.start(1, SINGLE)
        os._exit(9)
    os.waitpid(child, 0)

    # when the page is opened by its file
    page = Slots(3, os.dup(slots.fileno))

    # then it names the task, and what is written there of the lease is seen here
    assert [SINGLE] == page.running()
    page.renew(float("inf"), anew=True)
    assert slots.covers(1)
    page.close()


def test_a_lease_covers_what_was_claimed_under_it_until_it_runs_out(slots: Slots) -> None:
    # given a lease that was taken, and renewed without a gap
    assert not slots.covers(slots.lease)
    slots.renew(time.monotonic() + 60, anew=True)
    lease = slots.lease
    slots.renew(time.monotonic() + 70, anew=False)

    # then it covers what was claimed under it
    assert slots.covers(lease)
    assert slots.covers(lease, 65)
    assert not slots.covers(lease, 75)

    # when it has run out
    slots.renew(time.monotonic() - 1, anew=False)

    # then it covers nothing, nor does it once it was taken anew
    assert not slots.covers(lease)
    slots.renew(time.monotonic() + 60, anew=True)
    assert not slots.covers(lease)
    assert slots.covers(slots.lease)
