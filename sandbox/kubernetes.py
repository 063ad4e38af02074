"""The sandbox on Kubernetes: applies the overlay, waits with progress, and says which pod it was if it fails."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sandbox.images import Images
from sandbox.shell import ROOT, SandboxError, last_lines, run, say

NAMESPACE = "nexusq"
OVERLAY = ROOT / "k8s" / "overlays" / "sandbox"
#: What the overlay's namespace says of itself: production's has the same name.
LABEL = ("app.kubernetes.io/part-of", "nexusq-sandbox")
#: The Services that have pages, and the pages' ports.
PAGES = {"nexusq-api": 8000, "jupyter": 8888, "mail": 8025}
#: How long everything may take to become ready; images that a node pulls by itself are in it.
READY_SECONDS = 420
#: What a pod does not get out of by waiting.
HOPELESS = {"CrashLoopBackOff", "ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"}
HOPELESS |= {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
#: ... unless it does within so many seconds: a process that waits for Kafka may give up once.
PATIENCE = 90.0
#: How long pods may take to leave when their data goes too.
LEAVE_SECONDS = 5


class Cluster:
    """A cluster that kubectl reaches by a context."""

    def __init__(self, context: str) -> None:
        self.context = context

    def kubectl(self, *words: str, stdin: str | None = None, timeout: float | None = None) -> str:
        """Run kubectl in the sandbox's namespace."""
        return run(*self.command(*words), stdin=stdin, timeout=timeout)

    def command(self, *words: str) -> tuple[str, ...]:
        """Give the command line."""
        return ("kubectl", "--context", self.context, "--namespace", NAMESPACE, *words)

    def list(self, kinds: str, *words: str) -> list[dict[str, Any]]:
        """Give objects as kubectl shows them."""
        items: list[dict[str, Any]] = json.loads(self.kubectl("get", kinds, "--output", "json", *words))["items"]
        return items

    def is_there(self) -> bool:
        """Whether the sandbox is in this cluster; its pods may not be.

        Raises
        ------
        SandboxError
            If its namespace is somebody else's.
        """
        name = ("get", "namespace", NAMESPACE, "--ignore-not-found")
        text = run("kubectl", "--context", self.context, *name, "--output", "json").strip()
        if not text:
            return False
        label, wanted = LABEL
        if json.loads(text)["metadata"].get("labels", {}).get(label) != wanted:
            raise SandboxError(
                f"expected namespace {NAMESPACE} of {self.context} to be the sandbox's ({label}={wanted}) or not to be "
                f"there, but somebody else made it (k8s/overlays/production has that name too); it is left alone"
            )
        return True

    def apply(
        self,
        images: Images,
        workers: int | None,
        settings: Mapping[str, str] | None = None,
        *,
        node_ports: bool = True,
    ) -> None:
        """Apply the overlay with these images, so many workers, further settings; with or without ports on nodes."""
        with tempfile.TemporaryDirectory() as folder:
            here = Path(folder).resolve()
            wanted: dict[str, Any] = {
                "apiVersion": "kustomize.config.k8s.io/v1beta1",
                "kind": "Kustomization",
                "namespace": NAMESPACE,
                "resources": [os.path.relpath(OVERLAY, here)],
                "images": [_image("nexusq-api", images.api), _image("nexusq-sandbox", images.sandbox)],
                "patches": [] if node_ports else [{"patch": _without_node_port(*page)} for page in PAGES.items()],
            }
            if images.worker != images.sandbox:
                wanted["patches"].append({"path": "worker.yaml"})
                container = {"name": "worker", "image": images.worker}
                _write(here / "worker.yaml", _deployment({"template": {"spec": {"containers": [container]}}}))
            if workers is not None:
                wanted["replicas"] = [{"name": "nexusq-worker", "count": workers}]
            if settings:
                literals = [f"{name}={value}" for name, value in settings.items()]
                wanted["configMapGenerator"] = [{"name": "nexusq", "behavior": "merge", "literals": literals}]
            _write(here / "kustomization.yaml", wanted)
            say("applying k8s/overlays/sandbox")
            self.kubectl("apply", "--kustomize", str(here))

    def wait(self, seconds: float = READY_SECONDS) -> None:
        """Wait until everything runs as it was applied, and say how it goes.

        Raises
        ------
        SandboxError
            Naming the pod that does not, with its last lines.
        """
        deadline = time.monotonic() + seconds
        since: dict[str, float] = {}
        said = ""
        while True:
            sets = self.list("deployments,statefulsets")
            state = {item["metadata"]["name"]: _progress(item) for item in sets}
            line = ", ".join(f"{name} {ready}/{wanted}" for name, (ready, wanted, _) in sorted(state.items()))
            if line != said:
                said = line
                say(f"  {line}")
            if state and all(done for _, _, done in state.values()):
                return
            stuck = {pod["metadata"]["name"]: why for pod in self.list("pods") if (why := _stuck(pod))}
            since = {name: since.get(name, time.monotonic()) for name in stuck}
            lost = [name for name, began in since.items() if time.monotonic() - began > PATIENCE]
            if lost:
                raise SandboxError(f"pod {lost[0]} does not start: {stuck[lost[0]]}\n{self.diagnosis(lost[0])}")
            if time.monotonic() > deadline:
                waiting = [pod["metadata"]["name"] for pod in self.list("pods") if not is_ready(pod)]
                raise SandboxError(
                    f"expected everything to be ready within {seconds:g} s, but these pods are not: "
                    f"{', '.join(waiting)}\n" + "\n".join(self.diagnosis(name) for name in waiting[:3])
                )
            time.sleep(1)

    def diagnosis(self, pod: str) -> str:
        """Give what a pod said last, and what Kubernetes says of it."""
        parts, logs = [], []
        for words in (("--previous",), ()):
            with contextlib.suppress(SandboxError):
                log = self.kubectl("logs", pod, "--all-containers", "--tail", "15", *words)
                if log.strip() and log not in logs:
                    logs.append(log)
                    when = " before its restart" if words else ""
                    parts.append(f"  last lines of {pod}{when}:\n{last_lines(log, 15)}")
        with contextlib.suppress(SandboxError):
            events = self.list("events", "--field-selector", f"involvedObject.name={pod}")
            text = "\n".join(f"{event['reason']}: {event['message']}" for event in events)
            parts.append(f"  events of {pod}:\n{last_lines(text, 8)}")
        return "\n".join(parts)

    @contextlib.contextmanager
    def forwarded(self, service: str, port: int) -> Iterator[str]:
        """Reach a service from here while the block runs; give its URL."""
        process = subprocess.Popen(
            self.command("port-forward", "--address", "127.0.0.1", f"service/{service}", f":{port}"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            line = process.stdout.readline() if process.stdout else ""
            if "->" not in line:
                raise SandboxError(f"expected kubectl to forward a port to {service}, got {line.strip()!r}")
            yield f"http://{line.split()[2]}"
        finally:
            process.terminate()
            process.wait()
            if process.stdout:
                process.stdout.close()

    def delete(self) -> None:
        """Remove the namespace with all that is in it."""
        # Workers that wait for a Redis and a Kafka that go with them would keep it for minutes.
        self.kubectl("delete", "deployments,statefulsets", "--all")
        self.kubectl("delete", "pods", "--all", f"--grace-period={LEAVE_SECONDS}")
        run("kubectl", "--context", self.context, "delete", "namespace", NAMESPACE, "--ignore-not-found")

    def status(self) -> str:
        """Give what runs, as a person reads it."""
        return self.kubectl("get", "deployments,statefulsets,pods,services,persistentvolumeclaims")


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Whether a pod is ready and stays."""
    conditions = {entry["type"]: entry["status"] for entry in pod["status"].get("conditions", ())}
    return conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]


def _progress(item: Mapping[str, Any]) -> tuple[int, int, bool]:
    """Give how many pods are ready, how many are wanted, and whether all is as it is to be."""
    spec, status = item["spec"], item["status"]
    wanted, ready = spec["replicas"], status.get("readyReplicas", 0)
    done = (
        status.get("observedGeneration", 0) >= item["metadata"]["generation"]
        and status.get("updatedReplicas", 0) == wanted
        and status.get("replicas", 0) == wanted
        and ready == wanted
    )
    return ready, wanted, done


def _stuck(pod: Mapping[str, Any]) -> str:
    """Say why a pod does not start; empty where it may still."""
    for entry in pod["status"].get("conditions", ()):
        if entry["type"] == "PodScheduled" and entry["status"] == "False":
            return str(entry.get("message") or entry.get("reason"))
    statuses = [*pod["status"].get("initContainerStatuses", ()), *pod["status"].get("containerStatuses", ())]
    for status in statuses:
        waiting = status.get("state", {}).get("waiting") or {}
        if waiting.get("reason") in HOPELESS:
            return f"{waiting['reason']}: {waiting.get('message', '')}".rstrip(": ")
    return ""


def _image(name: str, tagged: str) -> dict[str, str]:
    new_name, _, tag = tagged.rpartition(":")
    return {"name": name, "newName": new_name, "newTag": tag}


def _deployment(spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "nexusq-worker"}, "spec": spec}


def _without_node_port(service: str, port: int) -> str:
    spec = {"type": "ClusterIP", "ports": [{"port": port, "nodePort": None}]}
    return json.dumps({"apiVersion": "v1", "kind": "Service", "metadata": {"name": service}, "spec": spec})


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))  # which is YAML too
