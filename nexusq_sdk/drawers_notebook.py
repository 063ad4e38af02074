"""Progress in a notebook: a picture in HTML, and while the batch runs an ipywidget in its place, with a cancel button.

The widget is drawn from the progress's thread; its button answers in a thread of its own, so that neither waits for the
other. The picture is brought up to date below the widget, which hides it: a notebook that is saved at any time keeps a
picture that needs no kernel. Loads IPython, and ipywidgets where it is there.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from nexusq_sdk import handle_html
from nexusq_sdk.drawers import Drawer, Example
from nexusq_sdk.progress_text import describe, finished
from nexusq_sdk.protocol.wire import BatchView, TaskError

#: Seconds between two pictures: they are seen where a notebook shows no widgets, or is opened without its kernel.
PICTURE_SECONDS = 1.0
#: Widgets of batches that have ended which are kept, for pages that were loaded anew.
KEPT = 10
NOTHING = {"text/plain": "", "text/html": ""}
_kept: deque[WidgetDrawer] = deque()


def drawer(cancel: Callable[[], object] | None, example: Example | None, view: BatchView | None = None) -> Drawer:
    """Give a widget, or HTML that is updated in its place where ipywidgets is not installed. `view`: shown at first."""
    try:
        return WidgetDrawer(cancel, example, view)
    except ImportError:
        return HtmlDrawer(example, view)


class HtmlDrawer:
    """HTML that is updated in its place."""

    def __init__(self, example: Example | None, view: BatchView | None = None) -> None:
        self._ask = example
        self._examples: dict[str, TaskError] = {}
        self._asked: set[str] = set()
        self._view = view
        self._pace: float | None = None
        self._shown = _display(self._bundle())

    def draw(self, view: BatchView, pace: float | None) -> None:
        """Show the counters."""
        self._view, self._pace = view, pace
        self._learn(view)
        self._update()

    def away(self, error: str) -> None:
        """Say so below the counters."""
        self._update(error)

    def stop(self) -> None:
        """Leave it as it is."""

    def repeat(self) -> None:
        """Show the last picture again, from the thread that calls."""
        self._update()

    def _learn(self, view: BatchView) -> None:
        """Ask for an error of each kind that is new: a call for each kind, once."""
        for kind in view.errors[: handle_html.SHOWN_ERRORS]:
            if self._ask is not None and kind.type not in self._asked:
                self._asked.add(kind.type)
                found = self._ask(kind.task_id)
                if found is not None:
                    self._examples[kind.type] = found

    def _html(self, note: str = "", examples: bool = True) -> str:
        if self._view is None:
            return f"<div>{handle_html.text(note)}</div>"
        return handle_html.batch(self._view, self._pace, self._examples if examples else None, note)

    def _plain(self, note: str = "") -> str:
        view = self._view
        if view is None:
            return note
        return f"{view.task_type} {view.batch_id}: {describe(view, self._pace)}{f' ({note})' if note else ''}"

    def _bundle(self, note: str = "") -> dict[str, Any]:
        return {"text/plain": self._plain(note), "text/html": self._html(note)}

    def _update(self, note: str = "") -> None:
        if self._shown is not None:
            self._shown.update(self._bundle(note), raw=True)


class WidgetDrawer(HtmlDrawer):
    """An ipywidget: the counters, a button that cancels, the errors by type to unfold."""

    def __init__(
        self, cancel: Callable[[], object] | None, example: Example | None, view: BatchView | None = None
    ) -> None:
        import ipywidgets  # noqa: PLC0415 - only in notebooks

        self._cancel = cancel
        self._note = ""
        self._ended = False
        #: Names this picture, so that the widget hides it and no other.
        self._picture = f"nexusq-{secrets.token_hex(6)}"
        self._widgets = ipywidgets
        self._counters = ipywidgets.HTML()
        #: For each type of errors its count, what unfolds, and both side by side.
        self._rows: dict[str, tuple[Any, Any, Any]] = {}
        self._failures = ipywidgets.VBox()
        self._more = ipywidgets.HTML()
        self._button = ipywidgets.Button(
            description="Cancel",
            icon="stop",
            tooltip="Cancel all tasks that have not ended",
            layout=ipywidgets.Layout(width="100px", display="" if cancel else "none"),
        )
        self._button.on_click(self._pressed)
        hides = ipywidgets.HTML(f"<style>.{self._picture}{{display:none}}</style>")
        hides.layout.display = "none"
        self._box = ipywidgets.VBox([self._counters, self._failures, self._button, hides])
        if view is not None:
            self._counters.value = handle_html.batch(view, errors_too=False)
        self._pictured = time.monotonic()
        super().__init__(example, view)
        widget = self._box._repr_mimebundle_() or {}
        self._place = _display({name: value for name, value in widget.items() if "widget" in name} | NOTHING)

    def draw(self, view: BatchView, pace: float | None) -> None:
        """Set the widget's values, and now and then the picture's; at the end leave the picture alone."""
        self._view, self._pace = view, pace
        self._learn(view)
        if finished(view):
            self.stop()
            return
        self._counters.value = handle_html.batch(view, pace, None, self._note, errors_too=False)
        self._show_failures(view)
        if time.monotonic() - self._pictured > PICTURE_SECONDS:
            self._pictured = time.monotonic()
            self._update(self._note)

    def _show_failures(self, view: BatchView) -> None:
        """Count the errors; what unfolds is written once, since it would close if it were written anew."""
        rows = []
        for kind in view.errors[: handle_html.SHOWN_ERRORS]:
            if kind.type not in self._rows:
                pair = (self._widgets.HTML(), self._widgets.HTML())
                pair[1].value = handle_html.error_example(kind, self._examples.get(kind.type))
                self._rows[kind.type] = (*pair, self._widgets.HBox(pair))
            count, _, row = self._rows[kind.type]
            count.value = handle_html.error_count(kind)
            rows.append(row)
        self._more.value = handle_html.more_errors(view)
        if self._more.value:
            rows.append(self._more)
        if [*self._failures.children] != rows:
            self._failures.children = rows

    def away(self, error: str) -> None:
        """Say so below the counters."""
        self._counters.value = self._html(error, examples=False)

    def stop(self) -> None:
        """Leave the picture, which needs no kernel.

        A page that was loaded anew meanwhile has the widget only: that one is left with what the picture shows, until
        `KEPT` others have ended.
        """
        if not self._ended:
            self._ended = True
            if self._view is not None:
                self._counters.value = self._html(self._note)
            self._failures.children = ()
            self._button.layout.display = "none"
            self.repeat()
            _kept.append(self)
            while len(_kept) > KEPT:
                _kept.popleft()._close()

    def _close(self) -> None:
        parts = [widget for row in self._rows.values() for widget in row]
        for widget in (*parts, self._more, *self._box.children, self._box):
            widget.close()

    def repeat(self) -> None:
        """Show the last picture again, from the thread that calls."""
        self._update(self._note)
        if self._ended and self._place is not None:
            self._place.update(NOTHING, raw=True)

    def _pressed(self, _: Any) -> None:
        self._button.disabled = True
        self._button.description = "Cancelling"
        threading.Thread(target=self._do_cancel, name="nexusq-cancel", daemon=True).start()

    def _do_cancel(self) -> None:
        try:
            assert self._cancel is not None
            self._cancel()
            self._note = "Cancelled. batch.retry_failed(cancelled=True) takes it back."
            if self._ended:  # it was drawn for the last time before this was known
                self._update(self._note)
        except Exception as error:  # shown: nobody else would hear of it
            self._note = f"It could not be cancelled: {error}"
            self._button.disabled = False
            self._button.description = "Cancel"

    def _bundle(self, note: str = "") -> dict[str, Any]:
        bundle = super()._bundle(note)
        if not self._ended:
            bundle["text/html"] = f"<div class='{self._picture}'>{bundle['text/html']}</div>"
        return bundle


def _display(bundle: dict[str, Any]) -> Any:
    from IPython.display import display  # noqa: PLC0415 - only in notebooks

    return display(bundle, raw=True, display_id=True)  # type: ignore[no-untyped-call]
