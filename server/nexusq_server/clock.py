"""The time as states keep it."""

from __future__ import annotations

import time


def now_us() -> int:
    """Give the time in whole microseconds since 1970."""
    return time.time_ns() // 1000
