"""Shows a batch's progress: one thread polls its counters, a drawer shows them as suits the place.

A widget in a notebook, a bar in a terminal, lines in a log. One poll of the counters for all tasks, never one a task.
"""

from __future__ import annotations

import contextlib
import html
import shutil
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol, TextIO

from nexusq_sdk.errors import NexusQError
from nexusq_sdk.protocol.wire import BatchView
from nexusq_sdk.protocol.words import TERMINAL, Status

#: How often the counters are asked for: five times a second while a batch is young, once a second when it is old.
FASTEST, SLOWEST = 0.2, 1.0


def ended(view: BatchView) -> int:
    """Give how many of a batch's tasks have ended."""
    return sum(view.counts.get(status.value, 0) for status in TERMINAL)


def finished(view: BatchView) -> bool:
    """Whether a batch has all its tasks and all of them have ended."""
    return view.closed and ended(view) >= view.size


def describe(view: BatchView) -> str:
    """Say in one line how a batch stands."""
    parts = [f"{ended(view):,} of {view.size:,}"]
    failed = view.counts.get(Status.FAILED, 0)
    if failed:
        parts.append(f"{failed:,} failed")
    if view.rate_per_second:
        parts.append(f"{view.rate_per_second:,.0f}/s")
        left = view.size - ended(view)
        if left and view.finished_at is None:
            parts.append(f"{_span(left / view.rate_per_second)} left")
    if view.finished_at and view.started_at:
        parts.append(f"in {_span((view.finished_at - view.started_at).total_seconds())}")
    return ", ".join(parts)


def _span(seconds: float) -> str:
    if seconds < 0.1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


class Drawer(Protocol):
    """One way of showing."""

    def draw(self, view: BatchView) -> None:
        """Show the counters."""

    def away(self, error: str) -> None:
        """Show that the server does not answer just now."""


class LogDrawer:
    """A line at each tenth, for logs and pipes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._tenth = -1

    def draw(self, view: BatchView) -> None:
        """Write a line if a tenth more has ended."""
        tenth = 10 * ended(view) // view.size if view.size else 10
        if tenth > self._tenth or (finished(view) and self._tenth < 11):
            self._tenth = 11 if finished(view) else tenth
            self._write(f"{view.task_type} {view.batch_id}: {describe(view)}")

    def away(self, error: str) -> None:
        """Write a line."""
        self._write(error)

    def _write(self, line: str) -> None:
        with contextlib.suppress(ValueError, OSError):  # the stream is closed: nobody reads it any more
            print(line, file=self._stream, flush=True)


class TerminalDrawer:
    """A bar that is drawn over and over in one line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def draw(self, view: BatchView) -> None:
        """Draw the bar."""
        width = 30
        share = ended(view) / view.size if view.size else 1.0
        eighths = int(share * width * 8)
        bar = "█" * (eighths // 8) + (" ▏▎▍▌▋▊▉"[eighths % 8] if eighths % 8 else "")
        if not (self._stream.encoding or "").lower().startswith("utf"):
            bar = "#" * (eighths // 8)
        self._write(f"{view.task_type} |{bar:<{width}}| {share:4.0%} {describe(view)}", "\n" if finished(view) else "")

    def away(self, error: str) -> None:
        """Say so in the bar's line."""
        self._write(error, "")

    def _write(self, text: str, end: str) -> None:
        columns = shutil.get_terminal_size().columns
        with contextlib.suppress(ValueError, OSError):  # the stream is closed: the program ends
            self._stream.write(f"\r\x1b[2K{text[: columns - 1]}{end}")
            self._stream.flush()


class WidgetDrawer:
    """An ipywidget: a bar, the counts by status, the batch's id."""

    def __init__(self) -> None:
        import ipywidgets  # noqa: PLC0415 - only in notebooks
        from IPython.display import display  # noqa: PLC0415

        self._bar = ipywidgets.FloatProgress(min=0.0, max=1.0, layout=ipywidgets.Layout(width="60%"))
        self._text = ipywidgets.HTML()
        self._box = ipywidgets.VBox([self._bar, self._text])
        self._shown = display(self._box, display_id=True)  # type: ignore[no-untyped-call]

    def draw(self, view: BatchView) -> None:
        """Set the widget's values."""
        self._bar.value = ended(view) / view.size if view.size else 1.0
        style = "danger" if view.counts.get(Status.FAILED, 0) else "success"
        self._bar.bar_style = style if finished(view) else ""
        self._text.value = f"<b>{html.escape(view.task_type)}</b> {describe(view)} {_counts(view)}"
        if finished(view) and self._shown is not None:
            # A saved notebook is also read where no widget is drawn: there it says how the batch ended.
            ended_so = {"text/plain": f"{view.task_type} {view.batch_id}: {describe(view)}"}
            self._shown.update(self._box._repr_mimebundle_() | ended_so, raw=True)

    def away(self, error: str) -> None:
        """Say so below the bar."""
        self._bar.bar_style = "warning"
        self._text.value = html.escape(error)


def _counts(view: BatchView) -> str:
    shown = ", ".join(f"{name} {count:,}" for name, count in view.counts.items() if count)
    id_ = f"<code style='white-space:nowrap'>{html.escape(view.batch_id)}</code>"
    return f"<span style='opacity:.7'>({shown}) {id_}</span>"


def choose_drawer() -> Drawer:
    """Give the drawer for where this runs."""
    ipython = sys.modules.get("IPython")
    shell: Any = ipython.get_ipython() if ipython is not None else None
    if shell is not None and hasattr(shell, "kernel"):
        with contextlib.suppress(ImportError):
            return WidgetDrawer()
    # As others do: what a program prints for the next one stays clean.
    return TerminalDrawer(sys.stderr) if sys.stderr.isatty() else LogDrawer(sys.stderr)


class Progress(threading.Thread):
    """What `Batch.progress` gives: it goes on by itself until the batch has ended."""

    def __init__(self, read: Callable[[], BatchView], drawer: Drawer) -> None:
        super().__init__(name="nexusq-progress", daemon=True)
        self._read = read
        self._drawer = drawer
        self._closed = threading.Event()

    def run(self) -> None:
        """Poll and draw until the end."""
        began = time.monotonic()
        while not self._closed.is_set():
            try:
                view = self._read()
            except RuntimeError:
                return  # the client was closed
            except NexusQError as error:
                self._drawer.away(f"{error} (goes on when it answers)")
            else:
                self._drawer.draw(view)
                if finished(view):
                    return
            self._closed.wait(FASTEST if time.monotonic() - began < 60 else SLOWEST)

    def close(self) -> None:
        """Stop drawing; the batch goes on."""
        self._closed.set()

    def _ipython_display_(self) -> None:
        """Show nothing at a cell's end: the widget or the bar is there already."""

    def __repr__(self) -> str:
        return "<Progress, live>" if self.is_alive() else "<Progress, ended>"
