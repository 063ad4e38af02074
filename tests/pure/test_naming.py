"""What makes two batches the same: type, queue and rows; a function without the file of its cell."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexusq_sdk.naming import check_name, digest, fingerprint
from nexusq_sdk.protocol import ids
from nexusq_sdk.protocol.wire import Options
from nexusq_sdk.protocol.words import Priority

ROWS = st.lists(st.binary(max_size=5), max_size=5)


@given(ROWS, ROWS)
def test_rows_have_one_digest_if_they_are_the_same_rows(one: list[bytes], other: list[bytes]) -> None:
    same = digest("ECHO", Options(), one) == digest("ECHO", Options(), other)

    assert same == (one == other)


def test_type_and_queue_count_and_what_says_when_or_how_often_does_not() -> None:
    usual = digest("ECHO", Options(), [b"1"])

    for same in (Options(queue="default"), Options(max_attempts=3, priority=Priority.LOW, delay_seconds=1.0)):
        assert usual == digest("ECHO", same, [b"1"])
    assert usual != digest("OTHER", Options(), [b"1"])
    assert usual != digest("ECHO", Options(queue="mine"), [b"1"])


def test_a_named_batch_has_one_id_for_one_name_and_inputs() -> None:
    assert ids.named_id("a", "d") == ids.named_id("a", "d")
    assert 3 == len({ids.named_id("a", "d"), ids.named_id("b", "d"), ids.named_id("a", "e")})
    assert ids.is_id(ids.named_id("a", "d"))


@pytest.mark.parametrize("name", ["exp-7", "2026:run.1", "a", "x" * 100])
def test_names_are_such(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize("name", ["", "a b", "a/b", "..", "-a", "x" * 101, ids.new_id(), ids.new_id().upper(), None, 7])
def test_what_would_be_taken_for_something_else_is_no_name(name: Any) -> None:
    with pytest.raises(ValueError, match="expected a batch's name to be such as 'exp-7'"):
        check_name(name)


def cell(factor: int, file: str) -> Any:
    """Give a function as a cell of a notebook defines it, which calls another one that uses a variable."""
    source = f"FACTOR = {factor}\ndef helper(x):\n    return x * FACTOR\n\ndef work(x):\n    return helper(x) + 1\n"
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(source, file, "exec"), names)
    return names["work"]


def test_a_function_is_the_same_in_any_kernel_and_another_if_what_it_refers_to_changes() -> None:
    first = fingerprint(cell(2, "/tmp/ipykernel_1/123.py"))

    assert first == fingerprint(cell(2, "/tmp/ipykernel_22222/123.py"))
    assert first != fingerprint(cell(3, "/tmp/ipykernel_1/123.py"))
