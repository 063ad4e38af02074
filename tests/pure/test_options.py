"""Options of a submit: what the SDK makes of them, what the API refuses and what it keeps. No server."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexusq_sdk.options import to_wire
from nexusq_sdk.protocol import ids
from nexusq_sdk.protocol.wire import Backoff, Options
from nexusq_server.limits import LONGEST
from nexusq_server.options import keyed_id, plan, with_key
from nexusq_server.problems import InvalidRequest

NOW = 1_800_000_000_000_000


def refused(options: Options) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refusal:
        plan(options, NOW)
    return refusal.value


@pytest.mark.parametrize(
    ("said", "field", "expected"),
    [
        ({"queue": "Reports"}, "queue", "expected queue to be a name such as 'reports'"),
        ({"queue": "dead"}, "queue", "not dead, high, low, normal"),
        ({"queue": "a" * 61}, "queue", "60 at most"),
        ({"result_ttl_seconds": 0.5}, "resultTtlSeconds", "from 1 to ten years, got 0.5"),
        ({"result_ttl_seconds": 1e9}, "resultTtlSeconds", "from 1 to ten years"),
        ({"delay_seconds": -1.0}, "delaySeconds", "from 0 to ten years, got -1"),
        ({"delay_seconds": float("nan")}, "delaySeconds", "from 0 to ten years, got nan"),
        ({"delay_seconds": 1e300}, "delaySeconds", "from 0 to ten years"),
        ({"timeout_seconds": 0.0}, "timeoutSeconds", "above 0, up to ten years, got 0"),
        ({"timeout_seconds": -3.0}, "timeoutSeconds", "above 0, up to ten years, got -3"),
        ({"timeout_seconds": float("inf")}, "timeoutSeconds", "above 0, up to ten years"),
        ({"max_attempts": 0}, "maxAttempts", "from 1 to 1000000, got 0"),
        ({"max_attempts": 10**9}, "maxAttempts", "from 1 to 1000000"),
        ({"backoff": Backoff(initial_seconds=-1)}, "backoff.initialSeconds", "from 0 to ten years"),
        ({"backoff": Backoff(cap_seconds=1e12)}, "backoff.capSeconds", "from 0 to ten years"),
        ({"eta": datetime(2030, 1, 1)}, "eta", "a time with its offset"),
        ({"eta": datetime(9000, 1, 1, tzinfo=UTC)}, "eta", "within ten years"),
        ({"eta": datetime(2028, 1, 1, tzinfo=UTC), "delay_seconds": 1.0}, "eta", "delaySeconds or eta, got both"),
    ],
)
def test_an_option_that_can_not_be_meant_is_refused_by_its_name(
    said: dict[str, Any], field: str, expected: str
) -> None:
    refusal = refused(Options(**said))

    assert expected in refusal.detail
    assert [f"options.{field}"] == [error.field for error in refusal.errors]


def test_without_options_everything_is_as_usual() -> None:
    usual = plan(None, NOW)

    assert usual == plan(Options(), NOW)
    assert ("default", "normal", None, None, b"") == tuple(usual)


def test_a_delay_is_kept_as_a_time_so_that_it_counts_from_the_submit() -> None:
    made = plan(Options(delay_seconds=2.5), NOW)

    assert NOW + 2_500_000 == made.due_us
    kept = msgspec.json.decode(made.kept, type=Options)
    assert (None, NOW + 2_500_000) == (kept.delay_seconds, round(kept.eta.timestamp() * 1e6) if kept.eta else None)


def test_a_time_that_has_come_is_none() -> None:
    assert plan(Options(delay_seconds=0.0), NOW).due_us is None
    assert plan(Options(eta=datetime(2001, 1, 1, tzinfo=UTC)), NOW).due_us is None


def test_what_only_the_api_needs_is_not_kept() -> None:
    made = plan(Options(queue="a", priority="high", idempotency_key="k", allow_unknown=True, max_attempts=3), NOW)

    assert {"maxAttempts": 3} == json.loads(made.kept)
    assert ("a", "high") == (made.queue, made.priority)


@given(st.floats(0, LONGEST), st.integers(1, 1_000_000), st.floats(0.001, LONGEST))
def test_what_is_within_its_limits_is_taken_and_kept(wait: float, attempts: int, limit: float) -> None:
    options = Options(max_attempts=attempts, timeout_seconds=limit, backoff=Backoff(initial_seconds=wait))

    kept = msgspec.json.decode(plan(options, NOW).kept, type=Options)

    assert options == kept


def test_the_header_is_an_option_and_must_not_contradict_it() -> None:
    assert Options(idempotency_key="k") == with_key(None, "k")
    assert Options(queue="a", idempotency_key="k") == with_key(Options(queue="a"), "k")
    assert Options(idempotency_key="k") == with_key(Options(idempotency_key="k"), "k")
    assert with_key(None, None) is None
    with pytest.raises(InvalidRequest, match="to be the same, got 'other' and 'k'"):
        with_key(Options(idempotency_key="other"), "k")


def test_a_key_stands_for_one_id() -> None:
    made = keyed_id(Options(idempotency_key="order 7"), None, "taskId")

    assert ids.id_from_key("order 7") == made
    assert ids.is_id(str(made))
    assert made == keyed_id(Options(idempotency_key="order 7"), made, "taskId")
    assert made != keyed_id(Options(idempotency_key="order 8"), None, "taskId")
    assert keyed_id(Options(), "given", "taskId") is None


@pytest.mark.parametrize("key", ["", "k" * 256])
def test_a_key_has_a_length(key: str) -> None:
    with pytest.raises(InvalidRequest, match=f"from 1 to 255|1 to 255 characters, got {len(key)}"):
        keyed_id(Options(idempotency_key=key), None, "taskId")


def test_a_key_and_another_id_contradict_each_other() -> None:
    with pytest.raises(InvalidRequest, match="expected taskId to be left out or"):
        keyed_id(Options(idempotency_key="k"), ids.new_id(), "taskId")


@pytest.mark.parametrize("value", [90, 90.0, np.int64(90), np.float32(90), timedelta(seconds=90), pd.Timedelta("90s")])
def test_the_sdk_takes_a_time_in_any_form_that_notebooks_have(value: Any) -> None:
    said = to_wire({"delay": value, "timeout": value, "result_ttl": value, "backoff": value})

    assert (90, 90, 90) == (said.delay_seconds, said.timeout_seconds, said.result_ttl_seconds)
    assert Backoff(initial_seconds=90) == said.backoff


def test_the_sdk_takes_a_pair_as_backoff_and_its_cap() -> None:
    assert Backoff(initial_seconds=1, cap_seconds=60) == to_wire({"backoff": (1, timedelta(minutes=1))}).backoff


def test_the_sdk_takes_a_naive_eta_as_local_time() -> None:
    naive = datetime(2030, 6, 1, 12)
    aware = datetime(2030, 6, 1, 12, tzinfo=timezone(timedelta(hours=5)))

    assert naive.astimezone() == to_wire({"eta": naive}).eta
    assert aware == to_wire({"eta": aware}).eta
    assert to_wire({"eta": pd.Timestamp("2030-06-01T12:00Z")}).eta == datetime(2030, 6, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("said", "error", "message"),
    [
        ({"delay": "5m"}, TypeError, "expected delay in seconds or as a timedelta, got '5m'"),
        ({"timeout": float("inf")}, ValueError, "expected timeout to be a finite time, got inf"),
        ({"result_ttl": np.timedelta64(1, "D")}, TypeError, "expected result_ttl in seconds"),
        ({"eta": "tomorrow"}, ValueError, "expected eta to be a datetime, got 'tomorrow'"),
        ({"backoff": (1, 2, 3)}, ValueError, "expected backoff to be a time or a pair of times"),
        ({"max_attempts": 2.5}, ValueError, "max_attempts"),
        ({"max_attempts": "3"}, ValueError, "max_attempts"),
        ({"priority": "urgent"}, ValueError, "priority"),
        ({"queue": 7}, ValueError, "queue"),
        ({"allow_unknown": "yes"}, ValueError, "allow_unknown"),
        ({"max_attempt": 3}, TypeError, "got 'max_attempt'; did you mean 'max_attempts'?"),
        ({"eta": pd.NaT}, ValueError, "expected eta to be"),
        ({"delay": pd.NaT}, (TypeError, ValueError), "expected delay"),
        ({"delay": True}, TypeError, "expected delay in seconds or as a timedelta, got True"),
        ({"backoff": (None, 5)}, (TypeError, ValueError), "backoff"),
    ],
)
def test_the_sdk_refuses_what_can_not_be_meant(said: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message.replace("?", "\\?").replace("(", "\\(")):
        to_wire(said)


def test_what_is_not_said_is_not_sent() -> None:
    assert Options() == Options(**msgspec.structs.asdict(to_wire({})))
    assert Options() == Options(**msgspec.structs.asdict(to_wire({"queue": None, "delay": None, "backoff": None})))


@given(st.fixed_dictionaries({}, optional={"delay": st.floats(0, 1e6), "max_attempts": st.integers(1, 1000)}))
def test_what_the_sdk_sends_the_api_takes(said: dict[str, Any]) -> None:
    sent = msgspec.json.encode(Options(**msgspec.structs.asdict(to_wire(said))))

    plan(msgspec.json.decode(sent, type=Options), NOW)
