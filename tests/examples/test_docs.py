"""What the documents and docstrings say leads somewhere and runs: links, settings, sessions, examples."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

import nexusq_sdk
from nexusq_server.settings import Settings
from tests.conftest import ROOT

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
LINKS = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(?:#([^)]*))?\)")
MODULES = [
    f"nexusq_sdk.{'.'.join(path.relative_to(ROOT / 'nexusq_sdk').with_suffix('').parts)}"
    for path in sorted((ROOT / "nexusq_sdk").rglob("*.py"))
    if path.name != "__init__.py"
]


def anchors(page: Path) -> set[str]:
    """Give a page's headings as links name them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_within_the_project_leads_somewhere(page: Path) -> None:
    for target, anchor in LINKS.findall(page.read_text()):
        found = (page.parent / target).resolve()
        assert found.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(found), f"{page.name} links to {target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_setting_that_a_page_names_exists(page: Path) -> None:
    known = {f"NEXUSQ_{name.upper()}" for name in Settings.model_fields}
    # These are read before there are settings, or by the SDK.
    known |= {f"NEXUSQ_{name}" for name in ("URL", "CACHE", "JAVA", "KAFKA_HOME", "REDIS_SERVER", "MAVEN_URL")}

    named = set(re.findall(r"NEXUSQ_[A-Z_]*[A-Z]", page.read_text()))

    assert set() == named - known


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_run(name: str) -> None:
    module = importlib.import_module(name)
    # An example may use what a reader has imported by then.
    failures, _ = doctest.testmod(module, extraglobs={"nexusq_sdk": nexusq_sdk}, optionflags=doctest.ELLIPSIS)

    assert 0 == failures
