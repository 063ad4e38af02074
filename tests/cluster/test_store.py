"""The state scripts, on a real Redis: what each one does, and every transition that it refuses."""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import cast

import pytest
import redis
from kafka import TopicPartition

from nexusq_sdk.protocol import ids
from nexusq_server.clock import now_us
from nexusq_server.durability import Durability
from nexusq_server.settings import Settings
from nexusq_server.settler import Settler
from nexusq_server.states import DROPPED, LATER, LOST, SETTLED, SKIP, NewTask, Outcome, Unusual
from nexusq_server.store import Store
from tests.asking import claim, close_batch
from tests.conftest import eventually

LEASE = timedelta(seconds=60)


def new_task(task_id: str | None = None, **changes: object) -> NewTask:
    return NewTask(task_id or ids.new_id(), "ECHO", b'{"a":1}', "default", None, now_us())._replace(**changes)


def outcome(task: NewTask, attempt: int = 1, status: str = "COMPLETED", value: str = "2") -> Outcome:
    return Outcome(task.task_id, attempt, status, value, str(now_us()), str(now_us()), 0)


def state(client: redis.Redis, task: NewTask) -> dict[str, str]:
    return client.hgetall(f"nexusq:task:{task.task_id}")


def answers(claims: list[tuple[int, Unusual]]) -> list[int]:
    return [answer for answer, _ in claims]


@pytest.fixture
def worker(store: Store) -> str:
    """Name a worker that lives."""
    name = f"test-{secrets.token_hex(4)}"
    store.renew_lease(name, LEASE, {"queues": "none"}, [])
    yield name
    store.end_lease(name)


@pytest.fixture
def other(store: Store) -> str:
    """Name another worker that lives."""
    name = f"other-{secrets.token_hex(4)}"
    store.renew_lease(name, LEASE, {"queues": "none"}, [])
    yield name
    store.end_lease(name)


def test_submit_writes_a_queued_task_that_a_person_can_read(store: Store, redis_client: redis.Redis) -> None:
    task = new_task(ttl_seconds=60.0, queue="reports")

    assert 1 == store.submit([task])

    assert {
        "status": "QUEUED",
        "taskType": "ECHO",
        "payload": '{"a":1}',
        "queue": "reports",
        "ttl": "60.0",
        "submittedUs": str(task.submitted_us),
    } == state(redis_client, task)


def test_submit_leaves_alone_what_a_quick_worker_has_written(
    store: Store, redis_client: redis.Redis, worker: str
) -> None:
    # given a task that was claimed before its submit reached Redis
    task = new_task()
    claim(store, worker, [(task, 1)])

    # when it is submitted
    assert 0 == store.submit([task])

    # then it is still in progress
    assert "IN_PROGRESS" == state(redis_client, task)["status"]


def test_submit_twice_counts_once(store: Store, redis_client: redis.Redis) -> None:
    batch = ids.new_id()
    tasks = [new_task(ids.task_id(batch, index)) for index in range(3)]

    store.submit(tasks)
    store.submit(tasks)

    counts = redis_client.hgetall(f"nexusq:batch:{batch}")
    assert ("3", "3") == (counts["QUEUED"], counts["size"])


def test_submit_does_not_revive_a_task_whose_state_has_expired(
    store: Store, redis_client: redis.Redis, worker: str
) -> None:
    task = new_task()
    claim(store, worker, [(task, 1)])
    store.settle(worker, [outcome(task)])
    redis_client.delete(f"nexusq:task:{task.task_id}")  # what its expiry does, a day later

    assert 0 == store.submit([task])

    assert {} == state(redis_client, task)


def test_a_queued_task_is_claimed_once(store: Store, redis_client: redis.Redis, worker: str, other: str) -> None:
    task = new_task()
    store.submit([task])

    assert [1] == answers(claim(store, worker, [(task, 1)]))
    assert [LATER] == answers(claim(store, other, [(task, 1)]))

    claimed = state(redis_client, task)
    assert ("IN_PROGRESS", worker, "1") == tuple(claimed[field] for field in ("status", "worker", "attempt"))


def test_a_claim_whose_answer_was_lost_is_given_again(store: Store, worker: str) -> None:
    task = new_task()
    claim(store, worker, [(task, 1)])

    assert [1] == answers(claim(store, worker, [(task, 1)]))


def test_a_claim_that_redis_went_back_to_costs_its_own_worker_no_attempt(store: Store, worker: str) -> None:
    # given a task that ran, and a Redis that has lost how it ended and not that it ran
    task = new_task()
    claim(store, worker, [(task, 1)])
    store.renew_lease(worker, LEASE, {"queues": "none"}, [task.task_id])

    # then its worker, which has not died, runs it again as the same attempt
    assert [1] == answers(claim(store, worker, [(task, 1)]))


@pytest.mark.parametrize("status", ["COMPLETED", "FAILED"])
def test_a_task_that_has_ended_is_not_claimed_again(store: Store, worker: str, status: str) -> None:
    task = new_task()
    claim(store, worker, [(task, 1)])
    store.settle(worker, [outcome(task, status=status)])

    assert [SKIP] == answers(claim(store, worker, [(task, 1)]))


