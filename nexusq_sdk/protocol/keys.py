"""Where the embedded cluster leaves its signing key for this user's clients on this machine. Standard library only.

The file is named after the address of the API, is readable by its owner alone, and is gone with the cluster.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from nexusq_sdk.protocol import blobs


def key_file(host: str, port: int) -> Path:
    """Name the file for the key of the API at ``host:port``: in `NEXUSQ_CACHE`, or the user's cache folder."""
    return _cache() / "keys" / f"{host.strip('[]').replace(':', '_')}-{port}.key"


def leave_key(host: str, port: int, key: str) -> Path:
    """Write the key for this user alone; give the file. Raises OSError where that can't be done."""
    file = key_file(host, port)
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    file.unlink(missing_ok=True)
    # Created with its mode, so that nobody reads it in between.
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(key)
    return file


def found_key(host: str, port: int) -> bytes | None:
    """Give the key that a cluster has left here, None if there is none, or one that others could have written."""
    try:
        with key_file(host, port).open() as file:
            state = os.fstat(file.fileno())
            if hasattr(os, "getuid") and (state.st_uid != os.getuid() or state.st_mode & 0o077):
                return None
            return blobs.read_key(file.read().strip())
    except (OSError, ValueError):
        return None


def _cache() -> Path:
    named = os.environ.get("NEXUSQ_CACHE")
    if named:
        return Path(named)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "nexusq"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "nexusq"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nexusq"
