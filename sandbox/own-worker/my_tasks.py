"""Handlers of your own, with a package of your own."""

from __future__ import annotations

import humanize

from nexusq_sdk import task


@task("READABLE_SIZE")
def readable_size(size: int) -> str:
    """Say how large something is in words that people read."""
    return humanize.naturalsize(size, binary=True)
