"""A system's client in a process of its own: every client is started, asked and timed in the same way.

The child calls `serve` with an object whose public methods may be asked for; the parent holds a `Remote`. What crosses
is a line of JSON each way. Times are taken in the child, around the method alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

ROOT = Path(__file__).parent.parent


class ClientFailed(RuntimeError):
    """Raised when a client's process ends or fails; the message is what it said."""


def serve(client: object) -> None:
    """Answer calls from standard input until it ends."""
    # What a library prints must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        name, *given = json.loads(line)
        try:
            began = time.perf_counter()
            value = getattr(client, name)(*given)
            said = {"seconds": time.perf_counter() - began, "value": value}
        except Exception:
            said = {"error": traceback.format_exc()}
        answers.write(json.dumps(said) + "\n")
        answers.flush()


class Remote:
    """The parent's end. `seconds` is how long the last call took in the child."""

    def __init__(self, module: str, words: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.log = log
        self.seconds = 0.0
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,
                env=dict(environment),
                text=True,
            )
        self.pid = self._process.pid

    def ask(self, name: str, *given: Any) -> Any:
        """Call a method of the client; give what it returned."""
        to_child: IO[str] = self._process.stdin  # type: ignore[assignment]
        from_child: IO[str] = self._process.stdout  # type: ignore[assignment]
        try:
            to_child.write(json.dumps([name, *given]) + "\n")
            to_child.flush()
            line = from_child.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise ClientFailed(f"the client ended with {self._process.wait()}: {self.log.read_text()[-3000:]}")
        said = json.loads(line)
        if "error" in said:
            raise ClientFailed(f"{name} failed in the client:\n{said['error']}")
        self.seconds = said["seconds"]
        return said["value"]

    def __enter__(self) -> Remote:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.stdin.close()  # type: ignore[union-attr]
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()  # type: ignore[union-attr]
