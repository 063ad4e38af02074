"""The sandbox on a kind cluster of its own."""

from __future__ import annotations

import os

from sandbox import images
from sandbox.first_batch import Urls, answers, submit_first
from sandbox.images import Images
from sandbox.kubernetes import Cluster
from sandbox.shell import SandboxError, need, require_free, run, say, until, works

NAME = "nexusq"
CONTEXT = f"kind-{NAME}"
URLS = Urls("http://127.0.0.1:8000", "http://127.0.0.1:8888", "http://127.0.0.1:8025")
PORTS = {8000: "the API", 8888: "JupyterLab", 8025: "the mail sink"}


def up(workers: int | None, node_image: str | None = None) -> None:
    """Bring it up, whatever of it is there already, and prove it by a first batch."""
    need("docker", "kubectl", "kind")
    _create(node_image)
    deploy(Cluster(CONTEXT), workers)
    until("the API to answer on port 8000", lambda: answers(f"{URLS.api}/readyz"), 60)
    submit_first(URLS.api)
    say("ready:\n" + URLS.shown())


def deploy(cluster: Cluster, workers: int | None) -> Images:
    """Build, load, apply, wait."""
    built = images.build()
    images.load(built, cluster.context)
    cluster.apply(built, workers)
    cluster.wait()
    return built


def _create(node_image: str | None) -> None:
    node = f"{NAME}-control-plane"
    if NAME in run("kind", "get", "clusters").split():
        say(f"kind cluster {NAME} is there")
        if run("docker", "inspect", "--format", "{{.State.Running}}", node).strip() != "true":
            say(f"starting its node {node} again")
            run("docker", "start", node)
    else:
        require_free(PORTS, "or is it another sandbox? --engine compose -- --down ends that one")
        image = node_image or os.environ.get("KIND_NODE_IMAGE")
        say(f"creating kind cluster {NAME}" + (f" of {image}" if image else ""))
        chosen = ("--image", image) if image else ()
        run("kind", "create", "cluster", "--config", "sandbox/kind.yaml", "--wait", "120s", *chosen)
    run("kind", "export", "kubeconfig", "--name", NAME)
    until("Kubernetes to answer", lambda: works("kubectl", "--context", CONTEXT, "get", "--raw", "/readyz"), 120)


def down() -> None:
    """Remove it, its data too."""
    need("docker", "kind")
    if NAME in run("kind", "get", "clusters").split():
        run("kind", "delete", "cluster", "--name", NAME)
        say(f"kind cluster {NAME} is gone, and its data")
    else:
        say(f"there is no kind cluster {NAME}")


def status() -> int:
    """Say what runs; give 0 if there is a sandbox."""
    need("docker", "kubectl", "kind")
    if NAME not in run("kind", "get", "clusters").split():
        print(f"there is no kind cluster {NAME}: python -m nox -s sandbox")
        return 1
    try:
        print(Cluster(CONTEXT).status())
    except SandboxError as error:
        print(error)
        return 1
    print(URLS.shown())
    return 0
