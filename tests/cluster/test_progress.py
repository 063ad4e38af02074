"""How a batch is shown while it runs: widget, HTML, rich's bar; the widget also in a real kernel."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import msgspec
import nbformat
import pytest
from nbclient import NotebookClient

import nexusq_sdk
from nexusq_sdk import drawers_notebook
from nexusq_sdk.drawers_notebook import NOTHING, HtmlDrawer, WidgetDrawer
from nexusq_sdk.progress import Progress, choose_drawer
from tests.conftest import Addresses, eventually


class Place:
    """The place of one output: what was put into it."""

    def __init__(self, bundle: dict[str, Any]) -> None:
        self.bundles = [bundle]

    def update(self, bundle: dict[str, Any], *, raw: bool) -> None:
        assert raw
        self.bundles.append(bundle)


class Shown:
    """What a notebook would show: a picture, and below it a widget where there are widgets."""

    def __init__(self) -> None:
        self.places: list[Place] = []

    @property
    def picture(self) -> dict[str, Any]:
        return self.places[0].bundles[-1]

    @property
    def html(self) -> str:
        return str(self.picture["text/html"])


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Shown:
    """Give what is displayed, in a process that passes for a kernel."""
    shown = Shown()

    def display(bundle: dict[str, Any]) -> Place:
        shown.places.append(Place(bundle))
        return shown.places[-1]

    monkeypatch.setattr(drawers_notebook, "_display", display)
    return shown


WIDGET = "application/vnd.jupyter.widget-view+json"


def live(progress: Progress) -> WidgetDrawer:
    drawer = progress._drawer
    assert isinstance(drawer, WidgetDrawer)
    return drawer


def start(batch: nexusq_sdk.Batch) -> Progress:
    drawer = drawers_notebook.drawer(batch.cancel, batch._example, batch._glance())
    progress = Progress(batch.info, drawer)
    progress.start()
    return progress


def test_a_widget_shows_the_counts_and_leaves_a_picture_that_needs_no_kernel(
    client: nexusq_sdk.Client, shown: Shown
) -> None:
    batch = client.submit_batch("DIVIDE", [{"a": 1, "b": n % 2} for n in range(40)])

    progress = start(batch)
    progress.join(30)

    picture, widget = shown.places
    assert batch.id in picture.bundles[0]["text/html"]
    assert WIDGET in widget.bundles[0]
    assert NOTHING == widget.bundles[-1]
    assert {"text/plain", "text/html"} == set(shown.picture)
    assert f"DIVIDE {batch.id}: 40 of 40, 20 failed" in shown.picture["text/plain"]
    for said in ("20 failed", "20 × ZeroDivisionError", "<details>", "return a / b"):
        assert said in shown.html
    assert "<Progress, ended>" == repr(progress)


def test_a_widget_has_a_button_that_cancels_the_batch(client: nexusq_sdk.Client, queue: str, shown: Shown) -> None:
    batch = client.submit_batch("ECHO", range(10), queue=queue)
    progress = start(batch)
    drawer = live(progress)
    eventually(lambda: _in("10 queued", drawer._counters.value))

    drawer._button.click()
    progress.join(30)

    assert 10 == batch.counts()["CANCELLED"]
    assert "10 cancelled" in shown.html
    assert not progress.is_alive()


def test_a_button_that_can_not_cancel_says_why_and_can_be_pressed_again(
    client: nexusq_sdk.Client, queue: str, shown: Shown
) -> None:
    batch = client.submit_batch("ECHO", [1], queue=queue)

    def refuse() -> None:
        raise nexusq_sdk.ServerUnavailable("<b>Redis</b> is away")

    drawer = WidgetDrawer(refuse, None, batch.info())
    drawer._button.click()

    eventually(lambda: _in("could not be cancelled", drawer._note))
    eventually(lambda: _in("False", str(drawer._button.disabled)))
    drawer.draw(batch.info(), None)
    assert "&lt;b&gt;Redis&lt;/b&gt; is away" in drawer._counters.value
    drawer.stop()


def test_a_notebook_that_is_saved_meanwhile_has_a_picture_of_how_far_it_was(
    client: nexusq_sdk.Client, queue: str, shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a widget of a batch that waits, which hides the picture above it
    monkeypatch.setattr(drawers_notebook, "PICTURE_SECONDS", 0.0)
    batch = client.submit_batch("ECHO", [1, 2], queue=queue)
    drawer = WidgetDrawer(None, None, batch.info())
    [hides] = [part.value for part in drawer._box.children if "<style>" in getattr(part, "value", "")]

    # when one of its tasks ends
    client.task(f"{batch.id}-0").cancel()
    drawer.draw(batch.info(), None)

    # then the picture says so, though the widget is there still
    assert "1 of 2, 1 cancelled" in shown.picture["text/plain"]
    assert f".{drawer._picture}{{display:none}}" in hides
    assert f"class='{drawer._picture}'" in shown.html
    assert WIDGET in shown.places[1].bundles[-1]
    # and when nobody draws any more, it stands there alone
    drawer.stop()
    assert drawer._picture not in shown.html
    assert NOTHING == shown.places[1].bundles[-1]


def test_widgets_of_batches_that_have_ended_are_kept_for_pages_that_are_loaded_anew_but_not_for_ever(
    client: nexusq_sdk.Client, shown: Shown
) -> None:
    view = client.submit_batch("ECHO", [1]).wait(timeout=30).info()
    drawers = [WidgetDrawer(None, None, view) for _ in range(drawers_notebook.KEPT + 1)]

    for drawer in drawers:
        drawer.draw(view, None)

    assert drawers[0]._counters.comm is None
    assert drawers[-1]._counters.comm is not None
    assert "1 of 1" in drawers[-1]._counters.value
    assert "none" == drawers[-1]._button.layout.display


def test_what_unfolds_is_not_written_anew_while_its_count_moves(client: nexusq_sdk.Client, shown: Shown) -> None:
    # given a widget that shows a batch with a failure
    batch = client.submit_batch("DIVIDE", [{"a": 1, "b": 0}]).wait(timeout=30)
    view = msgspec.structs.replace(batch.info(), size=10)
    drawer = WidgetDrawer(None, batch._example, None)
    drawer.draw(view, None)
    count, example, _ = drawer._rows["ZeroDivisionError"]
    assert "1 ×" in count.value
    assert "<details>" in example.value
    before = example.value

    # when there are more of its type
    [kind] = view.errors
    more = msgspec.structs.replace(kind, count=7, task_id=f"{batch.id}-7")
    drawer.draw(msgspec.structs.replace(view, errors=[more]), None)

    # then its count says so, and what a reader may have unfolded is what it was
    assert "7 ×" in count.value
    assert before == example.value
    assert 1 == len(drawer._failures.children)
    drawer.stop()


def test_one_that_only_reads_has_no_button(client: nexusq_sdk.Client, shown: Shown) -> None:
    drawer = WidgetDrawer(None, None)

    assert "none" == drawer._button.layout.display
    drawer.away("<i>away</i>")
    assert "&lt;i&gt;away&lt;/i&gt;" in drawer._counters.value
    drawer.stop()


def test_without_ipywidgets_html_is_updated_in_its_place(
    client: nexusq_sdk.Client, shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    batch = client.submit_batch("DIVIDE", [{"a": 1, "b": 0}])

    progress = start(batch)
    progress.join(30)

    assert type(progress._drawer) is HtmlDrawer
    [picture] = shown.places
    assert {"text/plain", "text/html"} == {name for bundle in picture.bundles for name in bundle}
    assert "1 × ZeroDivisionError" in shown.html


def test_counters_are_polled_once_for_all_tasks_and_ever_less_often(
    client: nexusq_sdk.Client, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = client.submit_batch("ECHO", range(500), queue=queue)
    pauses: list[float] = []

    class Closed:
        """The event that a progress waits on: it never waits here."""

        def is_set(self) -> bool:
            return len(pauses) >= 20

        def wait(self, pause: float) -> None:
            pauses.append(pause)

    progress = Progress(batch.info, choose_drawer())
    progress._closed = Closed()  # type: ignore[assignment]
    progress.run()

    assert pauses == sorted(pauses)
    assert (0.2, 3.0) == (pauses[0], pauses[-1])


class Terminal(io.StringIO):
    """What a program's stderr is in a terminal."""

    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True


