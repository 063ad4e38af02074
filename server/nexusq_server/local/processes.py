"""Child processes that never outlive their parent, however it dies, and what they said when they fail.

A watchdog, started first, holds one end of a pipe whose other end only the parent holds. Every child is in the
watchdog's process group of children from its first instruction on (`process_group` of Popen). When the pipe closes, the
watchdog ends the group and removes the temporary folders, but the logs' where it was told to keep them.
Used by the thread that runs the cluster.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
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
keep = False
while os.read(0, 1): keep = True
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
for folder in sys.argv[1:2] if keep else sys.argv[1:]: shutil.rmtree(folder, ignore_errors=True)
"""

#: How much of a log is shown when its process fails.
LOG_LINES = 15


class Child:
    """One child process and its log. `launch` starts it, and starts it again."""

    def __init__(self, name: str, launch: Callable[[], subprocess.Popen[bytes]], log: Path) -> None:
        self.name = name
        self.log = log
        self._launch = launch
        self.start()

    def start(self) -> None:
        """Start it."""
        self.process = self._launch()
        self.started = time.monotonic()

    def ended(self) -> bool:
        """Whether the process has ended."""
        return self.process.poll() is not None

    def end(self) -> str:
        """Say how it ended."""
        code = self.process.returncode
        return f"exit code {code}" if code is None or code >= 0 else signal.Signals(-code).name

    def failure(self) -> LocalError:
        """Say that it ended, how, and what its log says last."""
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        said = "\n".join(f"  {line}" for line in lines) or "  (nothing)"
        return LocalError(f"{self.name} ended with {self.end()}. Its log, {self.log}:\n{said}")

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
    """All child processes of a cluster.

    When everything has ended, `remove` is deleted, and `logs` with it; `hold` is a file that is open until then.
    """

    def __init__(self, logs: Path, remove: Path | None, hold: IO[str] | None) -> None:
        self._logs = logs
        logs.mkdir(parents=True, exist_ok=True)
        self._watchdog = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _WATCHDOG, *([str(remove), str(logs)] if remove else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,
            pass_fds=[hold.fileno()] if hold is not None else [],
        )
        output: IO[bytes] = self._watchdog.stdout  # type: ignore[assignment]
        self._group = int(output.readline())
        output.close()
        self.all: list[Child] = []

    def start(self, name: str, command: Sequence[str | Path], environment: Mapping[str, str], folder: Path) -> Child:
        """Start a process whose output goes to ``<name>.log``."""
        log = self._logs / f"{name}.log"

        def launch() -> subprocess.Popen[bytes]:
            with log.open("ab") as output:
                return subprocess.Popen(
                    [str(word) for word in command],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=dict(environment),
                    cwd=folder,
                    process_group=self._group,
                )

        child = Child(name, launch, log)
        self.all.append(child)
        return child

    def keep_logs(self) -> None:
        """Leave the logs where they are, since an error names them."""
        if self._watchdog.stdin is not None:
            self._watchdog.stdin.write(b"k")
            self._watchdog.stdin.flush()

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
