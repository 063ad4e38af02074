"""The ``nexusq`` command: what operates a server. What users ask of one is in `user_commands`.

Each command imports its own part when it is called: a worker has no business loading the API's framework.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import sys
import threading
import types
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nexusq_server import schedule_commands, user_commands
from nexusq_server.settings import ELSEWHERE, Settings, SettingsError, load_settings

app = typer.Typer(
    name="nexusq",
    help="A distributed task queue on Apache Kafka and Redis, for data scientists.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
user_commands.add_to(app)
schedule_commands.add_to(app)

Tasks = Annotated[
    list[str] | None, typer.Option("--tasks", help="Module with @task functions; repeat it or separate by commas.")
]


_UNITS = (("d", 86400), ("h", 3600), ("m", 60))
#: The password within a URL.
_PASSWORD = re.compile(r"(?<=:)[^:/@]+(?=@)")


def _names(values: list[str] | None) -> str | None:
    return ",".join(values) if values else None


def _fail(message: object, code: int = 1) -> typer.Exit:
    user_commands.tell(message)
    return typer.Exit(code)


def _settings(**flags: Any) -> Settings:
    try:
        return load_settings(**flags)
    except SettingsError as error:
        raise _fail(f"these settings can't be used:\n{error}", 2) from None


def _part(name: str) -> types.ModuleType:
    """Import what only one command needs."""
    return importlib.import_module(f"nexusq_server.{name}")


@app.callback(invoke_without_command=True)
def root(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    """Take what stands before a command."""
    if show_version:
        typer.echo(f"nexusq {version('nexusq')}")
        raise typer.Exit


@app.command()
def api(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0: a free one.")] = None,
) -> None:
    """Run the API until SIGTERM."""
    settings = _settings(host=host, port=port)
    raise typer.Exit(_part("api").run(settings))


@app.command()
def worker(
    tasks: Tasks = None,
    queues: Annotated[str | None, typer.Option(help="Queues to serve, comma-separated.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Tasks to run at once in threads.")] = None,
    processes: Annotated[int | None, typer.Option(help="Tasks to run at once in processes.")] = None,
    grace: Annotated[
        str | None, typer.Option(help="How long to wait for running tasks when stopping: 30s, 5m.")
    ] = None,
    lease: Annotated[str | None, typer.Option(help="Silent for so long, it is taken for dead: 10s.")] = None,
    max_tasks: Annotated[int | None, typer.Option(help="Stop, as by SIGTERM, after so many tasks.")] = None,
    max_lifetime: Annotated[str | None, typer.Option(help="Stop, as by SIGTERM, after so long: 12h.")] = None,
) -> None:
    """Run a worker until SIGTERM."""
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # a user's module is found where the user stands, as with `python -m`
    settings = _settings(
        tasks=_names(tasks),
        queues=queues,
        concurrency=concurrency,
        processes=processes,
        grace=grace,
        lease=lease,
        max_tasks=max_tasks,
        max_lifetime=max_lifetime,
    )
    raise typer.Exit(_part("worker").run(settings))


@app.command()
def up(
    port: Annotated[int | None, typer.Option(help="Port of the API; otherwise 8000; 0: a free one.")] = None,
    workers: Annotated[int, typer.Option(help="How many workers.", min=1, max=64)] = 2,
    tasks: Tasks = None,
    concurrency: Annotated[int | None, typer.Option(help="Tasks that each worker runs at once.")] = None,
    data: Annotated[Path | None, typer.Option(help="Keep the data in this folder; otherwise it is temporary.")] = None,
    with_parent: Annotated[bool, typer.Option("--with-parent", hidden=True)] = False,
) -> None:
    """Run everything on this machine: Kafka, Redis, the API, workers and a mail sink. Ctrl-C stops it."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: _interrupt(stop, number))
    settings = _settings(port=port, tasks=_names(tasks), concurrency=concurrency)
    try:
        if with_parent:
            threading.Thread(target=_wait_for_parent, args=(os.getppid(),), daemon=True).start()
        _run_cluster(settings, workers, data, with_parent, stop)
    except KeyboardInterrupt:
        return  # it was stopped, be it while it started


def _run_cluster(settings: Settings, workers: int, data: Path | None, with_parent: bool, stop: threading.Event) -> None:
    try:
        cluster, errors = _part("local.cluster"), _part("local.errors")
    except ModuleNotFoundError as error:
        raise _fail(
            f'expected the embedded cluster to be installed, but {error.name} is missing: pip install "nexusq[local]"'
        ) from None
    plan = cluster.Plan(
        port=settings.port,
        workers=workers,
        tasks=settings.tasks,
        concurrency=settings.concurrency,
        data=data,
        grace=settings.grace.total_seconds(),
        signing_key=settings.signing_key,
    )
    try:
        with cluster.Cluster(plan) as running:
            if with_parent:
                addresses = {"url": running.url, "redis_url": running.redis_url, "kafka": running.kafka}
                print(
                    json.dumps(addresses | {"mail_file": str(running.mail_file), "logs": str(running.logs)}), flush=True
                )
            else:
                print(f"NexusQ is ready at {running.url}")
                print(f"  Redis  {running.redis_url}\n  Kafka  {running.kafka}")
                print(f"  Mails  {running.mail_file}\n  Logs   {running.logs}", flush=True)
            try:
                while not stop.wait(0.5):
                    for line in running.tend():
                        user_commands.tell(line)
            except KeyboardInterrupt:
                if not with_parent:
                    user_commands.tell("stopping; what runs is given its time, Ctrl-C again ends it at once")
    except errors.LocalError as error:
        raise _fail(error) from None


def _interrupt(stop: threading.Event, number: int) -> None:
    """End the wait, or what is being waited for while the cluster starts; a second Ctrl-C ends the stopping too."""
    if not stop.is_set() or number == signal.SIGINT:
        stop.set()
        raise KeyboardInterrupt


def _wait_for_parent(parent: int) -> None:
    """End with the parent: its end of standard input closes, unless a process that it forked holds that open still."""
    closed = threading.Event()

    def read() -> None:
        while os.read(sys.stdin.fileno(), 1):  # not its buffer: at the end of the interpreter nobody may hold that
            pass
        closed.set()

    threading.Thread(target=read, daemon=True).start()
    while not closed.wait(0.5):
        if os.getppid() != parent:
            break
    os.kill(os.getpid(), signal.SIGTERM)


@app.command()
def settings() -> None:
    """List every setting: its variable, its value here, its default, what it means."""
    values, defaults = _settings(), Settings.model_fields
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("variable", "value", "default", "meaning"):
        table.add_column(column, overflow="fold", no_wrap=column == "variable")
    for name, field in defaults.items():
        value = _PASSWORD.sub("(hidden)", _shown(getattr(values, name)))
        if not field.repr and value:
            value = "(hidden)"
        table.add_row(f"NEXUSQ_{name.upper()}", escape(value), escape(_shown(field.default)), field.description)
    for variable, default, meaning in ELSEWHERE:
        value = _PASSWORD.sub("(hidden)", os.environ.get(variable, ""))
        table.add_row(variable, escape(value), escape(default), meaning)
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(value)
    if hasattr(value, "total_seconds"):
        seconds = value.total_seconds()
        unit, size = next(((unit, size) for unit, size in _UNITS if seconds % size == 0), ("s", 1))
        return f"{seconds / size:g}{unit}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def main() -> None:
    """Run the command line."""
    app()
