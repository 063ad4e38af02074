"""What the state scripts decide about tasks handed back, cancelled, taken back or parked; batches' counters."""

from __future__ import annotations

import collections
import secrets
from collections.abc import Iterator

import pytest
import redis
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from nexusq_sdk.protocol import ids
from nexusq_server.clock import now_us
from nexusq_server.settings import Settings
from nexusq_server.states import LATER, SETTLED, SKIP, Unusual
from nexusq_server.store import Store
from tests.asking import claim, close_batch, own_store
from tests.cluster.test_store import LEASE, answers, new_task, outcome, state
from tests.cluster.test_store_decisions import FAILURE, HOUR, as_due, counts, dies, due, scheduled


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


# Handing back


def test_a_task_that_is_handed_back_is_queued_again_uncharged(
    store: Store, redis_client: redis.Redis, worker: str
) -> None:
    task = new_task()
    claim(store, worker, [(task, 1)])

    assert 1 == store.hand_back(worker, [(task.task_id, 1)])

    kept = state(redis_client, task)
    assert ("QUEUED", "0", "0") == (kept["status"], kept["attempt"], kept["deliveries"])
    assert [(1, Unusual())] == claim(store, worker, [(task, 1)])


def test_what_is_not_ones_own_can_not_be_handed_back(store: Store, redis_client: redis.Redis, worker: str) -> None:
    # given a task that another worker runs, one at another attempt, one that has ended, one that is unknown
    others, newer, ended, unknown = (new_task() for _ in range(4))
    name = f"other-{secrets.token_hex(4)}"
    store.renew_lease(name, LEASE, {"queues": "none"}, [])
    claim(store, name, [(others, 1)])
    claim(store, worker, [(newer, 2), (ended, 1)])
    store.settle(worker, [outcome(ended)])

    assert 0 == store.hand_back(worker, [(task.task_id, 1) for task in (others, newer, ended, unknown)])

    assert ["IN_PROGRESS", "IN_PROGRESS", "COMPLETED"] == [
        state(redis_client, task)["status"] for task in (others, newer, ended)
    ]
    assert [LATER] == answers(claim(store, worker, [(others, 1)]))
    store.end_lease(name)


def test_a_cancelled_task_that_is_handed_back_ends_as_cancelled(
    store: Store, redis_client: redis.Redis, worker: str
) -> None:
    task = new_task()
    claim(store, worker, [(task, 1)])
    store.cancel([task.task_id])

    assert 1 == store.hand_back(worker, [(task.task_id, 1)])

    assert "CANCELLED" == state(redis_client, task)["status"]
    assert redis_client.ttl(f"nexusq:task:{task.task_id}") > 0


# Cancelling


def test_cancel_ends_what_waits_tells_the_worker_of_what_runs_and_leaves_alone_what_has_ended(
    store: Store, redis_client: redis.Redis, worker: str
) -> None:
    queued, delayed, running, ended, unknown = (new_task() for _ in range(5))
    delayed = delayed._replace(due_us=now_us() + HOUR)
    store.submit([queued, delayed])
    claim(store, worker, [(delayed, 1), (running, 1), (ended, 1)])
    store.settle(worker, [outcome(ended)])

    found = store.cancel([task.task_id for task in (queued, delayed, running, ended, unknown)])

    assert ["CANCELLED", "CANCELLED", "IN_PROGRESS", "COMPLETED", ""] == found
    assert [running.task_id] == store.cancels(worker)
    assert [] == store.cancels(worker)
    assert due(redis_client, delayed) is None
    assert [SKIP] * 2 == answers(claim(store, worker, [(queued, 1), (delayed, 1)]))


@pytest.mark.parametrize(
    ("status", "becomes"),
    [("SCHEDULED", "CANCELLED"), ("COMPLETED", "COMPLETED"), ("FAILED", "FAILED"), ("CANCELLED", "CANCELLED")],
)
def test_a_cancelled_task_is_not_tried_again_but_may_still_end_otherwise(
    store: Store, redis_client: redis.Redis, worker: str, status: str, becomes: str
) -> None:
    # given a task that was cancelled while it ran
    task = new_task()
    claim(store, worker, [(task, 1)])
    store.cancel([task.task_id])

    # when its attempt ends
    made = scheduled(task) if status == "SCHEDULED" else outcome(task, status=status, value=FAILURE)
    assert [SETTLED] == store.settle(worker, [made])

    # then that was its end
    assert becomes == state(redis_client, task)["status"]
    assert redis_client.ttl(f"nexusq:task:{task.task_id}") > 0
    assert due(redis_client, task) is None


