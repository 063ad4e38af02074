"""The structure that readers rely on: imports run one way, the SDK stays light, public names stay put."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nexusq_sdk

ROOT = Path(__file__).parent.parent


def loaded_by(statement: str) -> set[str]:
    """Give the modules that a fresh interpreter has loaded after a statement."""
    program = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(answer.stdout))


def test_the_contracts_on_imports_hold() -> None:
    answer = subprocess.run(["lint-imports", "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)

    assert 0 == answer.returncode, answer.stdout


def test_importing_the_sdk_loads_neither_pandas_nor_widgets_nor_httpx() -> None:
    heavy = {"pandas", "numpy", "ipywidgets", "IPython", "httpx", "redis", "kafka", "nexusq_server"}

    assert set() == heavy & loaded_by("import nexusq_sdk, nexusq_sdk.tasks, nexusq_sdk.local_cluster")


def test_a_worker_loads_nothing_of_a_notebooks() -> None:
    heavy = {"pandas", "ipywidgets", "IPython", "starlette", "nexusq_sdk.client", "nexusq_sdk.connection"}

    assert set() == heavy & loaded_by("import nexusq_server.worker")


def test_every_public_name_is_there() -> None:
    for name in nexusq_sdk.__all__:
        assert getattr(nexusq_sdk, name) is not None
    assert set(nexusq_sdk.__all__) <= set(dir(nexusq_sdk))


def test_no_public_name_is_a_modules_too() -> None:
    # importing a module sets its name on the package: `task` would be the decorator or the module, as it happens
    modules = {path.stem for path in (ROOT / "nexusq_sdk").iterdir()}

    assert set() == modules & set(nexusq_sdk.__all__)


def test_no_file_is_longer_than_a_reader_wants() -> None:
    sources = [
        path
        for folder in ("nexusq_sdk", "server", "sandbox", "tests", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
    ]

    assert {} == {str(path): n for path in sources if (n := len(path.read_text().splitlines())) > 400}
    assert len(sources) > 30
