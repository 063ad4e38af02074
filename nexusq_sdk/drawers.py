"""The ways of showing a batch's progress outside of notebooks: lines in a log, a bar in a terminal."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from typing import Any, Protocol, TextIO

from nexusq_sdk.progress_text import bar, describe, finished, said, share, state
from nexusq_sdk.protocol.wire import BatchView, TaskError

#: Gives the error of a failed task, to unfold a kind of errors to.
Example = Callable[[str], TaskError | None]


class Drawer(Protocol):
    """One way of showing. Called by one thread at a time."""

    def draw(self, view: BatchView, pace: float | None) -> None:
        """Show the counters; `pace`: tasks a second lately, None: not known."""

    def away(self, error: str) -> None:
        """Show that the server does not answer just now."""

    def stop(self) -> None:
        """Leave what was last shown: nobody goes on showing."""


def _first_said(view: BatchView) -> str:
    return f" · {said(view.said[0])}" if view.said else ""


class LogDrawer:
    """A line at each tenth, for logs and pipes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._tenth = -1
        self._away = False

    def draw(self, view: BatchView, pace: float | None) -> None:
        """Write a line if a tenth more has ended."""
        self._away = False
        tenth = int(10 * share(view))
        if tenth > self._tenth or (finished(view) and self._tenth < 11):
            self._tenth = 11 if finished(view) else tenth
            self._write(f"{view.task_type} {view.batch_id}: {describe(view, pace)}{_first_said(view)}")

    def away(self, error: str) -> None:
        """Write a line, once for each time that it is away."""
        if not self._away:
            self._away = True
            self._write(error)

    def stop(self) -> None:
        """Write nothing more."""

    def _write(self, line: str) -> None:
        with contextlib.suppress(ValueError, OSError):  # the stream is closed: nobody reads it any more
            print(line, file=self._stream, flush=True)


class TerminalDrawer:
    """A bar that is drawn over and over in one line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._open = False

    def draw(self, view: BatchView, pace: float | None) -> None:
        """Draw the bar."""
        ascii_only = not (self._stream.encoding or "").lower().startswith("utf")
        drawn = f"|{bar(share(view), 30, ascii_only)}| {share(view):4.0%}"
        line = f"{view.task_type} {drawn} {describe(view, pace)}{_first_said(view)}"
        self._write(line, "\n" if finished(view) else "")

    def away(self, error: str) -> None:
        """Say so in the bar's line."""
        self._write(error, "")

    def stop(self) -> None:
        """End the line."""
        if self._open:
            self._open = False
            with contextlib.suppress(ValueError, OSError):
                self._stream.write("\n")
                self._stream.flush()

    def _write(self, text: str, end: str) -> None:
        columns = shutil.get_terminal_size().columns
        with contextlib.suppress(ValueError, OSError):  # the stream is closed: the program ends
            self._stream.write(f"\r\x1b[2K{text[: columns - 1]}{end}")
            self._stream.flush()
        self._open = not end


class RichDrawer:
    """A bar by rich, with what has failed in red."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console  # noqa: PLC0415 - only where it is installed and there is a terminal
        from rich.live import Live  # noqa: PLC0415

        self._console = Console(file=stream, highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        self._begun = False

    def draw(self, view: BatchView, pace: float | None) -> None:
        """Draw the bar, below it what running tasks say."""
        from rich.console import Group  # noqa: PLC0415 - as above
        from rich.table import Table  # noqa: PLC0415 - as above
        from rich.text import Text  # noqa: PLC0415

        colours = {"failed": "red", "cancelled": "yellow", "completed": "green"}
        line = Table.grid(padding=(0, 1))
        drawn = Text(bar(share(view), 30), style=colours.get(state(view), "cyan"))
        line.add_row(Text(view.task_type, style="bold"), drawn, f"{share(view):.0%}", Text(describe(view, pace)))
        self._show(Group(line, *(Text(f"  {said(task)}", style="dim", overflow="ellipsis") for task in view.said)))
        if finished(view):
            self.stop()

    def away(self, error: str) -> None:
        """Say so in the bar's place."""
        from rich.text import Text  # noqa: PLC0415 - as above

        self._show(Text(error, style="yellow"))

    def stop(self) -> None:
        """Leave the bar as it is."""
        if self._begun:
            self._begun = False
            with contextlib.suppress(ValueError, OSError):
                self._live.stop()

    def _show(self, what: Any) -> None:
        with contextlib.suppress(ValueError, OSError):  # the stream is closed: the program ends
            if not self._begun:
                self._begun = True
                self._live.start()
            self._live.update(what, refresh=True)
