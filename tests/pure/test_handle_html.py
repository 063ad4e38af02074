"""What a notebook shows of tasks and batches: true to the counters, and whatever users wrote stays text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from nexusq_sdk import handle_html
from nexusq_sdk.progress_text import Pace, bar, describe, finished, share, state
from nexusq_sdk.protocol.views import batch_view, quantile
from nexusq_sdk.protocol.wire import BatchView, ErrorKind, TaskError, TaskSaid, TaskView
from nexusq_sdk.protocol.words import Status

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
EVIL = "<script>alert('x')</script>\" onclick='&"


def view(**more: Any) -> BatchView:
    given = {
        "batch_id": "b-1",
        "task_type": "ECHO",
        "queue": "default",
        "size": 10,
        "closed": True,
        "counts": {"COMPLETED": 4, "FAILED": 1, "QUEUED": 5},
        "rate_per_second": 2.0,
        "submitted_at": NOW,
        "started_at": NOW,
    }
    return BatchView(**{**given, **more})


class Reader(HTMLParser):
    """Collects tags and text; raises where a tag does not end."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert [] == reader.open
    return reader


def test_a_batch_shows_its_counts_times_and_errors() -> None:
    shown = view(p50_seconds=0.012, p95_seconds=3.5, errors=[ErrorKind(type="ValueError", count=1, task_id="b-1-3")])

    text = read(handle_html.batch(shown)).text

    for said in ("ECHO", "running", "5 of 10", "1 failed", "4 completed", "5 queued", "p50 12 ms, p95 3.5 s", "b-1"):
        assert said in text
    assert "1 × ValueError" in text


@given(st.text(), st.text(), st.text())
def test_whatever_users_wrote_stays_text(first: str, second: str, third: str) -> None:
    for words in ((first, second, third), (EVIL, EVIL, EVIL)):
        kind, message, name = (word.replace("\r", "").replace("\0", "") for word in words)
        error = TaskError(type=kind, message=message, traceback=name)
        said = [TaskSaid(task_id=message, progress=0.5, progress_text=kind, log=[name, message])]
        shown = view(task_type=kind, name=name, errors=[ErrorKind(type=kind, count=2, task_id=message)], said=said)
        reader = read(handle_html.batch(shown, 1.0, {kind: error}, message))
        table = {"table", "tr", "td", "br"}
        assert {"div", "span", "b", "code", "details", "summary", "pre", *table} >= set(reader.tags)
        task = TaskView(
            task_id=name, task_type=kind, status=Status.FAILED, worker=name, error=error,
            payload=Raw(b"\xff\xfe<b>"), log=[message], progress_text=message, attempt=2,
        )  # fmt: skip
        assert {"div", "span", "b", "code", "table", "tr", "td", "pre"} >= set(read(handle_html.task(name, task)).tags)


def test_a_batch_shows_what_its_running_tasks_say() -> None:
    said = [
        TaskSaid(task_id="b-1-3", progress=0.4, progress_text="epoch 4/10", log=["loss 0.5", "loss 0.4"]),
        TaskSaid(task_id="b-1-7", progress=None, progress_text=None, log=["reading"]),
    ]

    text = read(handle_html.batch(view(said=said))).text

    for words in ("row 3", "40%", "epoch 4/10", "loss 0.5", "loss 0.4", "row 7", "reading"):
        assert words in text
    # of many, the last line of each
    many = read(handle_html.batch(view(said=said * 2))).text
    assert "loss 0.4" in many
    assert "loss 0.5" not in many


def test_an_error_unfolds_to_its_traceback_and_types_beyond_ten_are_counted() -> None:
    errors = [ErrorKind(type=f"E{n}", count=n, task_id="b-1-0") for n in range(12, 0, -1)]

    html = handle_html.batch(view(errors=errors), None, {"E12": TaskError(type="E12", message="m", traceback="deep")})

    assert "<details>" in html
    assert "deep" in html
    assert "... and 2 more types" in read(html).text


