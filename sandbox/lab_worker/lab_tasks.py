"""The lab's handler: it leaves a trace outside of Kafka and Redis, by which the lab judges what they say."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

from nexusq_sdk import current_task, task


@task("LEDGER")
def ledger(run: str, row: int, seconds: float = 0.02) -> int:
    """Note the start, work, note the end; a line each, in a file for each worker on the shared volume."""
    folder = Path("/shared/ledger", run)
    folder.mkdir(parents=True, exist_ok=True)
    # One write to a file that is opened for appending: lines of threads do not mix.
    file = os.open(folder / socket.gethostname(), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(file, f"start {row} {current_task().attempt}\n".encode())
        time.sleep(seconds)
        os.write(file, f"end {row} {current_task().attempt}\n".encode())
    finally:
        os.close(file)
    return row
