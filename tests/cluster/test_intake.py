"""How a worker takes records from Kafka."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any, NamedTuple

import httpx
import pytest
from kafka import TopicPartition

import nexusq_server.intake
from nexusq_server.dead_letters import DeadLetters
from nexusq_server.intake import Intake
from nexusq_server.offsets import Offsets
from nexusq_server.settings import Settings
from nexusq_server.store import Store
from nexusq_server.topics import topic
from tests import asking
from tests.conftest import eventually


class Taken(NamedTuple):
    """An intake of one queue, and the part of Kafka's client that it has mended."""

    intake: Intake
    fetcher: Any

    def has_asked_anew(self) -> None:
        """Poll, and find nothing, until another fetch is under way than now."""
        before = set(self.fetcher._fetch_futures)

        def is_under_way() -> None:
            assert self.poll(0.1) == []
            assert self.fetcher.in_flight_fetches()
            assert not before & set(self.fetcher._fetch_futures)

        eventually(is_under_way)

    def poll(self, seconds: float) -> list[str]:
        """Poll; give the ids of the tasks that came."""
        return [received.task_id for _, records in self.intake.poll(seconds) for received in records]


@pytest.fixture
def taken(settings: Settings, store: Store, queue: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Taken]:
    monkeypatch.setattr(nexusq_server.intake, "HEARTBEAT_MS", 20_000)  # a heartbeat that is due ends a wait as well
    settings = settings.model_copy(update={"queues": (queue,), "lease": timedelta(seconds=60)})
    offsets: Offsets[TopicPartition] = Offsets()
    dead_letters = DeadLetters(settings)
    intake = Intake(settings, offsets, dead_letters, store)
    yield Taken(intake, intake._consumers[queue]._fetcher)
    intake.close()
    dead_letters.close()


def test_a_record_that_comes_between_looking_and_asking_is_not_waited_for(
    taken: Taken, http: httpx.Client, queue: str
) -> None:
    # given an intake that has asked Kafka for more, not for the first time: the first answer names all partitions
    taken.has_asked_anew()
    taken.has_asked_anew()

    # when a record is there after the next poll has looked, and before it asks for more
    ask, submitted = taken.fetcher.send_fetches, []

    def late(*args: Any) -> Any:
        if not submitted:
            submitted.append(asking.submit(http, "ECHO", 1, queue=queue))
            eventually(lambda: _assert(taken.fetcher._completed_fetches))
        return ask(*args)

    taken.fetcher.send_fetches = late
    polled = taken.poll(30)

    # then the poll gives it at once: what it has asked for after that has not been answered yet
    assert submitted == polled
    assert taken.fetcher.in_flight_fetches()


def test_a_topic_that_was_held_is_not_waited_for(taken: Taken, http: httpx.Client, queue: str) -> None:
    # given a Kafka that may wait long with an answer, and a topic of which there is enough in hand
    taken.has_asked_anew()
    taken.fetcher.config["fetch_max_wait_ms"] = 60_000
    taken.intake.hold({topic(queue)})
    taken.has_asked_anew()

    # when there is room for more
    taken.intake.hold(set())
    submitted = asking.submit(http, "ECHO", 1, queue=queue)

    # then it comes
    eventually(lambda: _assert([submitted] == taken.poll(0.1)))


def _assert(seen: object) -> None:
    assert seen