def test_a_task_that_was_cancelled_while_its_worker_died_is_not_taken_over(
    store: Store, redis_client: redis.Redis, worker: str
) -> None:
    task = new_task()
    dies(store, (task, 1))
    store.cancel([task.task_id])

    assert [SKIP] == answers(claim(store, worker, [(task, 1)]))

    assert "CANCELLED" == state(redis_client, task)["status"]


def test_tasks_of_a_cancelled_batch_are_cancelled_by_the_claim_whether_redis_knows_them_or_not(
    store: Store, redis_client: redis.Redis, worker: str
) -> None:
    # given a batch of three, one of which never reached Redis, that is cancelled
    batch = ids.new_id()
    tasks = [new_task(ids.task_id(batch, row)) for row in range(3)]
    store.submit(tasks[:2])
    store.mark_batch_cancelled(batch)

    # when its records are polled
    assert [SKIP] * 3 == answers(claim(store, worker, [(task, 1) for task in tasks]))

    # then all are cancelled, and will expire
    assert {"CANCELLED": 3} == counts(redis_client, batch)
    for task in tasks:
        assert redis_client.ttl(f"nexusq:task:{task.task_id}") > 0


# Taking back


def test_requeue_takes_back_what_ended_so_and_nothing_else(
    store: Store, redis_client: redis.Redis, worker: str
) -> None:
    # given a failed task at its third attempt, a completed one, a running one and an unknown one
    failed, done, running, unknown = (new_task() for _ in range(4))
    claim(store, worker, [(failed, 3), (done, 1), (running, 1)])
    store.settle(worker, [outcome(failed, 3, "FAILED", FAILURE), outcome(done)])
    assert redis_client.zscore("nexusq:dead", failed.task_id)

    # when all are asked for
    assert 1 == store.requeue([task.task_id for task in (failed, done, running, unknown)], ["FAILED"])

    # then the failed one waits for a fourth attempt, its first three count no more, and it does not expire
    assert redis_client.zscore("nexusq:dead", failed.task_id) is None
    assert -1 == redis_client.ttl(f"nexusq:task:{failed.task_id}")
    assert not redis_client.exists(f"nexusq:gone:{failed.task_id}")
    assert [SKIP] == answers(claim(store, worker, [(failed, 3)]))
    assert [(4, Unusual(3))] == claim(store, worker, [(failed, 4)])
    assert 0 == store.requeue([failed.task_id], ["FAILED"])


def test_a_requeued_task_of_a_cancelled_batch_runs(store: Store, redis_client: redis.Redis, worker: str) -> None:
    # given a batch that was cancelled
    batch = ids.new_id()
    task = new_task(ids.task_id(batch, 0), batch_size=1)
    store.submit([task])
    store.mark_batch_cancelled(batch)
    store.cancel([task.task_id])
    assert "finishedUs" in redis_client.hgetall(f"nexusq:batch:{batch}")

    # when its task is taken back
    assert 1 == store.requeue([task.task_id], ["FAILED", "CANCELLED"])

    # then the batch is open again and its task may run
    assert "finishedUs" not in redis_client.hgetall(f"nexusq:batch:{batch}")
    assert -1 == redis_client.ttl(f"nexusq:batch:{batch}")
    assert [1] == answers(claim(store, worker, [(task, 1)]))


# Parking


def test_what_a_dead_worker_had_parked_is_given_as_it_is_to_be_produced_and_what_has_ended_is_not(
    store: Store,
) -> None:
    # given a worker that died after it had parked a task that runs and one that has ended
    runs, ended = new_task(priority="low"), new_task()
    name = f"dead-{secrets.token_hex(4)}"
    store.renew_lease(name, LEASE, {"queues": "none"}, [])
    claim(store, name, [(runs, 1), (ended, 1)])
    store.park(name, [runs.task_id, ended.task_id])
    store.settle(name, [outcome(ended)._replace(parked=True)])
    store.end_lease(name)

    # when it is looked for
    found = store.parked(name)

    # then the one is there, and once it is produced the worker is forgotten
    assert ([runs.task_id], [as_due(runs, 1)]) == found
    assert name in store.dead_workers()
    store.forget_worker(name, found[0])
    assert name not in store.dead_workers()


# Batches


