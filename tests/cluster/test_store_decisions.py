"""What the state scripts decide about delayed, retried and stuck tasks: each transition, and each refusal."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
import redis

from nexusq_server.clock import now_us
from nexusq_server.settings import load_settings
from nexusq_server.states import (
    ALONE,
    DROPPED,
    GIVEN_UP,
    LATER,
    LOST,
    SETTLED,
    SKIP,
    USUAL,
    DueTask,
    NewTask,
    Outcome,
    Unusual,
)
from nexusq_server.store import Store
from tests.asking import claim, own_store
from tests.cluster.test_store import LEASE, answers, new_task, outcome, state

HOUR = 3600 * 1_000_000
FAILURE = '{"type":"ValueError","message":"no"}'


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, redis.Redis]]:
    with own_store(tmp_path_factory.mktemp("redis")) as found:
        yield found


@pytest.fixture(scope="module")
def store(own: tuple[Store, redis.Redis]) -> Store:
    return own[0]


@pytest.fixture(scope="module")
def redis_client(own: tuple[Store, redis.Redis]) -> redis.Redis:
    return own[1]


@pytest.fixture
def worker(store: Store) -> Iterator[str]:
    """Name a worker that lives."""
    name = f"test-{secrets.token_hex(4)}"
    store.renew_lease(name, LEASE, {"queues": "none"}, [])
    yield name
    store.end_lease(name)


def scheduled(task: NewTask, attempt: int = 1, due_us: int | None = None) -> Outcome:
    """Say that an attempt failed and that there is another one, in an hour unless said."""
    due = now_us() + HOUR if due_us is None else due_us
    failed = outcome(task, attempt, "SCHEDULED", FAILURE)
    return failed._replace(due_us=str(due), history=f'{{"attempt":{attempt}}}')


def due(client: redis.Redis, task: NewTask) -> float | None:
    return client.zscore("nexusq:due", task.task_id)


def dies(store: Store, *claimed: tuple[NewTask, int]) -> list[tuple[int, Unusual]]:
    """Let a worker claim tasks and die of nothing that it had started."""
    name = f"dead-{secrets.token_hex(4)}"
    store.renew_lease(name, LEASE, {"queues": "none"}, [])
    claims = claim(store, name, list(claimed))
    store.end_lease(name)
    return claims


def as_due(task: NewTask, record: int) -> DueTask:
    return DueTask(task.task_id, task.task_type, task.payload, task.queue, task.priority, task.options, record)


def counts(client: redis.Redis, batch: str) -> dict[str, int]:
    fields = client.hgetall(f"nexusq:batch:{batch}")
    return {name: int(value) for name, value in fields.items() if name.isupper() and value != "0"}


# Delays


def test_a_delayed_task_is_scheduled_and_put_into_the_due_set_by_who_polls_it(
    store: Store, redis_client: redis.Redis, worker: str
) -> None:
    # given a task that is due in an hour
    task = new_task(due_us=now_us() + HOUR)
    store.submit([task])
    assert ("SCHEDULED", None) == (state(redis_client, task)["status"], due(redis_client, task))

    # when its record is polled
    assert [SKIP] == answers(claim(store, worker, [(task, 1)]))

    # then the due set has it, and no delivery was counted
    assert float(task.due_us or 0) == due(redis_client, task)
    assert "SCHEDULED" == state(redis_client, task)["status"]
    assert "deliveries" not in state(redis_client, task)
    redis_client.zrem("nexusq:due", task.task_id)


def test_a_delayed_task_that_redis_does_not_know_is_scheduled_by_its_record(
    store: Store, redis_client: redis.Redis, worker: str
) -> None:
    task = new_task(due_us=now_us() + HOUR)

    assert [SKIP] == answers(claim(store, worker, [(task, 1)]))

    assert ("SCHEDULED", float(task.due_us or 0)) == (state(redis_client, task)["status"], due(redis_client, task))
    redis_client.zrem("nexusq:due", task.task_id)


def test_a_delayed_task_whose_time_has_come_is_claimed_and_leaves_the_due_set(
    store: Store, redis_client: redis.Redis, worker: str
) -> None:
    # given a task in the due set whose record comes late
    task = new_task(due_us=now_us() + HOUR)
    claim(store, worker, [(task, 1)])
    redis_client.hset(f"nexusq:task:{task.task_id}", "dueUs", now_us() - 1)

    assert [1] == answers(claim(store, worker, [(task, 1)]))

    assert due(redis_client, task) is None


# Retries


def test_a_failed_attempt_waits_in_the_due_set_with_its_history(
    store: Store, redis_client: redis.Redis, worker: str
) -> None:
    task = new_task()
    claim(store, worker, [(task, 1)])
    again = scheduled(task)

    assert [SETTLED] == store.settle(worker, [again])

    kept = state(redis_client, task)
    assert ("SCHEDULED", "2", "0", '[{"attempt":1}]') == tuple(
        kept[name] for name in ("status", "record", "deliveries", "history")
    )
    assert float(again.due_us or 0) == due(redis_client, task)
    assert -1 == redis_client.ttl(f"nexusq:task:{task.task_id}")
    redis_client.zrem("nexusq:due", task.task_id)


def test_the_older_record_of_a_retried_task_is_skipped_and_the_newer_one_claimed(store: Store, worker: str) -> None:
    # given a task whose first attempt failed and whose second one is due
    task = new_task()
    claim(store, worker, [(task, 1)])
    store.settle(worker, [scheduled(task, due_us=now_us() - 1)])

    # then its first record, read again, is skipped, and its second one is an attempt
    assert [SKIP] == answers(claim(store, worker, [(task, 1)]))
    assert [2] == answers(claim(store, worker, [(task, 2)]))


def test_a_retry_whose_settling_redis_has_lost_is_settled_again(
    store: Store, redis_client: redis.Redis, worker: str
) -> None:
    # given a task of which Redis remembers the wait before attempt 2, and not that it was claimed since
    task = new_task()
    claim(store, worker, [(task, 1)])
    store.settle(worker, [scheduled(task)])

    assert [LOST] == store.settle(worker, [outcome(task, attempt=2)])
    assert [DROPPED] == store.settle(worker, [outcome(task, attempt=1)])
    redis_client.zrem("nexusq:due", task.task_id)


def test_an_outcome_that_is_written_again_after_its_retry_was_promoted_is_dropped(
    store: Store, redis_client: redis.Redis, worker: str
) -> None:
    # given a task whose first attempt failed, and whose second one Kafka has
    task = new_task()
    claim(store, worker, [(task, 1)])
    failed = scheduled(task, due_us=now_us() - 1)
    store.settle(worker, [failed])
    store.promote([as_due(task, 2)])

    # then the first outcome, written again since it may have been lost, is known
    assert [DROPPED] == store.settle(worker, [failed])
    assert ("QUEUED", '[{"attempt":1}]') == tuple(state(redis_client, task)[field] for field in ("status", "history"))

    # and an outcome of the second attempt is one whose claim was lost
    assert [LOST] == store.settle(worker, [outcome(task, attempt=2)])


def test_the_record_of_a_retry_is_that_attempt_even_if_redis_has_lost_the_failure_before_it(
    store: Store, redis_client: redis.Redis, worker: str
) -> None:
    # given a claim from which on Redis forgot everything, also that the attempt failed and the next one is in Kafka
    task = new_task()
    claim(store, worker, [(task, 1)])

    # then the record of the second attempt is the second attempt
    assert [2] == answers(claim(store, worker, [(task, 2)]))

    # and the outcome of the first, written again, is dropped
    assert [DROPPED] == store.settle(worker, [scheduled(task)])
    assert [SETTLED] == store.settle(worker, [outcome(task, attempt=2)])
    assert "2" == state(redis_client, task)["attempt"]


# Due tasks


def test_what_is_due_is_taken_once_and_again_if_its_taker_dies(
    store: Store, redis_client: redis.Redis, worker: str
) -> None:
    # given a retry that is due, and one that is not
    now, later = new_task(queue="q7", priority="high", options=b'{"maxAttempts":3}'), new_task()
    claim(store, worker, [(now, 1), (later, 1)])
    store.settle(worker, [scheduled(now, due_us=now_us() - 1), scheduled(later)])

    # when it is taken twice, and once more when its taker's time is over
    assert [as_due(now, 2)] == store.take_due(1000)
    assert [] == store.take_due(1000)
    redis_client.zadd("nexusq:due", {now.task_id: now_us() - 1})

    # then the next one has it
    assert [as_due(now, 2)] == store.take_due(1000)
    assert 2 == store.promote([as_due(now, 2), as_due(later, 2)])


def test_no_more_is_taken_than_is_asked_for(store: Store, worker: str) -> None:
    tasks = [new_task() for _ in range(5)]
    claim(store, worker, [(task, 1) for task in tasks])
    store.settle(worker, [scheduled(task, due_us=1000 + row) for row, task in enumerate(tasks)])

    assert [as_due(task, 2) for task in tasks[:2]] == store.take_due(2)
    assert [as_due(task, 2) for task in tasks[2:]] == store.take_due(9)


def test_what_was_cancelled_is_not_taken_but_leaves_the_due_set(store: Store, redis_client: redis.Redis) -> None:
    task = new_task(due_us=now_us() + HOUR)
    store.submit([task])
    store.cancel([task.task_id])
    redis_client.zadd("nexusq:due", {task.task_id: 1})

    assert task.task_id not in [found.task_id for found in store.take_due(1000)]

    assert due(redis_client, task) is None


def test_promote_marks_what_kafka_has_and_leaves_alone_what_was_claimed_or_has_ended(
    store: Store, redis_client: redis.Redis, worker: str
) -> None:
    # given four tasks that were produced: one waits, one was claimed, one has ended, one is unknown
    waits, claimed, ended, unknown = (new_task(due_us=now_us() + HOUR) for _ in range(4))
    store.submit([waits, claimed, ended])
    for task in (claimed, ended):
        redis_client.hset(f"nexusq:task:{task.task_id}", "dueUs", 1)
    claim(store, worker, [(claimed, 1), (ended, 1)])
    store.settle(worker, [outcome(ended)])
    for task in (waits, claimed, ended, unknown):
        redis_client.zadd("nexusq:due", {task.task_id: now_us() + HOUR})

    assert 1 == store.promote([as_due(task, 1) for task in (waits, claimed, ended, unknown)])

    assert ["QUEUED", "IN_PROGRESS", "COMPLETED"] == [
        state(redis_client, task)["status"] for task in (waits, claimed, ended)
    ]
    assert "dueUs" not in state(redis_client, waits)
    assert {} == state(redis_client, unknown)
    assert [None] * 4 == [due(redis_client, task) for task in (waits, claimed, ended, unknown)]
    assert [1] == answers(claim(store, worker, [(waits, 1)]))


def test_promote_leaves_alone_what_has_failed_again_since_it_was_produced(
    store: Store, redis_client: redis.Redis, worker: str
) -> None:
    # given a task whose record 1 was produced, which a quick worker has claimed, failed at and given another attempt
    task = new_task()
    claim(store, worker, [(task, 1)])
    store.settle(worker, [scheduled(task)])

    # when whoever produced record 1 says so
    assert 0 == store.promote([as_due(task, 1)])

    # then record 2 is still to be produced
    assert "SCHEDULED" == state(redis_client, task)["status"]
    assert due(redis_client, task) is not None
    assert 1 == store.promote([as_due(task, 2)])


# Deliveries


def test_right_after_redis_has_started_no_worker_is_taken_for_dead(
    store: Store, redis_client: redis.Redis, worker: str
) -> None:
    # given a task whose worker has no lease, as after a restart of Redis that lasted longer than leases do
    task = new_task()
    dies(store, (task, 1))

    # then one who believes in leases of a day comes back later, and one who believes in short ones takes over
    with redis.Redis(port=redis_client.connection_pool.connection_kwargs["port"]) as raw:
        patient = Store(raw, load_settings(lease="1d"))
        assert [LATER] == answers(claim(patient, worker, [(task, 1)]))
    assert [1] == answers(claim(store, worker, [(task, 1)]))


def test_a_task_that_was_claimed_often_without_an_end_is_run_alone_then_given_up(store: Store, worker: str) -> None:
    # given a task whose workers die
    task = new_task()
    store.submit([task])
    hows = [dies(store, (task, 1))[0] for _ in range(10)]

    # when another one claims it
    [last] = claim(store, worker, [(task, 1)])

    # then it was run as usual twice, then alone, and after ten deliveries given up, with no attempt charged
    assert [USUAL] * 2 + [ALONE] * 8 == [how.how for _, how in hows]
    assert (1, Unusual(0, GIVEN_UP, 11)) == last
    assert {1} == {answer for answer, _ in hows}


def test_deliveries_are_counted_from_the_start_for_each_attempt(store: Store, worker: str) -> None:
    # given a task that was delivered twice and then ended its attempt
    task = new_task()
    dies(store, (task, 1))
    dies(store, (task, 1))
    assert [(1, Unusual(0, ALONE, 3))] == claim(store, worker, [(task, 1)])
    store.settle(worker, [scheduled(task, due_us=now_us() - 1)])

    assert [(2, Unusual())] == claim(store, worker, [(task, 2)])


# Room


def test_no_more_is_claimed_than_there_is_room_for_and_what_is_behind_that_is_not_looked_at(
    store: Store, redis_client: redis.Redis, worker: str
) -> None:
    # given tasks of which every other one was cancelled
    tasks = [new_task() for _ in range(1200)]
    store.submit(tasks)
    store.cancel([task.task_id for task in tasks[:1100:2]])

    # when two are asked for, and when the room is in the next chunk
    assert [SKIP, 1, SKIP, 1] == answers(claim(store, worker, [(task, 1) for task in tasks], 2))
    later = answers(claim(store, worker, [(task, 1) for task in tasks[4:]], 600))

    # then all others are as they were
    assert (600, 1) == (sum(answer > 0 for answer in later), later[-1])
    assert "IN_PROGRESS" == state(redis_client, tasks[3 + len(later)])["status"]
    assert {"QUEUED"} == {state(redis_client, task)["status"] for task in tasks[4 + len(later) :]}
    assert len(later) < 1196
