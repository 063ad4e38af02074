"""What users ask of a server from a terminal: submit, status, report, types. Thin over the SDK.

The one part of the server that uses the SDK's public names; they load when first used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console

import nexusq_sdk

Url = Annotated[str | None, typer.Option("--url", help="URL of the API; otherwise NEXUSQ_URL, or this machine's.")]
_READERS = {".csv": "read_csv", ".jsonl": "read_json", ".parquet": "read_parquet"}
_WRITERS = {".csv": "to_csv", ".jsonl": "to_json", ".parquet": "to_parquet"}


def add_to(app: typer.Typer) -> None:
    """Add the commands to the ``nexusq`` command."""
    for command in (submit, status, report, types):
        app.command()(command)


@contextlib.contextmanager
def _client(url: str | None) -> Iterator[nexusq_sdk.Client]:
    """Give a client; what it refuses is told in one message, without a traceback."""
    try:
        with nexusq_sdk.Client(url) as client:
            yield client
    except (nexusq_sdk.NexusQError, FileNotFoundError) as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"nexusq: {error}", markup=False)
        raise typer.Exit(1) from None


def _kind(path: Path, known: dict[str, str]) -> str:
    try:
        return known[path.suffix.lower()]
    except KeyError:
        expected = ", ".join(known)
        raise typer.BadParameter(f"expected a file that ends in one of {expected}, got {path.name!r}") from None


def _read(path: Path) -> Any:
    import pandas  # noqa: PLC0415 - only this command needs it

    reader = _kind(path, _READERS)
    options = {"lines": True} if reader == "read_json" else {}
    try:
        return getattr(pandas, reader)(path, **options)
    except ValueError as error:
        raise typer.BadParameter(f"{path}: {error}") from None


def submit(
    task_type: Annotated[str, typer.Argument(metavar="TYPE", help="Task type, such as EMAIL_SEND.")],
    file: Annotated[Path, typer.Argument(help="Rows: .csv, .jsonl or .parquet; its columns are the payload's fields.")],
    wait: Annotated[bool, typer.Option("--wait", help="Show progress and wait for the end.")] = False,
    queue: Annotated[str | None, typer.Option(help="Queue; otherwise the default one.")] = None,
    url: Url = None,
) -> None:
    """Submit a file of rows as a batch, and print its id."""
    with _client(url) as client:
        batch = client.submit_batch(task_type, _read(file), queue=queue)
        typer.echo(batch.id)
        if wait:
            batch.progress()
            batch.wait()
            if batch.counts()["FAILED"]:
                raise typer.Exit(3)


def status(
    id_: Annotated[str, typer.Argument(metavar="ID", help="Id of a task or of a batch.")], url: Url = None
) -> None:
    """Print how a task or a batch stands."""
    with _client(url) as client:
        try:
            typer.echo(_described(client.task(id_).info()))
        except nexusq_sdk.UnknownTask:
            typer.echo(_described(client.batch(id_).info()))


def report(
    batch: Annotated[str, typer.Argument(help="Id of a batch.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write all rows: .csv, .jsonl, .parquet.")
    ] = None,
    url: Url = None,
) -> None:
    """Print a batch's report; with -o, write the outcome of each task."""
    writer = _kind(output, _WRITERS) if output else ""
    with _client(url) as client:
        found = client.batch(batch)
        if output is None:
            typer.echo(found.report().to_string())
            return
        frame = found.frame()
        if writer == "to_json":
            frame.to_json(output, orient="records", lines=True, date_format="iso")
        elif writer == "to_parquet":
            frame.assign(result=[_json(value) for value in frame["result"]]).to_parquet(output)
        else:
            frame.assign(result=[_json(value) for value in frame["result"]]).to_csv(output)
        typer.echo(f"{len(frame)} rows written to {output}")


def _json(value: Any) -> str:
    """Give a result as JSON: a table's cell holds text, not Python's spelling of a dict."""
    return msgspec.json.encode(value).decode()


def _described(view: msgspec.Struct) -> str:
    """Give what the API answers, as JSON to read."""
    return msgspec.json.format(msgspec.json.encode(view), indent=2).decode()


def types(url: Url = None) -> None:
    """List the task types that workers offer."""
    with _client(url) as client:
        typer.echo(client.task_types().to_string(index=False))