def test_a_dead_workers_task_is_taken_over_and_charged_only_if_it_had_started(store: Store, other: str) -> None:
    # given a worker that had claimed two tasks and started one of them when it died
    started, waiting = new_task(), new_task()
    dead = f"dead-{secrets.token_hex(4)}"
    store.renew_lease(dead, LEASE, {"queues": "none"}, [])
    claim(store, dead, [(started, 1), (waiting, 1)])
    store.renew_lease(dead, LEASE, {"queues": "none"}, [started.task_id])
    assert [LATER, LATER] == answers(claim(store, other, [(started, 1), (waiting, 1)]))
    store.end_lease(dead)

    # when another worker takes both over, which it does not before Redis has been up for as long as a lease lasts
    def takes_over() -> None:
        # then the one that had started is at its second attempt
        assert [2, 1] == answers(claim(store, other, [(started, 1), (waiting, 1)]))

    eventually(takes_over)

    # and the dead worker's late answers are dropped
    assert [DROPPED, DROPPED] == store.settle(dead, [outcome(started), outcome(waiting)])
    assert [SETTLED, SETTLED] == store.settle(other, [outcome(started, attempt=2), outcome(waiting)])


def test_an_outcome_is_written_once(store: Store, redis_client: redis.Redis, worker: str) -> None:
    task = new_task()
    claim(store, worker, [(task, 1)])

    assert [SETTLED] == store.settle(worker, [outcome(task, value='"first"')])
    assert [DROPPED] == store.settle(worker, [outcome(task, value='"second"')])

    assert '"first"' == state(redis_client, task)["result"]


def test_an_outcome_of_an_earlier_attempt_is_dropped(store: Store, worker: str) -> None:
    task = new_task()
    claim(store, worker, [(task, 2)])

    assert [DROPPED] == store.settle(worker, [outcome(task, attempt=1)])


def test_an_outcome_whose_claim_redis_has_lost_is_asked_to_claim_again(store: Store, worker: str) -> None:
    # given a task of which Redis remembers the submit, and one of which it remembers nothing
    queued, unknown = new_task(), new_task()
    store.submit([queued])

    assert [LOST, LOST] == store.settle(worker, [outcome(queued), outcome(unknown)])


def test_a_batch_is_finished_when_it_is_closed_and_all_its_tasks_have_ended(
    settings: Settings, store: Store, redis_client: redis.Redis, worker: str
) -> None:
    # given a batch of two whose tasks end before it is closed
    batch = ids.new_id()
    tasks = [new_task(ids.task_id(batch, index)) for index in range(2)]
    key = f"nexusq:batch:{batch}"
    store.submit(tasks)
    claim(store, worker, [(task, 1) for task in tasks])
    store.settle(worker, [outcome(tasks[0]), outcome(tasks[1], status="FAILED")])
    assert "finishedUs" not in redis_client.hgetall(key)

    # when it is closed
    close_batch(settings, batch, 2)

    # then it is finished, its counters add up, and it will expire
    counts = redis_client.hgetall(key)
    assert ("0", "0", "1", "1") == tuple(counts[name] for name in ("QUEUED", "IN_PROGRESS", "COMPLETED", "FAILED"))
    assert "finishedUs" in counts
    assert redis_client.ttl(key) > 0


def test_an_ended_task_expires_and_is_remembered_as_expired_for_longer(
    store: Store, redis_client: redis.Redis, worker: str
) -> None:
    task = new_task(ttl_seconds=100.0)
    claim(store, worker, [(task, 1)])
    assert -1 == redis_client.ttl(f"nexusq:task:{task.task_id}")

    store.settle(worker, [outcome(task)])

    assert 95 < redis_client.ttl(f"nexusq:task:{task.task_id}") <= 100
    assert redis_client.ttl(f"nexusq:gone:{task.task_id}") > 1000


class _Written:
    """A settler as the durability thread sees it: something was written, again where it was told so."""

    written = again = False

    def mark(self) -> int:
        return 1

    def sure(self) -> bool:
        return not self.written

    def confirm(self, mark: int) -> None:
        assert mark == 1

    def write_again(self) -> None:
        self.again = True


@pytest.mark.parametrize("knows", [True, False], ids=["noted at the start", "never seen before"])
def test_what_was_written_before_the_first_look_is_written_again_only_to_a_redis_that_was_not_known(
    settings: Settings, knows: bool
) -> None:
    # given a worker that has noted at its start which process Redis is, or has not
    settler = _Written()
    settled: dict[TopicPartition, int] = {}
    with redis.Redis.from_url(settings.redis) as client:
        durability = Durability(client, lambda: settled, cast(Settler, settler))
        if knows:
            durability.begin()

        # when it has settled tasks, and looks for the first time what is on disk
        settled[TopicPartition("some", 0)] = 7
        settler.written = True
        durability.refresh()

    # then it offers their offsets, or begins again with what it has decided
    assert (knows, not knows) == (durability.durable == settled, settler.again)
    assert settler.again == durability.restarted.is_set()
