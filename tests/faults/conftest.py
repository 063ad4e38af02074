"""Workers and clusters that tests may break."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Addresses
from tests.faults.parts import Breakable, Crew, Ledger, crew_of


@pytest.fixture
def crew(cluster: Addresses, tmp_path: Path) -> Iterator[Crew]:
    """Workers on the run's own cluster, which stays whole."""
    yield from crew_of(cluster, tmp_path)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger")


@pytest.fixture(scope="module")
def breakable_cluster() -> Iterator[Breakable]:
    with Breakable() as parts:
        yield parts


@pytest.fixture
def parts(breakable_cluster: Breakable, tmp_path: Path) -> Iterator[Breakable]:
    """A cluster of one's own; what a test has killed runs again after it. Its logs are left among the test's files."""
    yield breakable_cluster
    for part in (breakable_cluster.api, breakable_cluster.kafka, breakable_cluster.redis):
        shutil.copy(part.log, tmp_path)
    breakable_cluster.mend()


@pytest.fixture
def lane(parts: Breakable) -> str:
    """Name a queue on the cluster that may be broken."""
    return parts.make_queue(f"f{secrets.token_hex(5)}")


@pytest.fixture
def hands(parts: Breakable, tmp_path: Path) -> Iterator[Crew]:
    """Workers on the cluster that may be broken."""
    yield from crew_of(parts.addresses, tmp_path)
