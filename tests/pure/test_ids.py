"""Ids sort by time, name their batch, and nothing else passes for one."""

from __future__ import annotations

import time
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexusq_sdk.protocol import ids


def test_a_new_id_is_a_uuid_of_version_7_with_the_time_in_front() -> None:
    before = time.time_ns() // 1_000_000
    made = uuid.UUID(ids.new_id())

    assert 7 == made.version
    assert uuid.RFC_4122 == made.variant
    assert before <= made.int >> 80 <= time.time_ns() // 1_000_000


def test_ids_do_not_repeat() -> None:
    assert 10_000 == len({ids.new_id() for _ in range(10_000)})


@given(index=st.integers(0, 9_999_999_999))
def test_a_task_of_a_batch_names_its_batch_and_its_row(index: int) -> None:
    batch = ids.new_id()

    assert (batch, index) == ids.split_task_id(ids.task_id(batch, index))
    assert ids.is_task_id(ids.task_id(batch, index))
    assert not ids.is_id(ids.task_id(batch, index))


def test_a_single_task_has_no_batch() -> None:
    single = ids.new_id()

    assert None is ids.split_task_id(single)
    assert ids.is_id(single)


@given(text=st.text(max_size=60))
def test_other_text_is_no_id(text: str) -> None:
    assert not ids.is_task_id(text)
    with pytest.raises(ValueError, match="expected a task id"):
        ids.split_task_id(text)


@pytest.mark.parametrize("suffix", ["-", "-01", "--1", "-1a", "-1-2", "\n", "-99999999999"])
def test_an_id_with_something_odd_behind_it_is_no_id(suffix: str) -> None:
    assert not ids.is_task_id(ids.new_id() + suffix)
