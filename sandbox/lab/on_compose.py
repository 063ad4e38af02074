"""The lab on docker compose: a batch of mails, more workers, Kafka and a worker killed while a batch runs, a worker of
a user's own.
"""

from __future__ import annotations

import os
import time

import httpx

import nexusq_sdk
from sandbox import images, on_compose
from sandbox.lab.evidence import finish, judge, mailing, require, submit, wait_for
from sandbox.shell import ROOT, SandboxError, run, say

TASKS = 10_000
OVERRIDE = str(ROOT / "sandbox" / "lab_worker" / "compose.yaml")


def lab() -> None:
    """Run all of it; raise `SandboxError` where something is not as promised."""
    on_compose.down()
    say("== from nothing: nox -s sandbox -- --engine compose")
    on_compose.up(workers=1)
    urls = on_compose.urls()
    with nexusq_sdk.Client(urls.api) as client:
        say(f"== the tour's batch: {TASKS} mails, one worker")
        before = _redis_bytes()
        mailing(client, urls.mail, TASKS)
        say(f"  Redis holds {(_redis_bytes() - before) / TASKS:.0f} bytes more for each of them")
        _notebooks_answer(urls.jupyter, urls.token)

        say("== docker compose up --scale worker=3")
        os.environ["LAB_WORKER"] = images.build_from(
            "sandbox/lab_worker", "nexusq-lab-worker", "nexusq-sandbox:sandbox"
        )
        up = ("up", "--detach", "--no-build", "--wait")
        on_compose.compose(*up, "--scale", "worker=3", overrides=(OVERRIDE,))
        wait_for(lambda: len(client.workers()) == 3)
        say(f"  {len(client.workers())} workers")

        say(f"== a worker killed for good, then Kafka for 5 s, while {TASKS} tasks run")
        batch = submit(client, "compose-kills", TASKS, 0.02)
        wait_for(lambda: batch.frame()["worker"].nunique() == 3)
        run("docker", "kill", "nexusq-worker-2")
        say(f"  docker kill nexusq-worker-2, at {batch.counts()['COMPLETED']} done")
        wait_for(lambda: batch.counts()["COMPLETED"] > TASKS // 4)
        run("docker", "kill", "nexusq-kafka-1")
        say(f"  docker kill nexusq-kafka-1, at {batch.counts()['COMPLETED']} done")
        time.sleep(5)
        run("docker", "start", "nexusq-kafka-1")
        say(f"  docker start nexusq-kafka-1, at {batch.counts()['COMPLETED']} done")
        finish(batch)
        require(judge(batch, _ledger("compose-kills")), none_run_again=False)

        say("== Redis killed for 5 s while a batch runs")
        batch = submit(client, "compose-redis", TASKS // 2, 0.02)
        run("docker", "kill", "nexusq-redis-1")
        say("  docker kill nexusq-redis-1")
        time.sleep(5)
        run("docker", "start", "nexusq-redis-1")
        wait_for(lambda: bool(batch.counts()))
        say(f"  docker start nexusq-redis-1, at {batch.counts()['COMPLETED']} done")
        finish(batch)
        require(judge(batch, _ledger("compose-redis")), none_run_again=False)

        _own_worker(client)
    on_compose.compose("up", "--detach", "--no-build", "--wait", "--scale", "worker=1")
    say("== nox -s sandbox -- --engine compose --down")
    on_compose.down()
    left = run("docker", "ps", "--all", "--quiet", "--filter", "label=com.docker.compose.project=nexusq").split()
    left += run("docker", "volume", "ls", "--quiet", "--filter", "label=com.docker.compose.project=nexusq").split()
    say(f"  containers and volumes left: {len(left)}")
    if left:
        raise SandboxError(f"expected nothing to be left, got {left}")


def _own_worker(client: nexusq_sdk.Client) -> None:
    say("== a worker of one's own: FROM nexusq-worker, a package, a module")
    image = images.build_from("sandbox/own-worker", "my-worker", images.build_worker())
    settings = ("NEXUSQ_KAFKA=kafka:9092", "NEXUSQ_REDIS=redis://redis:6379/0", "NEXUSQ_QUEUES=sizes")
    environment = [word for setting in settings for word in ("--env", setting)]
    how = ("--detach", "--rm", "--read-only", "--tmpfs", "/tmp", "--name", "my-worker")  # noqa: S108 - in there
    run("docker", "run", *how, "--network", "nexusq_default", *environment, image)
    try:
        wait_for(lambda: "READABLE_SIZE" in set(client.workers()["task_types"].explode()))
        result = client.submit("READABLE_SIZE", {"size": 123_456_789}, queue="sizes").result(timeout=30)
        say(f"  READABLE_SIZE of 123456789 is {result!r}")
    finally:
        run("docker", "stop", "--time", "60", "my-worker")


def _redis_bytes() -> int:
    told = run("docker", "exec", "nexusq-redis-1", "redis-cli", "info", "memory")
    return int(next(line for line in told.split() if line.startswith("used_memory:")).partition(":")[2])


def _ledger(name: str) -> str:
    return on_compose.compose("exec", "-T", "jupyter", "sh", "-c", f"cat /shared/ledger/{name}/*")


def _notebooks_answer(url: str, token: str) -> None:
    answer = httpx.get(f"{url}/api/contents", params={"token": token}, timeout=20, trust_env=False).raise_for_status()
    names = sorted(entry["name"] for entry in answer.json()["content"])
    say(f"  JupyterLab has {', '.join(name for name in names if name.endswith('.ipynb'))}")
    say("  running tour.ipynb in it")
    command = "cd /notebooks && jupyter nbconvert --log-level WARN --to notebook --execute --output-dir /tmp tour.ipynb"
    on_compose.compose("exec", "-T", "jupyter", "sh", "-c", command)
