"""The command line: `python -m sandbox.lab compose|kind`, or ``nox -s lab -- ...``; its output is kept in docs/lab."""

from __future__ import annotations

import argparse
import os
import platform
from datetime import UTC, datetime

from sandbox.lab import on_compose, on_kind
from sandbox.shell import ROOT, also_to, main, run, say, works


def body() -> int:
    """Run a lab; give the exit code."""
    parser = argparse.ArgumentParser(prog="nox -s lab --", description=__doc__)
    parser.add_argument("engine", choices=("compose", "kind"), help="what it runs on")
    parser.add_argument(
        "--node-image", metavar="IMAGE", help="kind's node image, else KIND_NODE_IMAGE, else kind's own choice"
    )
    chosen = parser.parse_args()
    kept = ROOT / "docs" / "lab" / f"{chosen.engine}.txt"
    kept.parent.mkdir(exist_ok=True)
    with kept.open("w") as file:
        also_to(lambda line: print(line, file=file, flush=True))
        say(f"nox -s lab -- {chosen.engine}: {datetime.now(UTC):%Y-%m-%d %H:%M} UTC")
        say(f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}; {_versions(chosen.engine)}")
        if chosen.engine == "compose":
            on_compose.lab()
        else:
            on_kind.lab(chosen.node_image)
        say("all as promised")
    print(f"kept in {kept.relative_to(ROOT)}")
    return 0


def _versions(engine: str) -> str:
    said = [f"Docker {run('docker', 'version', '--format', '{{.Server.Version}}').strip()}"]
    if engine == "compose":
        said.append(run("docker", "compose", "version").strip())
    elif works("kind", "version"):
        said.append(" ".join(run("kind", "version").split()[:2]))
    return ", ".join(said)


if __name__ == "__main__":
    main(body)
