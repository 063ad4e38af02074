"""Shows a batch's progress: one thread polls its counters, a drawer shows them as suits the place.

One poll of the counters for all tasks, never one a task; the less happens, the rarer.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from nexusq_sdk.drawers import Drawer, Example, LogDrawer, RichDrawer, TerminalDrawer
from nexusq_sdk.errors import NexusQError
from nexusq_sdk.progress_text import Pace, ended, finished
from nexusq_sdk.protocol.wire import BatchView

#: How often the counters are asked for, in seconds: while they change, and when nothing has changed for long.
FASTEST, SLOWEST = 0.2, 3.0


def choose_drawer(
    cancel: Callable[[], object] | None = None, example: Example | None = None, view: BatchView | None = None
) -> Drawer:
    """Give the drawer for where this runs. `view` is what it shows at first, where that can be replaced."""
    ipython = sys.modules.get("IPython")
    shell: Any = ipython.get_ipython() if ipython is not None else None
    if shell is not None and hasattr(shell, "kernel"):
        from nexusq_sdk import drawers_notebook  # noqa: PLC0415 - only in notebooks

        return drawers_notebook.drawer(cancel, example, view)
    # As others do: what a program prints for the next one stays clean.
    if not sys.stderr.isatty():
        return LogDrawer(sys.stderr)
    utf = (sys.stderr.encoding or "").lower().startswith("utf")
    # An interactive prompt keeps its line: a bar that is redrawn behind it by rich would tear it.
    if utf and shell is None and not hasattr(sys, "ps1") and _installed("rich"):
        return RichDrawer(sys.stderr)
    return TerminalDrawer(sys.stderr)


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:  # None stands in its place
        return False


class Progress(threading.Thread):
    """What `Batch.progress` gives: it goes on by itself until the batch has ended."""

    def __init__(self, read: Callable[[], BatchView], drawer: Drawer) -> None:
        super().__init__(name="nexusq-progress", daemon=True)
        self._read = read
        self._drawer = drawer
        self._closed = threading.Event()

    def run(self) -> None:
        """Poll and draw until the end."""
        pace, pause = Pace(), FASTEST
        last: dict[str, int] = {}
        try:
            while not self._closed.is_set():
                try:
                    view = self._read()
                except RuntimeError:
                    return  # the client was closed
                except NexusQError as error:
                    self._drawer.away(f"{error} (goes on when it answers)")
                    pause = SLOWEST
                else:
                    self._drawer.draw(view, pace.add(time.monotonic(), ended(view)))
                    if finished(view):
                        return
                    pause = FASTEST if view.counts != last else min(1.3 * pause, SLOWEST)
                    last = view.counts
                self._closed.wait(pause)
        finally:
            self._drawer.stop()

    def settle(self, seconds: float) -> None:
        """Wait for the last drawing, at most so long, and have it repeated by the calling thread.

        Whoever runs a notebook without a browser hears only what comes from the cell that is running.
        """
        self.join(seconds)
        repeat = getattr(self._drawer, "repeat", None)
        if repeat is not None and not self.is_alive():
            repeat()

    def close(self) -> None:
        """Stop drawing; the batch goes on."""
        self._closed.set()

    def _ipython_display_(self) -> None:
        """Show nothing at a cell's end: the widget or the bar is there already."""

    def __repr__(self) -> str:
        return "<Progress, live>" if self.is_alive() else "<Progress, ended>"
