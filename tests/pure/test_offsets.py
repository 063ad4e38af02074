"""What may be committed: never past a record that is not settled."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nexusq_server.offsets import Offsets, Place

P = "task-queue-0"


def test_nothing_is_committable_before_a_record_came() -> None:
    assert {} == Offsets[str]().committable()


def test_a_slow_task_holds_the_commit_back_but_not_those_behind_it() -> None:
    # given three records, the first of them slow
    offsets = Offsets[str]()
    first, *others = offsets.received(P, [5, 6, 7])

    # when the others are settled
    offsets.settled(others)

    # then the commit stays at the first, and goes past all once it is settled too
    assert {P: 5} == offsets.committable()
    offsets.settled([first])
    assert {P: 8} == offsets.committable()


def test_what_was_settled_under_a_lost_assignment_does_not_count() -> None:
    # given a record in flight when its partition was taken away and came back
    offsets = Offsets[str]()
    [before] = offsets.received(P, [5])
    offsets.lost([P])
    [after] = offsets.received(P, [5])

    # when the first assignment's copy is settled
    offsets.settled([before])

    # then the second one still has to be
    assert {P: 5} == offsets.committable()
    assert not offsets.current(before)
    assert offsets.current(after)


def test_a_consumer_that_goes_back_begins_anew() -> None:
    # given records that were settled, then read again from an earlier offset
    offsets = Offsets[str]()
    offsets.settled(offsets.received(P, [5, 6]))
    offsets.received(P, [5])

    # then the one that was read again must be settled again
    assert {P: 5} == offsets.committable()


@given(data=st.data())
def test_the_watermark_is_the_lowest_unsettled_offset_whatever_the_order(data: st.DataObject) -> None:
    # given any ascending offsets, with holes as compaction leaves them, settled in any order in any portions
    received = sorted(data.draw(st.sets(st.integers(0, 500), min_size=1, max_size=40)))
    offsets = Offsets[str]()
    places: list[Place[str]] = offsets.received(P, received)
    done: set[int] = set()

    for place in data.draw(st.permutations(places)):
        offsets.settled([place])
        done.add(place.offset)

        # then at each step the committable offset is the lowest one that is not settled
        left = [offset for offset in received if offset not in done]
        assert {P: left[0] if left else received[-1] + 1} == offsets.committable()