class Batches(RuleBasedStateMachine):
    """Any sequence of verbs on a batch's tasks: its counters say what the tasks say, and so does its end."""

    store: Store
    client: redis.Redis
    where: Settings
    size = 4

    def __init__(self) -> None:
        super().__init__()
        self.batch = ids.new_id()
        self.tasks = [new_task(ids.task_id(self.batch, row)) for row in range(self.size)]
        self.tasks[-1] = self.tasks[-1]._replace(batch_size=self.size)
        self.workers = [f"test-{secrets.token_hex(4)}" for _ in range(2)]
        self.living: set[str] = set()
        self.ended: dict[str, str] = {}
        for name in self.workers:
            self.begin(name)

    rows = st.integers(0, size - 1)
    names = st.integers(0, 1)

    def begin(self, name: str) -> None:
        self.store.renew_lease(name, LEASE, {"queues": "none"}, [])
        self.living.add(name)

    @rule(row=rows, later=st.booleans())
    def submit(self, row: int, later: bool) -> None:
        self.store.submit([self.tasks[row]._replace(due_us=now_us() + HOUR if later else None)])

    @rule(rows=st.lists(rows, min_size=1, max_size=3, unique=True), name=names, record=st.integers(1, 3))
    def claim(self, rows: list[int], name: int, record: int) -> None:
        if self.workers[name] not in self.living:
            self.begin(self.workers[name])
        claim(self.store, self.workers[name], [(self.tasks[row], record) for row in rows])

    @rule(row=rows, name=names, status=st.sampled_from(["COMPLETED", "FAILED", "CANCELLED", "SCHEDULED"]))
    def settle(self, row: int, name: int, status: str) -> None:
        task = self.tasks[row]
        attempt = int(state(self.client, task).get("attempt", 1))
        made = scheduled(task, attempt) if status == "SCHEDULED" else outcome(task, attempt, status, FAILURE)
        self.store.settle(self.workers[name], [made])

    @rule(row=rows, name=names)
    def hand_back(self, row: int, name: int) -> None:
        attempt = int(state(self.client, self.tasks[row]).get("attempt", 1))
        self.store.hand_back(self.workers[name], [(self.tasks[row].task_id, attempt)])

    @rule(row=rows, record=st.integers(1, 3))
    def promote(self, row: int, record: int) -> None:
        self.store.promote([as_due(self.tasks[row], record)])

    @rule(row=rows)
    def cancel(self, row: int) -> None:
        self.store.cancel([self.tasks[row].task_id])

    @rule(row=rows)
    def requeue(self, row: int) -> None:
        name = self.tasks[row].task_id
        if self.store.requeue([name], ["FAILED", "CANCELLED"]):
            assert self.ended.pop(name) in {"FAILED", "CANCELLED"}

    @rule(name=names)
    def die(self, name: int) -> None:
        self.store.end_lease(self.workers[name])
        self.living.discard(self.workers[name])

    @rule()
    def cancel_all(self) -> None:
        if self.client.exists(f"nexusq:batch:{self.batch}"):
            self.store.mark_batch_cancelled(self.batch)

    @rule()
    def close(self) -> None:
        close_batch(self.where, self.batch, self.size)

    @invariant()
    def adds_up(self) -> None:
        states = [state(self.client, task) for task in self.tasks]
        statuses = collections.Counter(found["status"] for found in states if found)
        fields = self.client.hgetall(f"nexusq:batch:{self.batch}")
        assert statuses == counts(self.client, self.batch)
        ended = sum(statuses[name] for name in ("COMPLETED", "FAILED", "CANCELLED"))
        whole = fields.get("closed") == "1" and ended == self.size
        assert whole == ("finishedUs" in fields)
        if fields:
            assert (self.client.ttl(f"nexusq:batch:{self.batch}") > 0) == (ended >= int(fields.get("size", 0)))

    @invariant()
    def an_end_is_written_once(self) -> None:
        for task in self.tasks:
            found = state(self.client, task)
            status = found.get("status", "")
            if task.task_id in self.ended:
                assert self.ended[task.task_id] == status
            elif status in {"COMPLETED", "FAILED", "CANCELLED"}:
                self.ended[task.task_id] = status
            key = f"nexusq:task:{task.task_id}"
            assert (self.client.ttl(key) > 0) == (task.task_id in self.ended)
            if status != "SCHEDULED":
                assert due(self.client, task) is None

    def teardown(self) -> None:
        self.client.zrem("nexusq:due", *(task.task_id for task in self.tasks))
        for name in self.workers:
            self.store.end_lease(name)


def test_counters_add_up_after_any_sequence_of_verbs(
    store: Store, redis_client: redis.Redis, request: pytest.FixtureRequest
) -> None:
    machine = type(
        "OfThisStore",
        (Batches,),
        {"store": store, "client": redis_client, "where": request.getfixturevalue("settings")},
    )

    run_state_machine_as_test(machine, settings=settings(max_examples=60, stateful_step_count=30, deadline=None))
