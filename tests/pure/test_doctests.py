"""The examples in docstrings run as they stand, where they need no cluster."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pandas as pd
import pytest

import nexusq_sdk
from nexusq_server import lanes

MODULES = [
    found.name for found in pkgutil.walk_packages(nexusq_sdk.__path__, "nexusq_sdk.") if not found.name.endswith("__")
]


@pytest.mark.parametrize("name", [*MODULES, lanes.__name__])
def test_the_examples_of_a_module_give_what_they_say(name: str) -> None:
    module = importlib.import_module(name)

    failed, _ = doctest.testmod(module, extraglobs={"nexusq_sdk": nexusq_sdk, "pd": pd})

    assert 0 == failed
