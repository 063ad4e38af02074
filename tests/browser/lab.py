"""A real JupyterLab on a free port, and one notebook in it as its user sees and touches it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import nbformat
import pytest
from playwright.sync_api import FloatRect, Locator, Page, expect

from nexusq_server.local.cluster import free_ports
from tests.conftest import eventually

TOKEN = "browser"
#: How long a cell, a restart or a page may take, in milliseconds: generous, since the machine may be busy.
PATIENCE = 90_000
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
SETTINGS = {
    # Without this only the cells in view are in the page.
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}


def find_chromium() -> str:
    """Give `NEXUSQ_CHROMIUM`, or the Chromium that is on PATH; fail where there is none."""
    named = os.environ.get("NEXUSQ_CHROMIUM")
    for name in [named] if named else CHROMIUMS:
        found = shutil.which(name)
        if found:
            return found
    pytest.fail(
        f"expected a Chromium in a program named by NEXUSQ_CHROMIUM or on PATH, got {named or 'none'} (looked for "
        f"{', '.join(CHROMIUMS)}). Install one: `apt-get install chromium`, `brew install --cask chromium`",
        pytrace=False,
    )


@contextmanager
def running_lab(folder: Path, log: Path, **environment: str) -> Iterator[str]:
    """Start a JupyterLab on a folder, with no settings but its own; give its address."""
    [port] = free_ports(1)
    home = log.parent
    for name, settings in SETTINGS.items():
        file = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(settings))
    own = {
        "JUPYTERLAB_SETTINGS_DIR": home / "settings",
        "JUPYTERLAB_WORKSPACES_DIR": home / "workspaces",
        "JUPYTER_CONFIG_DIR": home / "config",
        "JUPYTER_DATA_DIR": home / "data",
        "JUPYTER_RUNTIME_DIR": home / "runtime",
        "IPYTHONDIR": home / "ipython",
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", f"--ServerApp.port={port}"]
    command += ["--ServerApp.ip=127.0.0.1", "--ServerApp.port_retries=0", "--ServerApp.allow_root=True"]
    command += [f"--ServerApp.root_dir={folder}", f"--IdentityProvider.token={TOKEN}"]
    variables = os.environ | {name: str(value) for name, value in own.items()} | environment
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=folder, env=variables, stdout=output, stderr=output)
    url = f"http://127.0.0.1:{port}"
    try:

        def answers() -> None:
            assert process.poll() is None, log.read_text()
            try:
                assert 200 == httpx.get(f"{url}/api/status", params={"token": TOKEN}).status_code
            except httpx.TransportError as error:
                raise AssertionError(str(error)) from None

        eventually(answers, 60)
        yield url
    finally:
        process.terminate()
        process.wait(60)


class LabNotebook:
    """A notebook that is open in a JupyterLab: its cells are numbered as they stand, code cells only."""

    def __init__(self, page: Page, url: str, path: str, artifacts: Path) -> None:
        self.page = page
        self._artifacts = artifacts
        page.goto(f"{url}/lab/tree/{path}?token={TOKEN}&reset")
        self._root = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")
        self._kernel_is_idle()
        # Room for the notebook alone.
        if page.locator("#jp-left-stack").is_visible():
            page.keyboard.press("Control+b")

    def cell(self, number: int) -> Locator:
        """Give a code cell."""
        return self._root.locator(".jp-CodeCell").nth(number)

    def output(self, number: int) -> Locator:
        """Give what a code cell has put out."""
        return self.cell(number).locator(".jp-OutputArea-output")

    def start(self, number: int) -> None:
        """Run a cell; do not wait for its end."""
        self.cell(number).locator(".jp-InputPrompt").click()
        self._tool("run-cell-and-select-next").click()

    def run(self, number: int) -> None:
        """Run a cell and wait for its end."""
        self.start(number)
        self.ended(number)

    def run_all(self) -> None:
        """Run all cells by the menu."""
        self.page.locator(".lm-MenuBar-itemLabel", has_text=re.compile("^Run$")).click()
        self.page.locator(".lm-Menu-item[data-command='runmenu:run-all']").click()

    def ended(self, number: int) -> None:
        """Wait until a cell that was started has ended."""
        expect(self.cell(number).locator(".jp-InputPrompt")).to_have_text(re.compile(r"\[\d+\]:"), timeout=PATIENCE)

    def interrupt(self) -> None:
        """Press the stop button."""
        self._tool("interrupt-kernel").click()

    def restart(self) -> None:
        """Restart the kernel by its button and the question that follows, and wait until it is there again."""
        self._tool("restart-kernel").click()
        self.page.locator(".jp-Dialog .jp-mod-accept").click()
        self._kernel_is_idle()

    def picture(self, name: str, first: Locator | None = None, last: Locator | None = None) -> None:
        """Keep a picture of the page among the artifacts, or of what stands from one cell to another."""
        clip: FloatRect | None = None
        if first is not None and last is not None:
            first.scroll_into_view_if_needed()
            above, below = first.bounding_box(), last.bounding_box()
            assert above is not None
            assert below is not None
            height = below["y"] + below["height"] - above["y"]
            clip = {"x": above["x"], "y": above["y"], "width": above["width"], "height": height}
        self.page.screenshot(path=self._artifacts / f"{name}.png", clip=clip)

    def _kernel_is_idle(self) -> None:
        expect(self.page.locator("#jp-bottom-panel")).to_contain_text("(ipykernel) | Idle", timeout=PATIENCE)

    def _tool(self, command: str) -> Locator:
        return self._root.locator(f".jp-NotebookPanel-toolbar [data-command='notebook:{command}']")


def write_notebook(file: Path, sources: list[str]) -> None:
    """Write a notebook of code cells."""
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), file)
