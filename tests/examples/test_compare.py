"""The comparison shows exactly the files that run; NexusQ's is run here, the others need what is no part of NexusQ."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT, Addresses

FOLDER = ROOT / "docs" / "compare"
PAGE = (ROOT / "docs" / "compare.md").read_text()
SHOWN = dict(re.findall(r"^`compare/(\w+\.py)`\n\n```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
FILES = sorted(path.name for path in FOLDER.glob("*.py"))


def test_the_page_shows_each_file_of_its_folder_once_and_no_other_code() -> None:
    assert FILES == sorted(SHOWN)
    assert len(FILES) == PAGE.count("```python")


@pytest.mark.parametrize("name", FILES)
def test_the_page_shows_a_file_as_it_is(name: str) -> None:
    assert (FOLDER / name).read_text() == SHOWN[name]
    ast.parse(SHOWN[name])


def test_the_program_for_nexusq_prints_what_the_page_says(cluster: Addresses) -> None:
    # given what stands below the program on the page
    [printed] = re.findall(r"^`compare/with_nexusq.py`.*?^```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[:1]

    # when it is run where it stands
    done = subprocess.run(
        [sys.executable, "with_nexusq.py"],
        cwd=FOLDER,
        env=os.environ | {"NEXUSQ_URL": cluster.url, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    # then it prints just that
    assert 0 == done.returncode, done.stderr
    assert printed == done.stdout
