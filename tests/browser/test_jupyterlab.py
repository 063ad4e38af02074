"""What a data scientist does in JupyterLab: run, watch, cancel, interrupt, restart, take up again."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Locator, expect

import nexusq_sdk
from tests.browser.lab import PATIENCE, LabNotebook, write_notebook
from tests.conftest import ROOT, eventually

pytestmark = pytest.mark.timeout(400)
Open = Callable[[str], LabNotebook]

WAITS = """batch = client.submit_batch("SLEEP", [{"seconds": 0}] * 5 + [{"seconds": 90}] * 3, name="nightly")
batch.progress()
batch.wait()"""
CONNECT = """import os
import time

import pandas as pd

import nexusq_sdk

client = nexusq_sdk.Client(os.environ["NEXUSQ_URL"])"""
WATCHED = """def calibrate(sensor, reading):
    time.sleep(0.05)
    if sensor % 97 == 13:
        raise ValueError(f"sensor {sensor} is out of order")
    return 1.8 * reading + 32


readings = pd.DataFrame({"sensor": range(4000), "reading": 20.5})
batch = client.map(calibrate, readings, executor="thread", max_attempts=1, name="calibration")
batch.progress()"""
TRAINED = """def train(rate):
    task = nexusq_sdk.current_task()
    for epoch in range(1, 401):
        time.sleep(0.3)
        task.log(f"loss {1 / (1 + rate * epoch):.3f}")
        task.progress(epoch / 400, f"epoch {epoch}/400")


