"""A joblib backend: `joblib.Parallel`, and with it scikit-learn's ``n_jobs``, on the workers.

Loaded with joblib only, which NexusQ does not need otherwise. ``import nexusq_sdk.joblib_backend`` registers it;
`Client.joblib` does that too and chooses it. joblib calls the backend from one thread, its callbacks come from the
executor's.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import joblib
from joblib.parallel import AutoBatchingMixin, ParallelBackendBase, SequentialBackend

from nexusq_sdk.client import Client, recent
from nexusq_sdk.executor import TaskExecutor
from nexusq_sdk.protocol.calls import run_batch

NAME = "nexusq"


class NexusQBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]  # joblib has no types
    """What joblib asks for each `Parallel`.

    Parameters
    ----------
    client : Client, optional
        Whose workers to use; otherwise those of the client that was made last.
    executor : {"process", "thread"}
        Where a worker runs the calls.
    **options
        As for `Client.submit`: ``queue``, ``priority``, ``timeout``, ...

    Examples
    --------
    >>> with joblib.parallel_config("nexusq", client=client):  # doctest: +SKIP
    ...     GridSearchCV(model, grid, n_jobs=-1).fit(X, y)
    """

    supports_retrieve_callback = True
    uses_threads = False
    supports_sharedmem = False
    default_n_jobs = -1

    def __init__(
        self,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
        client: Client | None = None,
        executor: str = "process",
        **options: Any,
    ) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        self._client = client or recent()
        self._kind = executor
        self._options = options
        self._executor: TaskExecutor | None = None

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Give how many calls run at once: for -1 the places of all live workers, for -2 one less, and so on."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        if n_jobs > 0:
            return n_jobs
        return max(1, self._places() + 1 + n_jobs)

    def configure(self, n_jobs: int = 1, parallel: Any = None, **_: Any) -> int:
        """Make ready for a `Parallel`."""
        self.parallel = parallel
        jobs = self.effective_n_jobs(n_jobs)
        self._executor = self._client.executor(executor=self._kind, **self._options)  # type: ignore[arg-type]
        return jobs

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], None] | None = None) -> Any:
        """Have a batch of calls made on a worker."""
        assert self._executor is not None
        # As an argument: large arrays in it then travel once for all batches, and nothing has to be kept for it.
        future = self._executor.submit(run_batch, func)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, out: Any) -> Any:
        """Give what a batch returned, or raise what it raised."""
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancel what is left, since one call has failed."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._executor = None
        if ensure_ready:
            self.configure(n_jobs=self.parallel.n_jobs, parallel=self.parallel)

    def terminate(self) -> None:
        """Let go of the executor; the client stays open."""
        if self._executor is not None:
            self._executor.shutdown(wait=False)
            self._executor = None

    def get_nested_backend(self) -> tuple[Any, int | None]:
        """Run what a call itself would run in parallel one after another: it has one worker's place."""
        return SequentialBackend(nesting_level=(self.nesting_level or 0) + 1), None

    def _places(self) -> int:
        workers = self._client._connection.workers().workers
        apart = self._kind == "process"
        places = sum(worker.processes if apart else worker.concurrency for worker in workers)
        if not places:
            warnings.warn("no worker is alive: the calls wait until one is", stacklevel=2)
        return max(1, places)


@contextlib.contextmanager
def parallel_on(client: Client, **options: Any) -> Iterator[Any]:
    """Have joblib use the workers of `client` within a ``with`` block: what `Client.joblib` gives."""
    with joblib.parallel_config(NAME, client=client, **options) as config:
        yield config


joblib.register_parallel_backend(NAME, NexusQBackend)
