"""The sandbox on a cluster that is there already, by kubectl's context: all of it in one namespace."""

from __future__ import annotations

import difflib

from sandbox import images
from sandbox.first_batch import Urls, submit_first
from sandbox.kubernetes import NAMESPACE, PAGES, Cluster
from sandbox.shell import SandboxError, need, run, say

URLS = Urls(*(f"http://127.0.0.1:{port}" for port in PAGES.values()))


def up(context: str, workers: int | None, registry: str | None = None) -> None:
    """Bring it up, whatever of it is there already, and prove it by a first batch."""
    # What is wrong with the cluster is said before the images are built, which takes minutes.
    need("docker", "kubectl")
    cluster = _known(context)
    program = None if registry else images.loader(context)
    if program is not None:
        need(program)
    cluster.is_there()
    built = images.build()
    if registry:
        built = images.push(built, registry)
    else:
        images.load(built, context)
    # Its nodes' ports may be in use, and may be reached by others than you.
    cluster.apply(built, workers, node_ports=False)
    cluster.wait()
    with cluster.forwarded("nexusq-api", PAGES["nexusq-api"]) as url:
        submit_first(url)
    say(f"ready. {_pages(cluster)}")


def down(context: str) -> None:
    """Remove its namespace, its data too; the cluster stays."""
    need("kubectl")
    cluster = _known(context)
    if not cluster.is_there():
        say(f"there is no sandbox in {context}")
        return
    cluster.delete()
    say(f"namespace {NAMESPACE} is gone from {context}, and its data")


def status(context: str) -> int:
    """Say what runs; give 0 if there is a sandbox."""
    need("kubectl")
    cluster = _known(context)
    if not cluster.is_there():
        print(f"there is no sandbox in {context}: python -m nox -s sandbox -- --context {context}")
        return 1
    print(f"{cluster.status().rstrip()}\n\n{_pages(cluster)}")
    return 0


def _known(context: str) -> Cluster:
    known = run("kubectl", "config", "get-contexts", "--output", "name").split()
    if context not in known:
        close = difflib.get_close_matches(context, known, 1)
        meant = f"; did you mean {close[0]!r}?" if close else ""
        names = ", ".join(known) or "none"
        raise SandboxError(f"expected --context to be one that kubectl knows ({names}), got {context!r}{meant}")
    return Cluster(context)


def _pages(cluster: Cluster) -> str:
    forward = " ".join(cluster.command("port-forward"))
    commands = "\n".join(f"  {forward} service/{name} {port}:{port}" for name, port in PAGES.items())
    return f"These bring its pages to this machine, each as long as it runs:\n{commands}\n{URLS.shown()}"
