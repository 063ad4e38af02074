"""How the peers' workers are started: one worker process each, logging warnings only."""

from __future__ import annotations

from benchmarks.stage import THREADS, Stage
from benchmarks.systems import System

_THREADS = str(THREADS)


def _peer(name: str, label: str, share: float, *worker: str) -> System:
    return System(
        label,
        "peer",
        "benchmarks.peers",
        lambda _: [name],
        lambda _: list(worker),
        share=share,
    )


def _dask_worker(stage: Stage) -> list[str]:
    # https://distributed.dask.org/en/stable/worker.html
    address = stage.dask
    return ["dask", "worker", address, "--nworkers", "1", "--nthreads", _THREADS, "--no-dashboard"]


PEERS = {
    # https://docs.celeryq.dev/en/stable/userguide/concurrency/: threads for what waits; gossip and mingle are for
    # clusters of many workers.
    "celery": _peer(
        "celery",
        "Celery",
        0.04,
        *("celery", "-A", "benchmarks.peers.with_celery", "worker", "--loglevel", "WARNING"),
        *("--pool", "threads", "--concurrency", _THREADS, "--without-gossip", "--without-mingle"),
    ),
    "rq": System(
        "RQ",
        "peer",
        "benchmarks.peers",
        lambda _: ["rq"],
        lambda stage: ["rq", "worker", "--worker-class", "rq.worker.SimpleWorker", "--quiet", "--url", stage.redis_url],
        share=0.02,
    ),
    "dramatiq": System(
        "Dramatiq",
        "peer",
        "benchmarks.peers",
        lambda _: ["dramatiq"],
        lambda _: ["dramatiq", "benchmarks.peers.with_dramatiq", "--processes", "1", "--threads", _THREADS],
        share=0.1,
        # https://dramatiq.io/advanced.html#queue-prefetch: the more it takes at once, the faster it is (measured: by a
        # half), and the more one worker keeps from others.
        environment={"dramatiq_queue_prefetch": "1000"},
    ),
    # https://huey.readthedocs.io/en/latest/consumer.html
    "huey": _peer(
        "huey",
        "Huey",
        0.1,
        *("huey_consumer", "benchmarks.peers.with_huey.huey", "-k", "thread", "-w", _THREADS, "-n", "-q"),
    ),
    # https://taskiq-python.github.io/guide/cli.html
    "taskiq": _peer(
        "taskiq",
        "Taskiq",
        0.1,
        *("taskiq", "worker", "benchmarks.peers.with_taskiq:broker", "--workers", "1", "--log-level", "WARNING"),
        *("--max-async-tasks", "32", "--max-prefetch", "32"),
    ),
    "saq": _peer("saq", "SAQ", 0.1, "saq", "benchmarks.peers.with_saq.settings"),
    "streaq": _peer("streaq", "streaQ", 0.1, "streaq", "run", "benchmarks.peers.with_streaq:worker"),
    "dask": System(
        "Dask (in memory)",
        "peer",
        "benchmarks.peers",
        lambda _: ["dask"],
        _dask_worker,
        keeps=False,
        share=0.05,
        # https://distributed.dask.org/en/stable/scheduling-policies.html
        server=lambda stage: [
            *("dask", "scheduler", "--host", "127.0.0.1", "--port", stage.dask.rsplit(":", 1)[1], "--no-dashboard"),
        ],
    ),
}
