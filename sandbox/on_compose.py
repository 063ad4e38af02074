"""The sandbox on docker compose. Images are built by `docker build`, so that any engine will do."""

from __future__ import annotations

import json
import os
from typing import Any

from sandbox import images
from sandbox.first_batch import Urls, submit_first
from sandbox.shell import ROOT, SandboxError, last_lines, need, require_free, run, say

FILE = ROOT / "sandbox" / "docker-compose.yaml"
#: How long everything may take to become healthy; images are pulled before.
READY_SECONDS = 300


def settings() -> dict[str, str]:
    """Give the settings of sandbox/.env; those of the shell win, as they do for docker compose."""
    lines = (ROOT / "sandbox" / ".env").read_text().splitlines()
    pairs = (line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return {name: os.environ.get(name, value) for name, value in pairs}


def urls() -> Urls:
    """Give where its pages are."""
    said = settings()
    api, jupyter, mail = (f"http://127.0.0.1:{said[f'{name}_PORT']}" for name in ("API", "JUPYTER", "MAIL"))
    return Urls(api, jupyter, mail, said["JUPYTER_TOKEN"])


def compose(*words: str, overrides: tuple[str, ...] = ()) -> str:
    """Run docker compose on the sandbox's file."""
    files = [word for name in (str(FILE), *overrides) for word in ("--file", name)]
    environment = {}
    if "JUPYTER_USER" not in os.environ and hasattr(os, "getuid"):
        # Files that JupyterLab writes are to be yours.
        environment["JUPYTER_USER"] = f"{os.getuid()}:{os.getgid()}"
    return run("docker", "compose", *files, *words, env=environment)


def services() -> list[dict[str, Any]]:
    """Give its containers, one a line of what compose prints."""
    text = compose("ps", "--all", "--format", "json").strip()
    return json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]


def up(workers: int | None, overrides: tuple[str, ...] = ()) -> None:
    """Bring it up and prove it by a first batch."""
    need("docker", "docker compose")
    if not services():
        said = settings()
        ports = {int(said["API_PORT"]): "the API", int(said["JUPYTER_PORT"]): "JupyterLab"}
        require_free(ports | {int(said["MAIL_PORT"]): "the mail sink"}, "or choose others in sandbox/.env")
    images.build()
    say("starting the containers")
    scale = () if workers is None else ("--scale", f"worker={workers}")
    try:
        compose(
            *("up", "--detach", "--no-build", "--remove-orphans", "--wait", "--wait-timeout", str(READY_SECONDS)),
            *scale,
            overrides=overrides,
        )
    except SandboxError as error:
        raise SandboxError(f"{error}\n{_diagnosis()}") from error
    for service in sorted(services(), key=lambda entry: str(entry["Name"])):
        say(f"  {service['Name']}: {service['Health'] or service['State']}")
    submit_first(urls().api)
    say("ready:\n" + urls().shown())


def _diagnosis() -> str:
    parts = []
    for service in services():
        if service["State"] != "running" or service["Health"] not in {"healthy", ""}:
            log = run("docker", "logs", "--tail", "15", service["Name"])
            parts.append(f"  {service['Name']} is {service['State']} {service['Health']}:\n{last_lines(log, 15)}")
    return "\n".join(parts)


def down() -> None:
    """Remove it, its data too."""
    need("docker", "docker compose")
    compose("down", "--volumes", "--remove-orphans")
    say("its containers are gone, and its data")


def status() -> int:
    """Say what runs; give 0 if there is a sandbox."""
    need("docker", "docker compose")
    if not services():
        print("nothing of it runs: python -m nox -s sandbox -- --engine compose")
        return 1
    print(compose("ps"))
    print(urls().shown())
    return 0
