"""What may be committed: never past a record that is not settled."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nexusq_server.offsets import Offsets, Place

P = "task-queue-0"
#: A time that any record has held the commit back for, even within one tick of the clock.
AT_ONCE = -1.0


def received(offsets: Offsets[str], numbers: list[int], partition: str = P) -> list[Place[str]]:
    epoch = offsets.received(partition, numbers, offsets.losses)
    assert epoch is not None
    return [Place(partition, epoch, number) for number in numbers]


def test_nothing_is_committable_before_a_record_came() -> None:
    assert {} == Offsets[str]().committable()


def test_a_slow_task_holds_the_commit_back_but_not_those_behind_it() -> None:
    # given three records, the first of them slow
    offsets = Offsets[str]()
    first, *others = received(offsets, [5, 6, 7])

    # when the others are settled
    offsets.settled(others)

    # then the commit stays at the first, and goes past all once it is settled too
    assert {P: 5} == offsets.committable()
    offsets.settled([first])
    assert {P: 8} == offsets.committable()


def test_what_was_settled_under_a_lost_assignment_does_not_count() -> None:
    # given a record in flight when its partition was taken away and came back
    offsets = Offsets[str]()
    [before] = received(offsets, [5])
    offsets.lost([P])
    [after] = received(offsets, [5])

    # when the first assignment's copy is settled
    offsets.settled([before])

    # then the second one still has to be
    assert {P: 5} == offsets.committable()
    assert not offsets.current(before)
    assert offsets.current(after)


def test_a_consumer_that_goes_back_begins_anew() -> None:
    # given records that were settled, then read again from an earlier offset
    offsets = Offsets[str]()
    offsets.settled(received(offsets, [5, 6]))
    received(offsets, [5])

    # then the one that was read again must be settled again
    assert {P: 5} == offsets.committable()


@given(data=st.data())
def test_the_watermark_is_the_lowest_unsettled_offset_whatever_the_order(data: st.DataObject) -> None:
    # given any ascending offsets, with holes as compaction leaves them, settled in any order in any portions
    came = sorted(data.draw(st.sets(st.integers(0, 500), min_size=1, max_size=40)))
    offsets = Offsets[str]()
    places = received(offsets, came)
    done: set[int] = set()

    for place in data.draw(st.permutations(places)):
        offsets.settled([place])
        done.add(place.offset)

        # then at each step the committable offset is the lowest one that is not settled
        left = [offset for offset in came if offset not in done]
        assert {P: left[0] if left else came[-1] + 1} == offsets.committable()


def test_records_that_were_polled_across_a_loss_are_not_taken() -> None:
    # given a poll during which the partition was lost, and perhaps came back
    offsets = Offsets[str]()
    losses = offsets.losses
    offsets.lost([P])

    # then what that poll gave is refused, and nothing of it may be committed; other partitions' records are taken
    assert offsets.received(P, [7, 8], losses) is None
    assert {} == offsets.committable()
    assert offsets.received("another", [1], losses) is not None

    # and what the next poll gives is taken
    assert 7 == received(offsets, [7, 8])[0].offset


def test_a_record_holds_the_commit_back_from_when_it_became_the_lowest() -> None:
    # given three records, of which the second is settled
    offsets = Offsets[str]()
    first, second, third = received(offsets, [5, 6, 7])
    offsets.settled([second])

    # then the lowest that is not settled holds the commit back, and none that waits behind it
    assert [first] == offsets.holding(AT_ONCE, 100)
    assert [] == offsets.holding(60, 100)

    # when it is settled; then the next one begins to
    offsets.settled([first])
    assert [third] == offsets.holding(AT_ONCE, 100)
    assert [] == offsets.holding(60, 100)
    offsets.settled([third])
    assert [] == offsets.holding(AT_ONCE, 0)


def test_a_record_with_many_settled_ones_behind_it_holds_the_commit_back_at_once() -> None:
    # given a record, and a gap of a hundred
    offsets = Offsets[str]()
    first, *others = received(offsets, list(range(102)))

    # when a hundred behind it are settled; then that is borne, and one more is not
    offsets.settled(others[:100])
    assert [] == offsets.holding(60, 100)
    offsets.settled(others[100:])
    assert [first] == offsets.holding(60, 100)

    # when it is parked, which settles it; then its end changes nothing any more
    offsets.settled([first])
    assert {P: 102} == offsets.committable()
    offsets.settled([first])
    assert {P: 102} == offsets.committable()
    [late] = received(offsets, [102])
    offsets.settled([first])
    assert {P: 102} == offsets.committable()
    offsets.settled([late])
    assert {P: 103} == offsets.committable()


class Books(RuleBasedStateMachine):
    """The books against a plain model: partitions come, go and are read again, records are settled in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.offsets = Offsets[str]()
        self.open: dict[str, dict[int, Place[str]]] = {}  # of the assignment that holds
        self.next: dict[str, int] = {}
        self.stale: list[Place[str]] = []

    @rule(partition=st.sampled_from("ab"), holes=st.lists(st.integers(1, 3), min_size=1, max_size=5))
    def records_come(self, partition: str, holes: list[int]) -> None:
        at = self.next.get(partition, 0) - 1
        numbers = [at := at + hole for hole in holes]
        for place in received(self.offsets, numbers, partition):
            self.open.setdefault(partition, {})[place.offset] = place
        self.next[partition] = at + 1

    @rule(data=st.data())
    @precondition(lambda self: any(self.open.values()))
    def some_are_settled(self, data: st.DataObject) -> None:
        partition = data.draw(st.sampled_from([name for name, places in self.open.items() if places]))
        chosen = data.draw(st.sets(st.sampled_from(sorted(self.open[partition])), min_size=1))
        self.offsets.settled([self.open[partition].pop(offset) for offset in chosen])

    @rule(partition=st.sampled_from("ab"))
    def it_is_lost(self, partition: str) -> None:
        self.stale += self.open.pop(partition, {}).values()
        self.next.pop(partition, None)
        self.offsets.lost([partition])

    @rule()
    def what_was_lost_is_settled(self) -> None:
        self.offsets.settled(self.stale)

    @invariant()
    def nothing_is_committed_past_what_is_not_settled(self) -> None:
        wanted = {name: min(self.open.get(name, ()), default=after) for name, after in self.next.items()}
        assert wanted == self.offsets.committable()
        assert all(self.offsets.current(place) for places in self.open.values() for place in places.values())
        assert not any(self.offsets.current(place) for place in self.stale)
        held = {place.partition: place.offset for place in self.offsets.holding(AT_ONCE, 1000)}
        assert {name: min(places) for name, places in self.open.items() if places} == held


TestBooks = Books.TestCase
