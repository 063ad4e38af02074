"""joblib and scikit-learn on the workers."""

from __future__ import annotations

from typing import Any

import joblib
import numpy as np
import pytest
import redis
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

import nexusq_sdk
import nexusq_sdk.joblib_backend
from nexusq_sdk import Status


@pytest.mark.timeout(400)  # a worker's processes load scikit-learn first, which takes its time on a busy machine
def test_a_grid_search_runs_on_the_workers_and_finds_what_it_finds_here(client: nexusq_sdk.Client) -> None:
    # given a search
    x, y = load_iris(return_X_y=True)
    search = GridSearchCV(LogisticRegression(max_iter=500), {"C": [0.1, 1.0]}, cv=3, n_jobs=-1, error_score="raise")
    here = search.set_params(n_jobs=1).fit(x, y)
    scores = here.cv_results_["mean_test_score"]

    # when it runs there
    with joblib.parallel_config("nexusq", client=client):
        there = search.set_params(n_jobs=-1).fit(x, y)

    # then it found the same, and it did run there
    assert here.best_params_ == there.best_params_
    np.testing.assert_allclose(scores, there.cv_results_["mean_test_score"])
    assert len(client.tasks(task_type="call:run_batch", status=Status.COMPLETED)) > 0


def test_results_come_in_their_order(client: nexusq_sdk.Client) -> None:
    with client.joblib(executor="thread"):
        assert [n**2 for n in range(50)] == joblib.Parallel(n_jobs=3)(joblib.delayed(pow)(n, 2) for n in range(50))


def test_what_a_call_raises_is_raised_and_the_rest_is_dropped(client: nexusq_sdk.Client) -> None:
    with client.joblib(executor="thread"), pytest.raises(ZeroDivisionError) as caught:
        joblib.Parallel(n_jobs=2)(joblib.delayed(divmod)(1, n) for n in (1, 0, 2))

    assert isinstance(caught.value, nexusq_sdk.TaskFailed)


def test_a_large_array_travels_once(client: nexusq_sdk.Client, redis_client: redis.Redis) -> None:
    data = np.random.default_rng(7).random(100_000)

    def total(values: Any, factor: int) -> float:
        return float(values.sum()) * factor

    before = set(redis_client.scan_iter("nexusq:blob:*"))
    with client.joblib(executor="thread"):
        sums = joblib.Parallel(n_jobs=4)(joblib.delayed(total)(data, factor) for factor in range(6))
    after = set(redis_client.scan_iter("nexusq:blob:*"))

    np.testing.assert_allclose([float(data.sum()) * factor for factor in range(6)], sums)
    assert 1 == len(after - before)


def test_all_jobs_are_the_places_of_the_workers(client: nexusq_sdk.Client) -> None:
    backend = nexusq_sdk.joblib_backend.NexusQBackend(client=client)
    threads = nexusq_sdk.joblib_backend.NexusQBackend(client=client, executor="thread")
    workers = client.workers()

    places = int(workers["processes"].sum())
    assert int(workers["concurrency"].sum()) == threads.effective_n_jobs(-1)
    assert (places, max(1, places - 1), 3, 1) == tuple(backend.effective_n_jobs(n) for n in (-1, -2, 3, None))
    with pytest.raises(ValueError, match="n_jobs == 0"):
        backend.effective_n_jobs(0)
