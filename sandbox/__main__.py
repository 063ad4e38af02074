"""The command line: `python -m sandbox`, or ``nox -s sandbox -- OPTIONS``."""

from __future__ import annotations

import argparse

from sandbox import on_cluster, on_compose, on_kind, on_processes
from sandbox.shell import SandboxError, main


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="nox -s sandbox --",
        description="A whole NexusQ to try things out in: Kafka, Redis, the API, workers, a mail sink, JupyterLab.",
    )
    parser.add_argument("--engine", choices=("kind", "compose", "local"), default="kind", help="what it runs on (kind)")
    parser.add_argument("--context", metavar="NAME", help="a cluster that you have, by kubectl's context; kind only")
    parser.add_argument(
        "--registry", metavar="NAME", help="with --context: push the images there; the cluster's nodes pull from it"
    )
    parser.add_argument(
        "--node-image", metavar="IMAGE", help="kind's node image, else KIND_NODE_IMAGE, else kind's own choice"
    )
    parser.add_argument("--workers", metavar="N", type=_count, help="how many workers (2; compose: 1)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--status", action="store_true", help="say what runs and where its pages are")
    what.add_argument("--down", action="store_true", help="remove it, its data too")
    chosen = parser.parse_args()
    if chosen.engine != "kind" and (chosen.context or chosen.node_image):
        parser.error(f"expected --context and --node-image with --engine kind only, got --engine {chosen.engine}")
    if chosen.context and chosen.node_image:
        parser.error("expected one of --context (a cluster that is there) and --node-image (of a new one), got both")
    if chosen.registry and not chosen.context:
        parser.error("expected --registry with --context only: the sandbox's own cluster is given its images")
    return chosen


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 64:
        raise argparse.ArgumentTypeError(f"expected a number from 1 to 64, got {text!r}")
    return int(text)


def body() -> int:
    """Do what the command line says; give the exit code."""
    chosen = options()
    if chosen.engine == "local":
        if chosen.status or chosen.down:
            raise SandboxError("--engine local runs as long as its command does: Ctrl-C there ends it")
        on_processes.up(chosen.workers)
    elif chosen.engine == "compose":
        if chosen.status:
            return on_compose.status()
        on_compose.down() if chosen.down else on_compose.up(chosen.workers)
    elif chosen.context:
        if chosen.status:
            return on_cluster.status(chosen.context)
        if chosen.down:
            on_cluster.down(chosen.context)
        else:
            on_cluster.up(chosen.context, chosen.workers, chosen.registry)
    else:
        if chosen.status:
            return on_kind.status()
        on_kind.down() if chosen.down else on_kind.up(chosen.workers, chosen.node_image)
    return 0


if __name__ == "__main__":
    main(body)
