"""The lab on kind: from nothing to a batch, what pods may do, rolling restarts, forced deletes, scaling; each while a
batch runs.
"""

from __future__ import annotations

import json
import subprocess
import time

import nexusq_sdk
from sandbox import images, on_kind
from sandbox.images import Images
from sandbox.kubernetes import NAMESPACE, Cluster, is_ready
from sandbox.lab.evidence import Trickle, finish, judge, mailing, require, submit, wait_for
from sandbox.on_kind import CONTEXT, URLS
from sandbox.shell import SandboxError, last_lines, say

TASKS = 10_000
NOTEBOOKS = ("tour", "cleaning", "operating", "sweep")
SETTINGS = {"NEXUSQ_TASKS": "tour_tasks,cleaning_tasks,lab_tasks"}


class Lab:
    """The lab's steps, in their order."""

    def __init__(self, node_image: str | None) -> None:
        self._node_image = node_image
        self._cluster = Cluster(CONTEXT)
        self._client = nexusq_sdk.Client(URLS.api)

    def run(self) -> None:
        """Run all of it; raise `SandboxError` where something is not as promised."""
        on_kind.down()
        say("== from nothing: nox -s sandbox")
        on_kind.up(None, self._node_image)
        say("== nox -s sandbox again: nothing to do")
        on_kind.up(None, self._node_image)
        self._pods()
        self._network()
        say(f"== the tour's batch: {TASKS} mails, two workers")
        mailing(self._client, URLS.mail, TASKS)
        self._notebooks()
        say("== workers with the lab's handler")
        built = images.build()
        worker = images.build_from("sandbox/lab_worker", "nexusq-lab-worker", built.sandbox)
        self._images = Images(built.api, built.sandbox, worker)
        images.load(self._images, CONTEXT)
        self._cluster.apply(self._images, 2, SETTINGS)
        self._cluster.wait()
        self._rolling()
        self._forced()
        self._scaling()
        self._draining()
        self._client.close()
        say("== nox -s sandbox -- --down")
        on_kind.down()

    def _pods(self) -> None:
        say("== what pods may do")
        for pod in self._cluster.list("pods"):
            name = pod["metadata"]["name"]
            user = self._cluster.kubectl("exec", name, "--", "id", "-u").strip()
            written = subprocess.run(
                self._cluster.command("exec", name, "--", "sh", "-c", "echo x > /written"),
                capture_output=True,
                check=False,
            )
            say(f"  {name}: uid {user}, root file system {'writable' if written.returncode == 0 else 'read-only'}")
            if user == "0" or written.returncode == 0:
                raise SandboxError(f"expected {name} to run as another user than root and to write to volumes only")
        say("  a privileged pod in this namespace:")
        try:
            self._cluster.kubectl("run", "rogue", "--image", images.REDIS, "--privileged")
        except SandboxError as error:
            refused = str(error)
        else:
            raise SandboxError("expected a privileged pod to be refused")
        say(f"  {refused.strip().splitlines()[-1].strip()[:300]}")
        for claim in self._cluster.list("persistentvolumeclaims"):
            size = claim["spec"]["resources"]["requests"]["storage"]
            say(f"  volume {claim['metadata']['name']}: {claim['status']['phase']}, {size}")

    def _network(self) -> None:
        say("== NetworkPolicies: Redis from a pod of another name")
        reached = subprocess.run(
            self._cluster.command("exec", "deploy/jupyter", "--", "python", "-c",
                                  "import socket; socket.create_connection(('redis', 6379), 5)"),
            capture_output=True, check=False,
        ).returncode == 0  # fmt: skip
        say(
            "  reached: this cluster's network (CNI) does not enforce policies"
            if reached
            else "  not reached: the policy is enforced"
        )

    def _notebooks(self) -> None:
        say("== the notebooks, run in the sandbox's JupyterLab on the sandbox's workers")
        for name in NOTEBOOKS:
            convert = "jupyter nbconvert --log-level WARN --to notebook --execute --output-dir /tmp"
            command = f"cd /notebooks && {convert} {name}.ipynb"
            self._cluster.kubectl("exec", "deploy/jupyter", "--", "sh", "-c", command, timeout=400)
            say(f"  {name}.ipynb ran to its end")

    def _rolling(self) -> None:
        say(f"== rolling restart of workers and API while {TASKS} tasks run")
        with Trickle(URLS.api) as trickle:
            batch = submit(self._client, "rolling", TASKS, 0.1)
            self._cluster.kubectl("rollout", "restart", "deployment/nexusq-worker", "deployment/nexusq-api")
            for name in ("nexusq-worker", "nexusq-api"):
                self._cluster.kubectl("rollout", "status", f"deployment/{name}", "--timeout", "300s")
                say(f"  {name} has been replaced, at {batch.counts()['COMPLETED']} done")
            if batch.done():
                raise SandboxError("the batch ended before the restart did: nothing was proven")
        finish(batch)
        require(judge(batch, self._ledger("rolling")), none_run_again=True)
        trickle.require()

    def _forced(self) -> None:
        self._killed()
        for part in ("worker", "redis", "kafka"):
            say(f"== kubectl delete pod --force: {part}, while {TASKS // 2} tasks run")
            run = f"forced-{part}"
            batch = submit(self._client, run, TASKS // 2, 0.05)
            pod = self._pod(f"nexusq-{part}" if part == "worker" else part)
            self._cluster.kubectl("delete", "pod", pod, "--force", "--grace-period=0")
            say(f"  {pod} deleted, at {self._done(batch)} done")
            finish(batch)
            require(judge(batch, self._ledger(run)), none_run_again=False)
            self._cluster.wait()

    def _killed(self) -> None:
        say(f"== kill -9 of all of a worker's processes, while {TASKS // 2} tasks run")
        batch = submit(self._client, "killed", TASKS // 2, 0.05)
        pod = self._pod("nexusq-worker")
        others = "int(p) for p in os.listdir('/proc') if p.isdigit() and int(p) not in (1, os.getpid())"
        kill = f"import os; [os.kill(p, 9) for p in [{others}]]"
        self._cluster.kubectl("exec", pod, "--", "python", "-c", kill)
        say(f"  {pod} killed, at {self._done(batch)} done")
        finish(batch)
        require(judge(batch, self._ledger("killed")), none_run_again=False)
        [status] = [item["status"] for item in self._cluster.list("pods") if item["metadata"]["name"] == pod]
        say(f"  restarts of its container: {status['containerStatuses'][0]['restartCount']}")

    def _scaling(self) -> None:
        say(f"== 1 worker, then 4, while {TASKS} tasks run")
        self._scale(1)
        wait_for(lambda: len(self._client.workers()) == 1)
        batch = submit(self._client, "scaling", TASKS, 0.05)
        self._backlog()
        self._scale(4)
        self._backlog()
        finish(batch)
        require(judge(batch, self._ledger("scaling")), none_run_again=True)
        self._backlog()

    def _draining(self) -> None:
        say("== 4 workers, then 1, while 16 tasks of 20 s run: who leaves ends what it runs")
        batch = submit(self._client, "draining", 16, 20)
        wait_for(lambda: batch.counts()["IN_PROGRESS"] >= 12)
        self._backlog()
        self._scale(1)
        finish(batch)
        require(judge(batch, self._ledger("draining")), none_run_again=True)

    def _scale(self, workers: int) -> None:
        began = time.monotonic()
        self._cluster.kubectl("scale", "deployment/nexusq-worker", f"--replicas={workers}")
        self._cluster.kubectl("rollout", "status", "deployment/nexusq-worker", "--timeout", "300s")
        say(f"  {workers} worker(s) ready after {time.monotonic() - began:.1f} s")

    def _backlog(self) -> None:
        time.sleep(1.1)  # it is answered as of the last second
        answer = self._cluster.kubectl(
            "get", "--raw", f"/api/v1/namespaces/{NAMESPACE}/services/nexusq-api:8000/proxy/queues/default/backlog"
        )
        say(f"  GET /queues/default/backlog: {json.dumps(json.loads(answer))}")

    def _pod(self, name: str) -> str:
        pods = [
            pod for pod in self._cluster.list("pods", "--selector", f"app.kubernetes.io/name={name}") if is_ready(pod)
        ]
        return str(pods[0]["metadata"]["name"])

    def _done(self, batch: nexusq_sdk.Batch) -> int | str:
        try:
            return batch.counts()["COMPLETED"]
        except nexusq_sdk.NexusQError:
            return "an unknown number"

    def _ledger(self, name: str) -> str:
        return self._cluster.kubectl("exec", "deploy/jupyter", "--", "sh", "-c", f"cat /shared/ledger/{name}/*")


def lab(node_image: str | None) -> None:
    """Run the lab; where it fails, say what the pods say."""
    steps = Lab(node_image)
    try:
        steps.run()
    except (SandboxError, nexusq_sdk.NexusQError) as error:
        say(f"FAILED: {error}")
        try:
            say(Cluster(CONTEXT).status())
            for name in ("nexusq-api", "nexusq-worker"):
                log = Cluster(CONTEXT).kubectl("logs", f"deployment/{name}", "--tail", "5", "--all-pods", "--prefix")
                say(last_lines(log, 120))
        except SandboxError as other:
            say(str(other))
        raise SandboxError(
            "the lab failed; the cluster is left as it is: nox -s sandbox -- --down removes it"
        ) from error
