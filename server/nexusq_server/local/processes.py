"""Child processes that never outlive their parent, however it dies, and what they said when they fail.

A watchdog, started first, holds one end of a pipe whose other end only the parent holds. Every child is in the
watchdog's process group of children from its first instruction on (`process_group` of Popen). When the pipe closes, the
watchdog ends the group and removes the temporary folder. Used by the thread that runs the cluster.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from nexusq_server.local.errors import LocalError

#: Standard library only and no site: it starts in 15 ms. `leader` gives the group its number and does nothing else.
_WATCHDOG = """
import os, shutil, signal, sys, time
for number in (signal.SIGINT, signal.SIGHUP): signal.signal(number, signal.SIG_IGN)
leader = os.fork()
if leader == 0:
    os.setpgid(0, 0); os.close(0); os.close(1)
    while True: signal.pause()
os.setpgid(leader, leader)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(leader, flush=True); os.close(1)
while os.read(0, 1): pass
def send(number):
    try: os.killpg(leader, number)
    except (ProcessLookupError, PermissionError): return False
    return True
send(signal.SIGTERM)
deadline = time.monotonic() + 3
while time.monotonic() < deadline:
    try: os.waitpid(leader, os.WNOHANG)
    except ChildProcessError: pass
    if not send(0): break
    time.sleep(0.05)
send(signal.SIGKILL)
for folder in sys.argv[1:]: shutil.rmtree(folder, ignore_errors=True)
"""

#: How much of a log is shown when its process fails.
LOG_LINES = 15


class Child:
    """One child process and its log."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.process = process
        self.log = log

    def ended(self) -> bool:
        """Whether the process has ended."""
        return self.process.poll() is not None

    def failure(self) -> LocalError:
        """Say that it ended, with its exit code and the end of its log."""
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        said = "\n".join(f"  {line}" for line in lines) or "  (nothing)"
        return LocalError(f"{self.name} ended with exit code {self.process.returncode}. Its log, {self.log}:\n{said}")

    def stop(self, seconds: float) -> None:
        """Ask it to end; kill it if it has not done so in time."""
        if self.ended():
            return
        self.process.terminate()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Children:
    """All child processes of a cluster. `remove` is deleted when everything has ended."""

    def __init__(self, logs: Path, remove: Path | None) -> None:
        self._logs = logs
        logs.mkdir(parents=True, exist_ok=True)
        self._watchdog = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _WATCHDOG, *([str(remove)] if remove else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,
        )
        output: IO[bytes] = self._watchdog.stdout  # type: ignore[assignment]
        self._group = int(output.readline())
        output.close()
        self.all: list[Child] = []

    def start(self, name: str, command: Sequence[str | Path], environment: Mapping[str, str], folder: Path) -> Child:
        """Start a process whose output goes to ``<name>.log``."""
        log = self._logs / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(environment),
                cwd=folder,
                process_group=self._group,
            )
        child = Child(name, process, log)
        self.all.append(child)
        return child

    def check(self) -> None:
        """Raise `LocalError` if a child has ended by itself."""
        for child in self.all:
            if child.ended():
                raise child.failure()

    def __enter__(self) -> Children:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the watchdog end whatever still runs, and wait for it."""
        if self._watchdog.stdin is not None:
            self._watchdog.stdin.close()
        for child in self.all:
            child.stop(5)
        self._watchdog.wait()
