"""``nexusq schedules``: what is submitted again and again. Thin over the SDK, as `user_commands` is."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from nexusq_sdk.protocol.words import Missed, Priority
from nexusq_server.user_commands import Url, connected

_SHOWN = ["name", "task_type", "cron", "time_zone", "missed", "paused", "next_at", "last_at", "last_task_id"]

schedules = typer.Typer(help="List schedules (tasks that are submitted by cron), add and remove them.")
Name = Annotated[str, typer.Argument(metavar="NAME", help="The schedule's name, such as nightly-report.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the ``nexusq`` command."""
    app.add_typer(schedules, name="schedules")


@schedules.callback(invoke_without_command=True)
def list_(context: typer.Context, url: Url = None) -> None:
    """List schedules (tasks that are submitted by cron), add and remove them."""
    if context.invoked_subcommand is not None:
        return
    with connected(url) as client:
        frame = client.schedules()
        typer.echo(frame[_SHOWN].to_string(index=False, na_rep="-") if len(frame) else "There are no schedules.")


@schedules.command()
def add(
    name: Name,
    task_type: Annotated[str, typer.Argument(metavar="TYPE", help="Task type, such as EMAIL_SEND.")],
    cron: Annotated[
        str, typer.Option(help="When: '30 8 * * MON-FRI' (six fields: seconds first), or @hourly and the like.")
    ],
    payload: Annotated[str, typer.Option(help="The payload, as JSON.")] = "{}",
    time_zone: Annotated[str, typer.Option(help="In which time zone, such as Europe/Berlin.")] = "UTC",
    missed: Annotated[
        Missed, typer.Option(help="What to submit for times that nobody served: once, all (one each) or skip (none).")
    ] = Missed.ONCE,
    queue: Annotated[str | None, typer.Option(help="Queue; otherwise the default one.")] = None,
    priority: Annotated[Priority | None, typer.Option(help="Priority; otherwise normal.")] = None,
    paused: Annotated[bool, typer.Option("--paused", help="Keep it without submitting anything.")] = False,
    url: Url = None,
) -> None:
    """Add a schedule, or replace the one of this name."""
    try:
        value = msgspec.json.decode(payload)
    except msgspec.DecodeError as error:
        raise typer.BadParameter(f"expected --payload to be JSON, got {payload!r}: {error}") from None
    with connected(url) as client:
        view = client.schedule(
            name,
            task_type,
            value,
            cron=cron,
            time_zone=time_zone,
            missed=missed,
            paused=paused,
            queue=queue,
            priority=priority,
        )
        typer.echo(f"{name}: {'paused' if view.next_at is None else f'next at {view.next_at:%Y-%m-%d %H:%M:%S} UTC'}")


@schedules.command()
def remove(name: Name, url: Url = None) -> None:
    """Remove a schedule; what it has submitted runs."""
    with connected(url) as client:
        client.unschedule(name)
        typer.echo(f"{name}: removed")
