"""When schedules tick: next ticks, changed clocks, what an outage leaves, and the ids of what is submitted."""

from __future__ import annotations

import contextlib
import itertools
import json
from datetime import UTC, datetime

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nexusq_sdk.protocol import ids
from nexusq_sdk.protocol.words import Missed
from nexusq_server.cron import ALIASES, LATE_SECONDS, MOST_MISSED, Cron, CronError, due_ticks
from nexusq_server.schedules import step

ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "America/Havana", "Pacific/Auckland"]
CRONS = [
    "* * * * *",
    "*/7 * * * *",
    "30 2 * * *",
    "0,30 1-3 * * *",
    "15 */2 * * *",
    "*/20 0,2 * * *",
    "0 0 * * *",
    "30 8 * * MON-FRI",
    "0 0 1 * *",
    "0 12 29 2 *",
    "*/10 * * * * *",
    *ALIASES,
]
#: From 2020 to 2040.
moments = st.integers(1_577_836_800, 2_208_988_800)
#: The machine may be busy with something else.
unhurried = settings(deadline=None)
crons = st.builds(Cron, st.sampled_from(CRONS), st.sampled_from(ZONES))


def utc(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def ticks(cron: Cron, after: str, until: str) -> list[str]:
    return [f"{datetime.fromtimestamp(tick, UTC):%d %H:%M}" for tick in cron.between(utc(after), utc(until))]


@unhurried
@given(cron=crons, moment=moments, part=st.floats(0, 1, exclude_max=True))
def test_the_next_tick_is_the_same_from_wherever_it_is_looked_for(cron: Cron, moment: int, part: float) -> None:
    tick = cron.after(moment)

    assert tick is not None
    assert tick > moment
    assert tick == cron.after(moment + int((tick - moment) * part))
    assert tick == cron.after(tick - 0.5)


@unhurried
@given(moment=moments, minute=st.integers(0, 59), hour=st.integers(0, 23))
def test_a_daily_tick_in_utc_is_less_than_a_day_away_and_at_its_time(moment: int, minute: int, hour: int) -> None:
    tick = Cron(f"{minute} {hour} * * *").after(moment)

    assert tick is not None
    assert 0 < tick - moment <= 86_400
    assert (hour * 60 + minute) * 60 == tick % 86_400


@unhurried
@given(cron=st.builds(Cron, st.just("30 2 * * *"), st.sampled_from(ZONES)), year=st.integers(2020, 2036))
def test_a_daily_tick_comes_once_a_day_whatever_the_clocks_do(cron: Cron, year: int) -> None:
    days = (datetime(year + 1, 1, 1, tzinfo=UTC) - datetime(year, 1, 1, tzinfo=UTC)).days

    assert days == len(list(cron.between(utc(f"{year}-01-01"), utc(f"{year + 1}-01-01"))))


def test_a_time_that_is_skipped_ticks_when_the_skipped_hour_is_over() -> None:
    # On 29 March 2026 Berlin's clocks went from 2:00 to 3:00, which was 1:00 in UTC.
    nightly = Cron("30 2 * * *", "Europe/Berlin")

    assert ["28 01:30", "29 01:00", "30 00:30"] == ticks(nightly, "2026-03-28", "2026-03-31")


def test_a_time_that_comes_twice_ticks_once_even_for_a_schedule_made_in_between() -> None:
    # On 25 October 2026 they went from 3:00 back to 2:00, which was 1:00 in UTC.
    nightly = Cron("30 2 * * *", "Europe/Berlin")

    assert ["25 00:30", "26 01:30"] == ticks(nightly, "2026-10-25", "2026-10-27")
    assert utc("2026-10-26T01:30") == nightly.after(utc("2026-10-25T01:15"))


def test_every_quarter_of_an_hour_goes_on_through_both() -> None:
    quarters = Cron("*/15 * * * *", "Europe/Berlin")

    for day in ("2026-03-29", "2026-10-25"):
        moments = list(quarters.between(utc(day), utc(day) + 6 * 3600))
        assert [900] * 23 == [later - tick for tick, later in itertools.pairwise(moments)]


def test_a_name_for_an_hour_or_a_day_is_the_five_fields() -> None:
    assert utc("2026-01-31T13:00") == Cron("@hourly").after(utc("2026-01-31T12:00"))
    assert utc("2026-01-31T23:00") == Cron("@Daily", "Europe/Berlin").after(utc("2026-01-31T12:00"))


def test_six_fields_have_seconds_in_front() -> None:
    moment = utc("2026-01-31T12:00")

    assert [moment + 20, moment + 40] == list(Cron("*/20 * * * * *").between(moment, moment + 59))


@pytest.mark.parametrize(
    "expression",
    ["", "noon", "* * * *", "* * * * * * *", "61 * * * *", "* 24 * * *", "*/0 * * * *", "0 0 30 2 *", "@reboot"],
)
def test_what_is_no_cron_expression_is_named_with_an_example(expression: str) -> None:
    with pytest.raises(CronError, match=r"expected cron to be five fields such as '30 8 \* \* MON-FRI'") as refused:
        Cron(expression)

    assert f"got {expression!r}" in str(refused.value)
    assert "cron" == refused.value.field


@unhurried
@given(expression=st.text(max_size=40) | st.text("0123456789*/,-LW# ", max_size=20))
def test_any_other_text_is_a_cron_expression_or_refused(expression: str) -> None:
    # given any text, when it is read, then nothing but a refusal is raised
    with contextlib.suppress(CronError):
        Cron(expression).after(1_800_000_000)


def test_a_very_long_expression_is_refused() -> None:
    with pytest.raises(CronError, match="expected cron to have at most 500 characters, got 1209"):
        Cron("0" + ",0" * 600 + " * * * *")


def test_a_misspelt_time_zone_is_answered_with_the_nearest() -> None:
    with pytest.raises(CronError, match="got 'Europe/Berln'; did you mean 'Europe/Berlin'") as refused:
        Cron("@daily", "Europe/Berln")

    assert "timeZone" == refused.value.field


@pytest.mark.parametrize("zone", ["", "America", "../UTC", "/etc/passwd", "a\0b", "x" * 300])
def test_what_is_no_time_zone_is_refused(zone: str) -> None:
    with pytest.raises(CronError, match="expected timeZone to be a name such as 'Europe/Berlin'"):
        Cron("@daily", zone)


@unhurried
@given(cron=crons, first=moments, missed=st.sampled_from(Missed))
def test_a_tick_that_is_served_in_time_is_submitted_once_by_any_policy(cron: Cron, first: int, missed: Missed) -> None:
    assert [first] == due_ticks(cron, first, first + 0.1, missed)


@unhurried
@given(cron=crons, first=moments, outage=st.integers(0, 20_000))
@example(cron=Cron("* * * * *"), first=1_800_000_000, outage=MOST_MISSED * 60)
@example(cron=Cron("*/10 * * * * *"), first=1_800_000_000, outage=40 * MOST_MISSED)
def test_after_an_outage_all_gives_each_tick_that_was_missed_up_to_the_newest_thousand(
    cron: Cron, first: int, outage: int
) -> None:
    now = first + outage

    assert [first, *cron.between(first, now)][-MOST_MISSED:] == due_ticks(cron, first, now, Missed.ALL)


@unhurried
@given(cron=crons, first=moments, outage=st.floats(0, 20_000))
def test_after_an_outage_skip_gives_only_what_is_hardly_late(cron: Cron, first: int, outage: float) -> None:
    now = first + outage
    late = [tick for tick in [first, *cron.between(first, now)] if tick >= now - LATE_SECONDS]

    assert late == due_ticks(cron, first, now, Missed.SKIP)


@unhurried
@given(cron=crons, first=moments, outage=st.floats(0, 10**8))
def test_after_an_outage_once_gives_one_for_all(cron: Cron, first: int, outage: float) -> None:
    assert [first] == due_ticks(cron, first, first + outage, Missed.ONCE)


def test_a_year_of_missed_minutes_is_not_counted_through() -> None:
    now = utc("2027-01-01")

    assert list(range(now - 60 * 999, now + 1, 60)) == due_ticks(Cron("* * * * *"), utc("2026-01-01"), now, Missed.ALL)


@unhurried
@given(name=st.text(min_size=1), other=st.text(min_size=1), tick=moments, later=moments)
def test_each_tick_of_each_schedule_has_an_id_of_its_own(name: str, other: str, tick: int, later: int) -> None:
    made = ids.scheduled_id(name, tick)

    assert ids.is_id(made)
    assert made == ids.scheduled_id(name, tick)
    assert ((name, tick) == (other, later)) == (made == ids.scheduled_id(other, later))


def stored(**fields: object) -> bytes:
    known = {
        "name": "n",
        "taskType": "ECHO",
        "payload": {"a": 1},
        "cron": "@hourly",
        "createdAt": "2026-01-01T00:00:00Z",
    }
    return json.dumps(known | fields).encode()


def test_a_task_carries_what_its_schedule_says() -> None:
    options = {"queue": "reports", "priority": "low", "maxAttempts": 2, "resultTtlSeconds": 60.0}

    made = step("n", 3600.0, stored(options=options), 3600.2)

    [task] = made.tasks
    assert (ids.scheduled_id("n", 3600), "ECHO", "reports", "low") == (*task[:2], *task[3:5])
    assert {"a": 1} == json.loads(task.payload)
    assert {"maxAttempts": 2, "resultTtlSeconds": 60.0} == json.loads(task.options)
    assert (7200, f"3600 {task.task_id}", 60.0) == (made.next_tick, made.last, made.ttl_seconds)
    [state] = made.states()
    assert (task.task_id, "reports", "low", 60.0) == (state.task_id, state.queue, state.priority, state.ttl_seconds)


def test_a_skipped_tick_submits_nothing_and_moves_on() -> None:
    made = step("n", 3600.0, stored(missed="skip"), 9000.0)

    assert ([], 10_800, "") == (made.tasks, made.next_tick, made.last)


def test_a_clock_that_is_behind_another_ones_never_moves_a_schedule_back() -> None:
    assert 7200 == step("n", 3600.0, stored(), 3500.0).next_tick


@pytest.mark.parametrize("fields", [{"cron": "* *"}, {"timeZone": "Mars/Base"}])
def test_a_stored_schedule_that_is_not_understood_is_said_to_be_so(fields: dict[str, str]) -> None:
    with pytest.raises(CronError):
        step("n", 3600.0, stored(**fields), 3600.2)
