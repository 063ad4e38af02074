"""A JupyterLab and a Chromium for the whole run, a page for each test. ``nox -s browser`` runs what is here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser.lab import ARGUMENTS, LabNotebook, find_chromium, running_lab
from tests.conftest import ROOT, Addresses


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--artifacts", type=Path, default=ROOT / ".ci" / "artifacts", help="folder for the pictures")


@pytest.fixture(scope="session")
def artifacts(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.config.getoption("--artifacts").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    program = find_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder that JupyterLab shows."""
    return tmp_path_factory.mktemp("notebooks")


@pytest.fixture(scope="session")
def lab(cluster: Addresses, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("jupyter") / "lab.log"
    with running_lab(folder, log, NEXUSQ_URL=cluster.url) as url:
        yield url


@pytest.fixture
def open_notebook(browser: Browser, lab: str, artifacts: Path) -> Iterator[Callable[[str], LabNotebook]]:
    """Open a notebook of the folder; a test that fails leaves a picture of what was there."""
    context = browser.new_context(viewport={"width": 1100, "height": 900}, device_scale_factor=1.5)
    page = context.new_page()

    yield lambda path: LabNotebook(page, lab, path, artifacts)

    page.screenshot(path=artifacts / "last.png")
    context.close()
