"""A peer's client: ``python -m benchmarks.peers NAME``. Its module is imported by its name, as its worker does."""

from __future__ import annotations

import importlib
import sys

from benchmarks import talk

if __name__ == "__main__":
    talk.serve(importlib.import_module(f"benchmarks.peers.with_{sys.argv[1]}").Client())
