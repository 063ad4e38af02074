"""A claim whose answers are taken later than it was asked: as one that is waited for, whatever comes between."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
import redis

from nexusq_server.local.cluster import free_ports
from nexusq_server.settings import load_settings
from nexusq_server.states import SKIP
from nexusq_server.store import Store, connect
from tests.asking import Polled, own_store
from tests.cluster.test_store import LEASE, new_task, outcome, state


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, redis.Redis]]:
    with own_store(tmp_path_factory.mktemp("redis")) as found:
        yield found


@pytest.fixture
def store(own: tuple[Store, redis.Redis]) -> Store:
    return own[0]


@pytest.fixture
def redis_client(own: tuple[Store, redis.Redis]) -> redis.Redis:
    return own[1]


@pytest.fixture
def worker(store: Store) -> str:
    """Name a worker that lives."""
    name = f"test-{secrets.token_hex(4)}"
    store.renew_lease(name, LEASE, {"queues": "none"}, [])
    return name


def test_what_was_asked_is_told(store: Store, redis_client: redis.Redis, worker: str) -> None:
    # given a task that waits, one that has ended, one that Redis does not know, and one for which there is no room
    waits, ended, _, behind = tasks = [new_task() for _ in range(4)]
    store.submit([waits, ended, behind])
    store.claim(worker, [Polled(ended)])
    store.settle(worker, [outcome(ended)])

    # when they are asked for, and something else is asked meanwhile
    store.ask(worker, [Polled(task) for task in tasks], 2)
    assert 0 == store.submit([waits])

    # then the answers are those of a claim
    assert ([1, SKIP, 1], {}) == store.told()
    statuses = [state(redis_client, task)["status"] for task in tasks]
    assert ["IN_PROGRESS", "COMPLETED", "IN_PROGRESS", "QUEUED"] == statuses


def test_scripts_that_redis_has_forgotten_are_sent_again(store: Store, redis_client: redis.Redis, worker: str) -> None:
    task = new_task()
    store.submit([task])
    redis_client.script_flush()

    store.ask(worker, [Polled(task)], 1)

    assert ([1], {}) == store.told()


def test_a_connection_that_breaks_before_the_answer_is_made_anew(
    store: Store, redis_client: redis.Redis, worker: str
) -> None:
    # given a claim whose connection breaks before Redis gets to it
    task, other = new_task(), new_task()
    store.submit([task, other])
    redis_client.client_pause(60_000, all=False)
    store.ask(worker, [Polled(task)], 1)
    redis_client.client_kill_filter(_type="normal", skipme=True)
    redis_client.client_unpause()

    # then it is asked again: the first attempt, charged once
    assert ([1], {}) == store.told()
    assert "1" == state(redis_client, task)["attempt"]

    # and the next claim goes its way
    store.ask(worker, [Polled(other)], 1)
    assert ([1], {}) == store.told()


def test_a_redis_that_is_away_is_told_where_the_answer_is_waited_for(worker: str) -> None:
    [port] = free_ports(1)
    settings = load_settings(redis=f"redis://127.0.0.1:{port}")
    away = Store(connect(settings), settings)

    away.ask(worker, [Polled(new_task())], 1)

    with pytest.raises(redis.ConnectionError):
        away.told()