batch = client.map(train, [0.01, 0.1], executor="thread", name="training")
batch.progress()"""
FRAME = """outcomes = readings.join(batch.frame())
outcomes[["sensor", "status", "result", "error", "duration"]].iloc[11:15]"""
ENDED = """batch.wait().frame()["status"].value_counts()"""

#: How JupyterLab shows a traceback, and what is printed to stderr.
RAISED = "[data-mime-type='application/vnd.jupyter.stderr']"


def share(bar: Locator) -> int:
    """Give how much of a bar is full, in percent."""
    return int(bar.get_attribute("aria-valuenow") or 0)


def test_the_tour_runs_whole_and_shows_a_full_bar_and_the_outcomes(open_notebook: Open, folder: Path) -> None:
    # given a copy of the tour as it is before anybody has run it
    tour = nbformat.read(ROOT / "notebooks" / "tour.ipynb", as_version=4)
    sources = [cell.source for cell in tour.cells if cell.cell_type == "code"]
    write_notebook(folder / "tour.ipynb", sources)
    shutil.copy(ROOT / "notebooks" / "tour_tasks.py", folder)
    notebook = open_notebook("tour.ipynb")

    # when its cells are run
    notebook.run_all()
    for number in range(len(sources)):
        notebook.ended(number)

    # then none has raised, the bar is full, and the outcomes are a table
    expect(notebook.page.locator(RAISED)).to_have_count(0)
    expect(notebook.output(3).locator("[role=progressbar]")).to_have_attribute("aria-valuenow", "100")
    expect(notebook.output(3).first).to_contain_text("300 of 300")
    expect(notebook.output(5).locator("table")).to_contain_text("user0@example.com")
    notebook.output(3).first.scroll_into_view_if_needed()
    notebook.picture("tour")


def test_the_widget_moves_unfolds_its_errors_and_its_button_cancels_the_batch(
    open_notebook: Open, folder: Path, client: nexusq_sdk.Client
) -> None:
    # given a batch that takes a while, and its widget
    write_notebook(folder / "watch.ipynb", [CONNECT, WATCHED, FRAME, ENDED])
    notebook = open_notebook("watch.ipynb")
    notebook.run(0)
    notebook.run(1)

    # then the widget moves while the cell is free
    shown = notebook.output(1)
    widget = shown.locator(".widget-vbox").first
    bar = widget.locator("[role=progressbar]")
    expect(bar).to_be_visible(timeout=PATIENCE)
    expect(shown.first).to_be_hidden()
    before = share(bar)
    expect(widget.locator("details")).to_be_visible(timeout=PATIENCE)
    eventually(lambda: _more(bar, before))

    # and what is unfolded stays so while it moves on
    widget.locator("summary").click()
    expect(widget.locator("pre")).to_contain_text(re.compile(r"ValueError: sensor \d+ is out of order"))
    notebook.picture("progress-unfolded")
    unfolded = share(bar)
    eventually(lambda: _more(bar, unfolded))
    expect(widget.locator("pre")).to_be_visible()
    widget.locator("summary").click()
    eventually(lambda: _more(bar, 24))

    # and the outcomes so far are a table
    notebook.run(2)
    expect(notebook.output(2).locator("table")).to_contain_text("sensor 13 is out of order")
    notebook.picture("progress", notebook.cell(1), notebook.cell(2))

    # when its button is pressed
    shown.get_by_role("button", name="Cancel").click()

    # then the batch is cancelled, and a picture without a button stands there
    batch = client.batch("calibration")
    eventually(lambda: _cancelled(batch))
    expect(shown.first).to_contain_text(
        "Cancelled. batch.retry_failed(cancelled=True) takes it back.", timeout=PATIENCE
    )
    expect(shown.get_by_role("button")).to_have_count(0)
    expect(shown.locator("[role=progressbar]")).to_have_attribute("aria-valuenow", "100")
    notebook.run(3)
    expect(notebook.output(3)).to_contain_text(re.compile(rf"CANCELLED\s+{batch.counts()['CANCELLED']}"))
    shown.first.scroll_into_view_if_needed()
    notebook.picture("cancelled")


def test_what_tasks_say_is_seen_while_they_run_and_stays_in_a_notebook_that_is_saved_meanwhile(
    open_notebook: Open, folder: Path, client: nexusq_sdk.Client
) -> None:
    # given tasks that say how far they are
    write_notebook(folder / "train.ipynb", [CONNECT, TRAINED])
    notebook = open_notebook("train.ipynb")
    notebook.run(0)
    notebook.run(1)

    # then the widget shows it
    widget = notebook.output(1).locator(".widget-vbox").first
    expect(widget).to_contain_text(re.compile(r"row 0.*\d%.*epoch \d+/400.*loss 0\.\d+"), timeout=PATIENCE)
    expect(widget).to_contain_text("row 1")
    notebook.picture("said", notebook.cell(1), notebook.cell(1))

    # and a file that is saved now has a picture of it, for those who open it without the kernel
    def saved() -> None:
        notebook.page.keyboard.press("Control+s")
        outputs = nbformat.read(folder / "train.ipynb", as_version=4).cells[1].outputs
        assert re.search(r"epoch \d+/400", outputs[0].data["text/html"] if outputs else "")

    eventually(saved)
    client.batch("training").cancel()
    expect(widget).to_have_count(0, timeout=PATIENCE)
    expect(notebook.output(1).first).to_contain_text("2 cancelled")


def test_a_cell_that_waits_is_interrupted_and_a_restarted_kernel_takes_the_batch_up_again(
    open_notebook: Open, folder: Path, client: nexusq_sdk.Client
) -> None:
    # given a cell that waits for a batch that takes a while
    sources = [
        CONNECT,
        WAITS,
        "len(batch), batch.done()",
        'again = client.batch("nightly")\nagain.progress()',
        'again.cancel().wait()\nagain.frame()["status"].value_counts()',
    ]
    write_notebook(folder / "interrupt.ipynb", sources)
    notebook = open_notebook("interrupt.ipynb")
    notebook.run(0)
    notebook.start(1)
    expect(notebook.output(1).first).to_contain_text("5 of 8", timeout=PATIENCE)
    expect(notebook.cell(1).locator(".jp-InputPrompt")).to_have_text("[*]:")

    # when it is interrupted
    notebook.interrupt()

    # then it says how far the batch is and how to take it up again; the batch and the kernel go on
    said = notebook.output(1).last
    batch = client.batch("nightly")
    expect(notebook.page.locator(RAISED)).to_have_count(1, timeout=PATIENCE)
    expect(said).to_contain_text("KeyboardInterrupt")
    expect(said).to_contain_text(re.compile(rf"The batch goes on \(5 of 8.*client\.batch\('{batch.id}'\)"))
    notebook.run(2)
    expect(notebook.output(2)).to_have_text("(8, False)")
    said.scroll_into_view_if_needed()
    notebook.picture("interrupted")

    # when the kernel is restarted, then a new one has the batch by its name, and it still runs
    notebook.restart()
    notebook.run(0)
    expect(notebook.cell(0).locator(".jp-InputPrompt")).to_have_text("[1]:")
    notebook.run(3)
    expect(notebook.output(3).first).to_contain_text("5 of 8", timeout=PATIENCE)
    expect(notebook.output(3).first).to_contain_text(batch.id)
    notebook.picture("restarted")
    assert not batch.done()

    # and can cancel it
    notebook.run(4)
    expect(notebook.output(4).last).to_contain_text(re.compile(r"COMPLETED\s+5\s+CANCELLED\s+3"))
    assert {"COMPLETED": 5, "CANCELLED": 3} == {status: n for status, n in batch.counts().items() if n}


def _more(bar: Locator, than: int) -> None:
    assert share(bar) > than


def _cancelled(batch: nexusq_sdk.Batch) -> None:
    assert batch.done()
    assert batch.counts()["CANCELLED"] > 0