def test_in_a_terminal_rich_draws_the_bar_where_it_is_installed(
    client: nexusq_sdk.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("sys.stderr", terminal)
    batch = client.submit_batch("DIVIDE", [{"a": 1, "b": n} for n in range(4)])

    progress = batch.progress()
    batch.wait(timeout=30)

    assert not progress.is_alive()
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue())
    assert re.search(r"DIVIDE █{30} 100% +4 of 4, 1 failed, .*in [\d.]+ m?s", plain)


def test_progress_shows_itself_in_a_real_kernel_and_is_saved_with_its_outcome(
    cluster: Addresses, tmp_path: Path
) -> None:
    cells = [
        f"import nexusq_sdk, os, signal, threading\nclient = nexusq_sdk.Client({cluster.url!r})",
        """rows = [{'a': 1, 'b': n % 4} for n in range(40)]
batch = client.submit_batch('DIVIDE', rows)
batch.progress()
print('returned')""",
        "_ = batch.wait(timeout=60)",
        "client.submit_batch('DIVIDE', rows).wait(timeout=30)",
        """waits = client.submit_batch('ECHO', [1], queue='nobody')
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
waits.wait()""",
        "waits.cancel().done()",
        "list(client.submit_batch('DIVIDE', rows).results())",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(
        notebook, timeout=120, kernel_name="python3", allow_errors=True, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()

    def outputs(cell: int, kind: str) -> list[Any]:
        return [output for output in notebook.cells[cell].outputs if output.output_type == kind]

    # the cell came back at once, and what it showed is a picture of the outcome
    assert ["returned\n"] == [output.text for output in outputs(1, "stream")]
    picture, widget = outputs(1, "display_data")
    assert NOTHING == widget.data
    assert {"text/plain", "text/html"} == set(picture.data)
    assert "40 of 40, 10 failed" in picture.data["text/plain"]
    assert "10 × ZeroDivisionError" in picture.data["text/html"]
    # a handle at a cell's end
    [handle] = outputs(3, "execute_result")
    assert "10 × ZeroDivisionError" in handle.data["text/html"]
    assert "40 of 40, 10 failed" in handle.data["text/plain"]
    # an interrupted wait says how to go on, and the next cell runs
    [error] = outputs(4, "error")
    assert "KeyboardInterrupt" == error.ename
    assert "Take it up again, from any kernel: client.batch(" in json.dumps(error.traceback)
    assert [] == outputs(5, "error")
    # a failure: the worker's traceback below the local one
    [error] = outputs(6, "error")
    assert "BatchFailed" == error.ename
    told = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))
    assert "10 of 40 tasks of batch" in told
    assert "return a / b" in told[told.index("10 × ZeroDivisionError") :]


def _in(part: str, whole: str) -> None:
    assert part in whole
