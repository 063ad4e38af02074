"""What can go wrong while the embedded cluster starts or runs."""

from __future__ import annotations


class LocalError(Exception):
    """The embedded cluster can't start or go on; the message says what is missing and what to do."""
