"""How a worker takes records from Kafka."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx
import pytest
from kafka import TopicPartition

import nexusq_server.intake
from nexusq_server.dead_letters import DeadLetters
from nexusq_server.intake import Intake
from nexusq_server.offsets import Offsets
from nexusq_server.settings import Settings
from nexusq_server.store import Store
from tests import asking
from tests.conftest import eventually


def test_a_record_that_comes_between_looking_and_asking_is_not_waited_for(
    settings: Settings, store: Store, http: httpx.Client, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nexusq_server.intake, "HEARTBEAT_MS", 20_000)  # a heartbeat that is due ends the wait as well
    settings = settings.model_copy(update={"queues": (queue,), "lease": timedelta(seconds=60)})
    # given an intake that polls and finds nothing. What it has asked Kafka for is under way, not for the first time:
    # the first answer names all partitions
    offsets: Offsets[TopicPartition] = Offsets()
    dead_letters = DeadLetters(settings)
    intake = Intake(settings, offsets, dead_letters, store)
    fetcher = intake._consumers[queue]._fetcher
    asked: set[object] = set()

    def has_asked_again() -> None:
        assert intake.poll(0.1) == []
        asked.update(fetcher._fetch_futures)
        assert len(asked) > 1
        assert fetcher.in_flight_fetches()

    eventually(has_asked_again)

    # when a record is there after the next poll has looked, and before it asks for more
    ask, submitted = fetcher.send_fetches, []

    def late(*args: Any) -> Any:
        if not submitted:
            submitted.append(asking.submit(http, "ECHO", 1, queue=queue))
            eventually(lambda: _assert(fetcher._completed_fetches))
        return ask(*args)

    fetcher.send_fetches = late
    polled = intake.poll(30)

    # then the poll gives it at once: what it has asked for after that has not been answered yet
    assert submitted == [received.task_id for _, records in polled for received in records]
    assert fetcher.in_flight_fetches()
    intake.close()
    dead_letters.close()


def _assert(seen: object) -> None:
    assert seen