def test_a_task_shows_what_is_known_of_it() -> None:
    task = TaskView(
        task_id="t", task_type="TRAIN", status=Status.IN_PROGRESS, progress=0.4, progress_text="epoch 4/10",
        log=["loss 0.3"], payload=Raw(b'{"lr":0.1}'), started_at=NOW,
    )  # fmt: skip

    text = read(handle_html.task("t", task, label="ann")).text

    for said in ("TRAIN", "in progress", "40% epoch 4/10", "loss 0.3", '{"lr":0.1}', "'ann'"):
        assert said in text
    assert "Task" in handle_html.task("t", None)


@pytest.mark.parametrize(
    ("counts", "closed", "word"),
    [
        ({"QUEUED": 10}, True, "waiting"),
        ({"QUEUED": 9, "IN_PROGRESS": 1}, True, "running"),
        ({"COMPLETED": 10}, True, "completed"),
        ({"COMPLETED": 10}, False, "running"),
        ({"COMPLETED": 9, "FAILED": 1}, True, "failed"),
        ({"COMPLETED": 9, "CANCELLED": 1}, True, "cancelled"),
    ],
)
def test_a_batchs_state_is_a_word(counts: dict[str, int], closed: bool, word: str) -> None:
    shown = view(counts=counts, closed=closed)

    assert word == state(shown)
    assert finished(shown) == (word in {"completed", "failed", "cancelled"})


def test_how_far_it_is_fits_into_a_line() -> None:
    assert "5 of 10, 1 failed, 2/s, 2.5 s left" == describe(view())
    assert "5 of 10, 1 failed, 20/s, 0.2 s left" == describe(view(), pace=20.0)
    ended = view(counts={"COMPLETED": 10}, finished_at=NOW + timedelta(seconds=75), rate_per_second=0.13)
    assert "10 of 10, 0.13/s, in 1 min 15 s" == describe(ended, pace=5.0)
    assert (0.5, 1.0) == (share(view()), share(view(size=0)))


def test_the_pace_is_that_of_the_last_seconds() -> None:
    pace = Pace()
    said = [pace.add(second, 10 * second if second < 100 else 1000 + (second - 100)) for second in range(200)]

    assert said[0] is None
    assert 10.0 == said[90]
    assert 1.0 == said[199]
    assert pace.add(205.0, 1099) is not None
    assert 0.0 == pace.add(300.0, 1099)  # nothing moves: nobody knows how long


@given(st.floats(0, 1), st.integers(1, 50))
def test_a_bar_has_its_width(fraction: float, width: int) -> None:
    assert width == len(bar(fraction, width)) == len(bar(fraction, width, ascii_only=True))


@given(st.lists(st.integers(1, 10**10), min_size=1, max_size=50), st.sampled_from([0.5, 0.95]))
def test_a_percentile_of_counted_times_is_within_a_tenth(times: list[int], part: float) -> None:
    # given times counted as the script does
    counted: dict[int, int] = {}
    for time in times:
        step = 0
        while 2 ** (step / 8) < time:
            step += 1
        edge = int(2 ** (step / 8)) if 2 ** (step / 8) == int(2 ** (step / 8)) else int(2 ** (step / 8)) + 1
        counted[edge] = counted.get(edge, 0) + 1

    found = quantile(counted, part)

    exact = sorted(times)[max(0, -int(-part * len(times) // 1) - 1)] / 1e6
    assert found == pytest.approx(exact, rel=0.1, abs=2e-6)


def test_a_batchs_hash_is_read_with_its_errors_and_times() -> None:
    hash_ = {
        b"taskType": b"ECHO", b"submittedUs": b"0", b"size": b"3", b"closed": b"1", b"FAILED": b"3", b"name": b"exp-7",
        b"error:ValueError": b"2", b"errorAt:ValueError": b"b-1", b"error:KeyError": b"1", b"error:Gone": b"0",
        b"ranUs:1024": b"3",
    }  # fmt: skip

    seen = batch_view("b", hash_, now_us=10)

    assert [("ValueError", 2, "b-1"), ("KeyError", 1, "")] == [(e.type, e.count, e.task_id) for e in seen.errors]
    assert ("exp-7", 0.000981, 0.000981) == (seen.name, seen.p50_seconds, seen.p95_seconds)
    assert quantile({}, 0.5) is None
