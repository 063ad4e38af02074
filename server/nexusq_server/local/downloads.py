"""Fetches Kafka's jars once into the user's cache: checked, resumable, safe when two processes start at once.

Called while a cluster starts, by one thread; several threads of its own download.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import httpx
import platformdirs
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from nexusq_server.local.errors import LocalError

#: Maven Central; `NEXUSQ_MAVEN_URL` names a mirror of it.
MAVEN_URL = "https://repo.maven.apache.org/maven2"
DOWNLOADS_AT_ONCE = 4


@dataclass(frozen=True)
class Jar:
    """One file of Kafka: its path in a Maven repository, and what it must be."""

    path: str
    sha256: str
    bytes: int

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.path.rpartition("/")[2]


def kafka_lock() -> tuple[str, list[Jar]]:
    """Give Kafka's version and the jars that it is made of."""
    lock = json.loads((files("nexusq_server.local") / "kafka.lock.json").read_text())
    return lock["kafka"], [Jar(**entry) for entry in lock["jars"]]


def cache_folder() -> Path:
    """Give the folder for what is downloaded once: `NEXUSQ_CACHE`, or the user's cache folder."""
    return Path(os.environ.get("NEXUSQ_CACHE") or platformdirs.user_cache_dir("nexusq"))


def fetch_jars(version: str, jars: list[Jar], cache: Path) -> Path:
    """Give the folder with all `jars`, downloading those that are missing.

    Raises
    ------
    LocalError
        If one is missing and can't be downloaded, or is not what its checksum says.
    """
    try:
        return _fetch_jars(version, jars, cache)
    except OSError as error:
        raise LocalError(
            f"expected the cache to be a folder that can be written, got {cache}: {error}. Name another by NEXUSQ_CACHE"
        ) from error


def _fetch_jars(version: str, jars: list[Jar], cache: Path) -> Path:
    folder = cache / f"kafka-{version}"
    complete = folder / "complete"
    wanted = hashlib.sha256("".join(jar.sha256 for jar in jars).encode()).hexdigest()
    if complete.exists() and complete.read_text() == wanted and all((folder / jar.name).exists() for jar in jars):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with _only_one(folder / "lock"):
        missing = [jar for jar in jars if not _is_right(folder / jar.name, jar)]
        if missing:
            _download(missing, folder)
        complete.write_text(wanted)
    return folder


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Let one process at a time go on; a second one then finds the work done."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Waiting for another process that downloads Kafka ...", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_right(path: Path, jar: Jar) -> bool:
    if not path.exists() or path.stat().st_size != jar.bytes:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == jar.sha256


def _download(jars: list[Jar], folder: Path) -> None:
    base = os.environ.get("NEXUSQ_MAVEN_URL", MAVEN_URL).rstrip("/")
    columns = (TextColumn("Downloading Kafka, once"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with (
        # Packed on the way, a file could not be resumed.
        httpx.Client(follow_redirects=True, timeout=30, headers={"Accept-Encoding": "identity"}) as client,
        Progress(*columns, console=Console(stderr=True)) as progress,
        ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool,
    ):
        bar = progress.add_task("", total=sum(jar.bytes for jar in jars))
        fetch = _Fetch(client, base, folder, lambda count: progress.advance(bar, count))
        tasks = [pool.submit(fetch.jar, jar) for jar in jars]
        try:
            for task in tasks:
                task.result()
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise LocalError(
                f"Kafka is not in the cache ({folder}) and could not be downloaded from {base}: "
                f"{type(error).__name__}: {error}\n"
                f"With a network, try again: it goes on where it stopped. Without one, give a Kafka of your own: "
                f"NEXUSQ_KAFKA_HOME=/path/to/kafka (the folder that has libs/ in it), "
                f"or copy the cache folder from another machine and name it by NEXUSQ_CACHE."
            ) from error
        finally:
            # Only where something broke off, be it by Ctrl-C, is there still something to stop.
            fetch.stop.set()
            pool.shutdown(cancel_futures=True)


class _Fetch:
    """Downloads files, several at once; `stop` breaks them off, what they have is kept for the next time."""

    def __init__(self, client: httpx.Client, base: str, folder: Path, count: Callable[[int], None]) -> None:
        self.stop = threading.Event()
        self._client = client
        self._base = base
        self._folder = folder
        self._count = count

    def jar(self, jar: Jar) -> None:
        """Download one file; go on with what there is of it, and start anew where that does not fit."""
        part = self._folder / f"{jar.name}.part"
        if part.exists() and not (self._rest(jar, part) and _is_right(part, jar)):
            part.unlink(missing_ok=True)
        if not part.exists():
            self._whole(jar, part)
        part.rename(self._folder / jar.name)

    def _rest(self, jar: Jar, part: Path) -> bool:
        """Get what is missing of a part; False if the server gives no parts."""
        have = part.stat().st_size
        if have >= jar.bytes:
            return True
        with self._client.stream("GET", f"{self._base}/{jar.path}", headers={"Range": f"bytes={have}-"}) as answer:
            if answer.status_code in {httpx.codes.OK, httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE}:
                return False
            answer.raise_for_status()
            self._count(have)
            self._save(answer, part, "ab")
        return True

    def _whole(self, jar: Jar, part: Path) -> None:
        with self._client.stream("GET", f"{self._base}/{jar.path}") as answer:
            answer.raise_for_status()
            self._save(answer, part, "wb")
        if not _is_right(part, jar):
            part.unlink()
            raise OSError(f"expected {jar.name} to have the SHA-256 {jar.sha256}, got another file; it was removed")

    def _save(self, answer: httpx.Response, part: Path, mode: str) -> None:
        with part.open(mode) as file:
            for chunk in answer.iter_bytes():
                if self.stop.is_set():
                    raise InterruptedError("another file could not be downloaded")
                file.write(chunk)
                self._count(len(chunk))
