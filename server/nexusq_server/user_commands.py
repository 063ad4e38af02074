"""What users ask of a server from a terminal: submit, status, report, types. Thin over the SDK.

The one part of the server that uses the SDK's public names; they load when first used.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import nexusq_sdk

Url = Annotated[str | None, typer.Option("--url", help="URL of the API; otherwise NEXUSQ_URL, or this machine's.")]
_READABLE = (".csv", ".jsonl", ".parquet")
_NEEDS_PYARROW = "expected pyarrow to be installed, which reads and writes .parquet: pip install pyarrow"


def add_to(app: typer.Typer) -> None:
    """Add the commands to the ``nexusq`` command."""
    for command in (submit, status, report, types):
        app.command()(command)


def tell(message: object) -> None:
    """Say something to the user, beside what a command prints."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"nexusq: {message}", markup=False)


@contextlib.contextmanager
def connected(url: str | None) -> Iterator[nexusq_sdk.Client]:
    """Give a client; what it or a file refuses is told in one message, without a traceback."""
    try:
        with nexusq_sdk.Client(url) as client:
            yield client
    except (nexusq_sdk.NexusQError, OSError, ValueError, TypeError) as error:
        message = str(error)
        if isinstance(error, OSError) and error.filename is not None:
            message = f"{error.filename}: {error.strerror}"
        tell("\n".join([message, *getattr(error, "__notes__", ())]))
        raise typer.Exit(1) from None


def _ending(path: Path) -> str:
    ending = path.suffix.lower()
    if ending not in _READABLE:
        raise typer.BadParameter(f"expected a file that ends in one of {', '.join(_READABLE)}, got {path.name!r}")
    return ending


def _read(path: Path, ending: str) -> Any:
    """Give the file's rows, all read: what is wrong in its last line is told before the first is submitted."""
    if ending == ".jsonl":
        with path.open("rb") as lines:
            return [_parsed(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]

    import pandas as pd  # noqa: PLC0415 - only these files need it

    try:
        if ending == ".parquet":
            return pd.read_parquet(path)
        # An empty cell is a missing value. A cell with NA or None in it is a text.
        return pd.read_csv(path, keep_default_na=False, na_values=[""])
    except ImportError:
        raise ValueError(_NEEDS_PYARROW) from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _parsed(path: Path, number: int, line: bytes) -> Any:
    try:
        return msgspec.json.decode(line)
    except msgspec.DecodeError as error:
        raise ValueError(f"{path}, line {number}: expected a payload in JSON, got {error}") from None


def submit(
    task_type: Annotated[str, typer.Argument(metavar="TYPE", help="Task type, such as EMAIL_SEND.")],
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="Rows: .csv, .parquet (columns are the payload's fields), .jsonl (a payload a line)."
        ),
    ],
    wait: Annotated[bool, typer.Option("--wait", help="Show progress and wait for the end.")] = False,
    queue: Annotated[str | None, typer.Option(help="Queue; otherwise the default one.")] = None,
    allow_unknown: Annotated[
        bool, typer.Option("--allow-unknown", help="Submit although no worker has ever offered the type.")
    ] = False,
    url: Url = None,
) -> None:
    """Submit a file of rows as a batch, and print its id."""
    ending = _ending(file)
    with connected(url) as client:
        batch = client.submit_batch(task_type, _read(file, ending), queue=queue, allow_unknown=allow_unknown)
        typer.echo(batch.id)
        if not wait:
            return
        try:
            batch.progress()
            batch.wait()
        except KeyboardInterrupt:
            typer.echo(err=True)  # below the bar
            tell(f"no longer waiting; the batch goes on: nexusq status {batch.id}")
            raise typer.Exit(130) from None
        failed = batch.counts()["FAILED"]
        if failed:
            tell(f"{failed} of {len(batch)} tasks failed; see why: nexusq report {batch.id} -o outcomes.csv")
            raise typer.Exit(3)


def status(
    id_: Annotated[str, typer.Argument(metavar="ID", help="Id of a task or of a batch.")], url: Url = None
) -> None:
    """Print how a task or a batch stands."""
    with connected(url) as client:
        try:
            typer.echo(_described(client.task(id_).info()))
        except nexusq_sdk.UnknownTask:
            with contextlib.suppress(nexusq_sdk.UnknownTask):
                typer.echo(_described(client.batch(id_).info()))
                return
            raise nexusq_sdk.UnknownTask(f"expected the id of a task or a batch, got {id_!r}: there is none") from None


def report(
    batch: Annotated[str, typer.Argument(help="Id of a batch.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write all rows: .csv, .jsonl, .parquet.")
    ] = None,
    url: Url = None,
) -> None:
    """Print a batch's report; with -o, write the outcome of each task."""
    ending = _ending(output) if output else ""
    with connected(url) as client:
        found = client.batch(batch)
        if output is None:
            summed = found.report()
            times = dict.fromkeys(summed.columns.drop("tasks"), _span)
            typer.echo(summed.to_string(formatters=times))
            return
        frame = found.frame()
        if ending == ".jsonl":
            frame.to_json(output, orient="records", lines=True, date_format="iso", date_unit="us")
        else:
            frame["result"] = [_json(value) for value in frame["result"]]
            try:
                frame.to_parquet(output) if ending == ".parquet" else frame.to_csv(output, index=False)
            except ImportError:
                raise ValueError(_NEEDS_PYARROW) from None
        typer.echo(f"{len(frame)} rows written to {output}")


def _json(value: Any) -> str | None:
    """Give a result as JSON: a table's cell holds text, not Python's spelling of a dict."""
    return None if value is None else msgspec.json.encode(value).decode()


def _span(time: Any) -> str:
    seconds = time.total_seconds()
    if math.isnan(seconds):  # NaT
        return "-"
    return f"{1000 * seconds:.3g} ms" if seconds < 0.9995 else f"{seconds:,.3f} s"


def _described(view: msgspec.Struct) -> str:
    """Give what the API answers, as JSON to read."""
    return msgspec.json.format(msgspec.json.encode(view), indent=2).decode()


def types(url: Url = None) -> None:
    """List the task types that workers offer."""
    with connected(url) as client:
        offered = client.task_types()
    if offered.empty:
        tell("no worker has offered a task type yet; start one: nexusq worker")
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("task type", no_wrap=True)
    table.add_column("fields (? may be left out)", overflow="fold")
    table.add_column("description", overflow="fold")
    for row in offered.itertuples():
        table.add_row(*(escape(str(cell)) for cell in (row.task_type, row.fields, row.description)))
    Console(width=None if sys.stdout.isatty() else 200, highlight=False).print(table)
