"""``nexusq`` and ``python -m nexusq_server``: the command line, or what to install where its packages are missing."""

from __future__ import annotations

import importlib
import sys


def main() -> None:
    """Run the command line; with the SDK alone installed, say in one line what is missing."""
    try:
        # By its name: it loads packages that not everybody has.
        cli = importlib.import_module("nexusq_server.cli")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in {"", "nexusq_sdk", "nexusq_server"}:
            raise
        sys.exit(
            f"nexusq: expected the server's packages to be installed, but {missing} is missing: "
            f'pip install "nexusq[local]" for a cluster on this machine, "nexusq[server]" for workers and the API'
        )
    cli.main()


if __name__ == "__main__":
    main()
