"""How partitions are shared out to a queue's workers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from nexusq_server.assignor import TopicByTopicAssignor

TOPICS = ("jobs", "jobs.high", "jobs.low")
PARTITIONS = 8

Shares = dict[str, dict[str, list[int]]]


def settle(owned: Shares) -> tuple[Shares, int]:
    """Rebalance until nothing moves, as cooperative members do; give the shares and the number of rounds."""
    cluster = SimpleNamespace(
        partitions_for_topic=lambda topic: set(range(PARTITIONS)) if topic in TOPICS else None, topics=lambda: TOPICS
    )
    for round_ in range(1, 5):
        shares = assign(cluster, owned)
        if shares == owned:
            return shares, round_
        owned = shares
    raise AssertionError(f"it goes on moving: {owned}")


def assign(cluster: Any, owned: Shares) -> Shares:
    members = []
    for name, topics in owned.items():
        partitions = [SimpleNamespace(topic=topic, partitions=numbers) for topic, numbers in topics.items()]
        metadata = SimpleNamespace(topics=TOPICS, owned_partitions=partitions, generation_id=1, user_data=b"")
        members.append(SimpleNamespace(member_id=name, metadata=metadata))
    assigned = TopicByTopicAssignor().assign(cluster, members)
    return {
        name: {topic: sorted(numbers) for topic, numbers in share.assigned_partitions}
        for name, share in assigned.items()
    }


@given(steps=st.lists(st.integers(1, 6), min_size=1, max_size=6))
def test_each_worker_has_its_share_of_every_topic_however_workers_come_and_go(steps: list[int]) -> None:
    # given workers that come (the number of them grows) and go (it shrinks)
    owned: Shares = {}
    for number in steps:
        owned = {f"w{index}": owned.get(f"w{index}", {}) for index in range(number)}

        # when partitions are shared out
        shares, rounds = settle(owned)

        # then every partition is somebody's, each topic is shared out evenly, and it took what cooperation takes
        assert rounds <= 3
        for topic in TOPICS:
            counts = [len(shares[name].get(topic, [])) for name in shares]
            assert max(counts) - min(counts) <= 1
            assert list(range(PARTITIONS)) == sorted(
                number for name in shares for number in shares[name].get(topic, [])
            )
        owned = shares


def test_a_worker_that_joins_takes_no_more_than_its_share_from_the_others() -> None:
    # given two workers with half of everything each
    before, _ = settle({"w0": {}, "w1": {}})

    # when a third one joins
    after, _ = settle(before | {"w2": {}})

    # then the others keep what they have, but for its share
    for name in ("w0", "w1"):
        for topic in TOPICS:
            assert set(after[name][topic]) <= set(before[name][topic])
    assert all(len(after["w2"][topic]) in {2, 3} for topic in TOPICS)
