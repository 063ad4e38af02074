"""Time limits, processes that crash, the event loop, workers that leave by themselves, and tasks that kill workers."""

from __future__ import annotations

import signal
from pathlib import Path

import httpx
import pytest

import nexusq_sdk
from nexusq_sdk.protocol import ids
from tests.asking import StartWorker, ended, has_status, submit, view
from tests.conftest import Addresses, WorkerProcess, eventually


def runs(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


@pytest.mark.parametrize("task_type", ["LINGER", "SPIN", "DOZE"])
def test_a_task_beyond_its_limit_fails_in_a_thread_a_process_and_on_the_event_loop(
    http: httpx.Client, tmp_path: Path, task_type: str
) -> None:
    # given a handler that would run for ever, even one that listens to nobody
    task_id = submit(http, task_type, {"path": str(tmp_path / "notes")}, timeoutSeconds=0.3)

    # when its limit has passed
    task = ended(http, task_id)

    # then it has failed, saying so
    assert ("FAILED", "TimeLimitExceeded") == (task["status"], task["error"]["type"].rpartition(".")[2])
    assert "within its time limit of 0.3 s" in task["error"]["message"]


def test_a_task_beyond_its_limit_is_tried_again_where_it_has_attempts(http: httpx.Client, tmp_path: Path) -> None:
    options = {"timeoutSeconds": 0.1, "maxAttempts": 3, "backoff": {"initialSeconds": 0.01}}

    task = ended(http, submit(http, "DOZE", {"path": str(tmp_path / "notes")}, **options))

    assert ("FAILED", 3) == (task["status"], task["attempt"])
    assert ["started", "left"] * 3 == runs(tmp_path / "notes")


def test_a_task_within_its_limit_is_left_alone(http: httpx.Client, tmp_path: Path) -> None:
    task_id = submit(http, "DOZE", {"path": str(tmp_path / "notes"), "seconds": 0.05}, timeoutSeconds=60)

    assert 0.05 == ended(http, task_id)["result"]


def test_a_process_that_dies_fails_that_attempt_alone_and_the_pool_heals(
    http: httpx.Client, queue: str, start_worker: StartWorker
) -> None:
    # given a worker with one process
    worker = start_worker(queue, NEXUSQ_PROCESSES="1")
    served = [ended(http, submit(http, "PIDS", {}, queue=queue))["result"]]

    for how, said in (("exit", "exit code 7"), ("segfault", "SIGSEGV"), ("kill", "SIGKILL (out of memory?)")):
        # when a handler takes the process down, and at its second attempt does not
        crashed = submit(http, "CRASH", {"how": how}, queue=queue)
        options = {"maxAttempts": 2, "backoff": {"initialSeconds": 0.01}}
        healed = submit(http, "CRASH", {"how": how, "until": 2}, queue=queue, **options)

        # then that attempt failed as WorkerLost, saying how, and what comes after it runs in a new process
        task = ended(http, crashed)
        assert ("FAILED", "WorkerLost", 1) == (task["status"], task["error"]["type"], task["attempt"])
        assert said in task["error"]["message"]
        assert "survived" == ended(http, healed)["result"]
        served.append(ended(http, submit(http, "PIDS", {}, queue=queue))["result"])
    assert 4 == len(set(served))
    assert worker.process.poll() is None


def test_the_death_of_a_process_can_be_named_in_retry_on(http: httpx.Client) -> None:
    # CRASH has no rules of its own, so any failure is tried again
    options = {"maxAttempts": 3, "backoff": {"initialSeconds": 0.01}}

    task = ended(http, submit(http, "CRASH", {"how": "exit"}, **options))

    assert ("FAILED", 3, {"WorkerLost"}) == (
        task["status"],
        task["attempt"],
        {entry["type"] for entry in task["history"]},
    )


def test_a_process_is_replaced_after_as_many_tasks_as_are_set(
    client: nexusq_sdk.Client, queue: str, start_worker: StartWorker
) -> None:
    # given a worker whose only process ends after three tasks
    start_worker(queue, NEXUSQ_PROCESSES="1", NEXUSQ_RECYCLE_TASKS="3")

    # when nine have run in it
    served = list(client.submit_batch("PIDS", [{}] * 9, queue=queue).results(timeout=60))

    # then three processes have served three each
    assert [3, 3, 3] == sorted(served.count(pid) for pid in set(served))


def test_async_handlers_run_many_at_once(
    client: nexusq_sdk.Client, queue: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    # given a worker with one thread
    start_worker(queue, NEXUSQ_CONCURRENCY="1", NEXUSQ_ASYNC_CONCURRENCY="60")

    # when sixty async tasks wait for each other's sake
    batch = client.submit_batch("DOZE", [{"path": str(tmp_path / "notes"), "seconds": 3}] * 60, queue=queue)

    # then all of them are under way before the first one has ended
    def all_begun() -> None:
        assert 60 == runs(tmp_path / "notes").count("started")

    eventually(all_begun)
    assert 0 == runs(tmp_path / "notes").count("left")
    batch.wait(timeout=30)
    assert 60 == batch.counts()["COMPLETED"]


def leaves_cleanly(worker: WorkerProcess) -> None:
    assert 0 == worker.process.poll()


def test_a_worker_leaves_after_as_many_tasks_as_are_set_and_the_next_one_goes_on(
    client: nexusq_sdk.Client, queue: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    # given a worker that is to leave after fifty tasks, and six hundred of them
    ledger = tmp_path / "ledger"
    batch = client.submit_batch(
        "LEDGER", [{"path": str(ledger), "line": str(row), "seconds": 0.02} for row in range(600)], queue=queue
    )
    worker = start_worker(queue, NEXUSQ_MAX_TASKS="50")
    eventually(lambda: leaves_cleanly(worker))
    assert 50 <= len(runs(ledger)) < 600

    # when another one comes
    start_worker(queue)
    batch.wait(timeout=30)

    # then each task has run once
    assert sorted(map(str, range(600))) == sorted(runs(ledger))


def test_a_worker_leaves_after_its_lifetime_and_lets_what_runs_end(
    http: httpx.Client, queue: str, start_worker: StartWorker
) -> None:
    # Long enough for a slow machine to see it register; the task runs beyond it all the same.
    worker = start_worker(queue, NEXUSQ_MAX_LIFETIME="8s")
    task_id = submit(http, "SLEEP", {"seconds": 9}, queue=queue)

    eventually(lambda: leaves_cleanly(worker))

    task = ended(http, task_id)
    assert ("COMPLETED", 1) == (task["status"], task["attempt"])


# Of one name in its Kafka group, the next worker takes the dead one's place at once.
def dies(worker: WorkerProcess) -> None:
    try:
        assert -signal.SIGKILL == worker.process.wait(30)
    finally:
        worker.process.kill()


def test_a_task_that_kills_its_workers_is_run_alone_and_ends_as_a_dead_letter(
    client: nexusq_sdk.Client,
    http: httpx.Client,
    cluster: Addresses,
    queue: str,
    start_worker: StartWorker,
    tmp_path: Path,
) -> None:
    # given a task that kills whatever it runs in, and others behind it
    ledger = tmp_path / "ledger"
    poison = submit(http, "POISON", {"path": str(ledger)}, queue=queue)
    others = client.submit_batch("ECHO", range(50), queue=queue)

    # when two workers have died of it, each started after the other, and a third one comes
    for number in range(2):
        dies(WorkerProcess(cluster, queue, tmp_path / f"victim-{number}.log", NEXUSQ_GROUP_INSTANCE=queue))
    survivor = start_worker(queue, NEXUSQ_GROUP_INSTANCE=queue)

    # then that runs it in a process of its own, where it takes down nobody else
    task = ended(http, poison)
    assert ("FAILED", "WorkerLost") == (task["status"], task["error"]["type"])
    assert 3 == len(set(runs(ledger)))
    assert poison in [letter["taskId"] for letter in http.get("/dead-letters?type=POISON").json()["deadLetters"]]
    others.wait(timeout=30)
    assert 50 == others.counts()["COMPLETED"]
    assert survivor.process.poll() is None


def test_a_task_is_given_up_after_as_many_claims_as_are_set(
    http: httpx.Client, cluster: Addresses, queue: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    # given a task that kills its worker, which is given up after one claim
    ledger = tmp_path / "ledger"
    poison = submit(http, "POISON", {"path": str(ledger)}, queue=queue)
    dies(WorkerProcess(cluster, queue, tmp_path / "victim.log", NEXUSQ_GROUP_INSTANCE=queue))

    # when another worker claims it
    start_worker(queue, NEXUSQ_MAX_DELIVERIES="1", NEXUSQ_GROUP_INSTANCE=queue)

    # then it does not run again
    task = ended(http, poison)
    assert ("FAILED", "WorkerLost") == (task["status"], task["error"]["type"])
    assert "claimed 1 times" in task["error"]["message"]
    assert 1 == len(runs(ledger))


def test_a_task_handed_back_at_a_stop_is_not_charged_for_it(
    http: httpx.Client, queue: str, start_worker: StartWorker
) -> None:
    # given a task that runs for longer than its worker will wait
    worker = start_worker(queue, NEXUSQ_GRACE="200ms")
    task_id = submit(http, "SLEEP", {"seconds": 1}, queue=queue)
    eventually(has_status(http, task_id, "IN_PROGRESS"))

    # when the worker is stopped
    assert 0 == worker.kill(signal.SIGTERM)

    # then it waits for the next one as if it had not begun, which runs it as its first attempt
    assert "QUEUED" == view(http, task_id)["status"]
    start_worker(queue)
    task = ended(http, task_id)
    assert ("COMPLETED", 1) == (task["status"], task["attempt"])


def test_what_a_submit_says_of_its_limit_goes_before_what_the_type_says(client: nexusq_sdk.Client) -> None:
    # given a type with a limit of a tenth of a second
    with pytest.raises(nexusq_sdk.TaskFailed, match="time limit of 0.1 s"):
        client.submit("BRISK", {"seconds": 5}).result(timeout=30)

    assert client.submit("BRISK", {"seconds": 0.3}, timeout=30).result(timeout=30)
    assert ids.is_id(client.submit("BRISK", {"seconds": 0.0}).id)
