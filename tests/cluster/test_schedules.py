"""Tasks that are submitted by cron: through the API, the SDK and the terminal, and by many schedulers at once.

A tick is made due by setting its time back in Redis, which is the same as having waited for it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest
import redis
from typer.testing import CliRunner

import nexusq_sdk
from nexusq_sdk.protocol import ids
from nexusq_sdk.protocol.redis_layout import SCHEDULE_DUE, SCHEDULE_LAST, SCHEDULES
from nexusq_server.cli import app
from tests.conftest import Addresses, eventually

ECHO = {"taskType": "ECHO", "payload": {"a": 1}, "cron": "@hourly"}
FAR = 4_102_444_800.0  # in the year 2100


@pytest.fixture
def name(redis_client: redis.Redis) -> Iterator[str]:
    """Name a schedule that is gone after the test."""
    made = f"test-{secrets.token_hex(4)}"
    yield made
    forget(redis_client, made)


def forget(client: redis.Redis, *names: str) -> None:
    client.hdel(SCHEDULES, *names)
    client.zrem(SCHEDULE_DUE, *names)
    client.hdel(SCHEDULE_LAST, *names)


def put(http: httpx.Client, name: str, **changes: Any) -> dict[str, Any]:
    answer = http.put(f"/schedules/{name}", json=ECHO | changes)
    assert 200 == answer.status_code, answer.text
    return dict(answer.json())


def read(http: httpx.Client, name: str) -> dict[str, Any]:
    answer = http.get(f"/schedules/{name}")
    assert 200 == answer.status_code, answer.text
    return dict(answer.json())


def at(moment: str) -> int:
    return int(pd.Timestamp(moment).timestamp())


def completed(http: httpx.Client, task_id: str) -> None:
    answer = http.get(f"/tasks/{task_id}")
    assert 200 == answer.status_code, answer.text
    assert "COMPLETED" == answer.json()["status"], answer.text


def test_a_schedule_reads_as_it_was_put_and_says_when_it_ticks_next(http: httpx.Client, name: str) -> None:
    wanted = {
        "taskType": "ECHO",
        "payload": {"a": [1, 2.5, None, "ü"]},
        "cron": "30 8 * * MON-FRI",
        "timeZone": "Europe/Berlin",
        "missed": "all",
        "options": {"queue": "reports", "priority": "high", "maxAttempts": 5},
    }

    made = put(http, name, **wanted)

    assert wanted | {"name": name} == {key: made[key] for key in [*wanted, "name"]}
    local = pd.Timestamp(made["nextAt"]).tz_convert("Europe/Berlin")
    assert (8, 30) == (local.hour, local.minute)
    assert local.weekday() < 5
    assert made == read(http, name)
    assert made in http.get("/schedules").json()["schedules"]
    assert {"lastAt", "lastTaskId"}.isdisjoint(made)


def test_a_tick_submits_a_task_that_runs_and_is_found_and_the_schedule_moves_on(
    http: httpx.Client, redis_client: redis.Redis, name: str
) -> None:
    # given a schedule whose tick has come
    put(http, name, options={"priority": "high", "resultTtlSeconds": 600})
    tick = int(time.time()) - 5
    redis_client.zadd(SCHEDULE_DUE, {name: tick})

    # when a scheduler has seen it, then it has its task, and its next tick is ahead
    eventually(lambda: check(read(http, name).get("lastTaskId") == ids.scheduled_id(name, tick)))
    seen = read(http, name)
    assert tick == at(seen["lastAt"])
    assert at(seen["nextAt"]) > time.time()
    eventually(lambda: completed(http, seen["lastTaskId"]))
    task = http.get(f"/tasks/{seen['lastTaskId']}").json()
    assert ("ECHO", {"a": 1}, "high") == (task["taskType"], task["payload"], task["priority"])


def check(holds: bool) -> None:
    assert holds


def test_every_second_runs_one_task_whoever_schedules(
    client: nexusq_sdk.Client, http: httpx.Client, name: str, tmp_path: Path
) -> None:
    # given an API and a worker that schedule, and a schedule that ticks each second
    ledger = tmp_path / "ledger"
    payload = {"path": str(ledger), "line": "ran"}
    made = client.schedule(name, "LEDGER", payload, cron="* * * * * *", missed="all")
    first = made.last_at or made.next_at  # it may have ticked while Redis wrote it to its disk
    assert first is not None

    # when it has ticked some times and is removed
    eventually(lambda: check(at(read(http, name).get("lastAt", "1970-01-01T00:00Z")) >= first.timestamp() + 3))
    last = at(read(http, name)["lastAt"])
    client.unschedule(name)

    # then each second has one task, and each ran once
    tasks = [ids.scheduled_id(name, tick) for tick in range(int(first.timestamp()), last + 1)]
    for task_id in tasks:
        eventually(lambda task_id=task_id: completed(http, task_id))
    # (one more may have come between what was read and the end)
    more = http.get(f"/tasks/{ids.scheduled_id(name, last + 1)}").status_code == 200
    ran = len(tasks) + more
    eventually(lambda: check(len(ledger.read_text().splitlines()) >= ran))
    assert ran == len(ledger.read_text().splitlines()), ledger.read_text()


@pytest.mark.parametrize(("missed", "submits"), [("once", 1), ("all", 6), ("skip", 1)])
def test_after_an_outage_the_policy_says_what_is_submitted(
    http: httpx.Client, redis_client: redis.Redis, name: str, missed: str, submits: int
) -> None:
    # given a schedule that nobody served for five minutes, and whose next tick is half a minute ahead
    last = int(time.time()) - 30
    put(http, name, cron=f"{last % 60} * * * * *", missed=missed)
    first = last - 300
    redis_client.zadd(SCHEDULE_DUE, {name: first})

    # when a scheduler is back
    eventually(lambda: check(at(read(http, name)["nextAt"]) > last))

    # then there are as many tasks as the policy says
    ticks = range(first, last + 1, 60)
    found = [tick for tick in ticks if http.get(f"/tasks/{ids.scheduled_id(name, tick)}").status_code == 200]
    assert submits == len(found)
    assert {"once": first, "all": first, "skip": last}[missed] == found[0]


def test_a_paused_schedule_does_not_tick_until_it_goes_on(
    http: httpx.Client, redis_client: redis.Redis, name: str
) -> None:
    put(http, name)

    assert "nextAt" not in put(http, name, paused=True)
    assert None is redis_client.zscore(SCHEDULE_DUE, name)
    assert "nextAt" in put(http, name)


def test_a_schedule_that_is_replaced_ticks_as_it_says_from_then_on(http: httpx.Client, name: str) -> None:
    before = put(http, name)

    after = put(http, name, cron="0 0 1 1 *", payload={"a": 2})

    assert ({"a": 2}, before["createdAt"]) == (after["payload"], after["createdAt"])
    assert pd.Timestamp(after["nextAt"]).day_of_year == 1


def test_a_schedule_that_is_put_again_as_it_was_keeps_a_tick_that_waits(
    http: httpx.Client, redis_client: redis.Redis, name: str
) -> None:
    # given a schedule whose next tick is another one than is ahead from now
    put(http, name)
    redis_client.zadd(SCHEDULE_DUE, {name: FAR})

    # when it is put with another payload, then it keeps it; with another time zone, it does not
    assert FAR == at(put(http, name, payload={"a": 2})["nextAt"])
    assert FAR > at(put(http, name, timeZone="Asia/Kolkata")["nextAt"])


def test_a_schedule_that_is_removed_is_gone_and_its_name_free(
    http: httpx.Client, redis_client: redis.Redis, name: str
) -> None:
    made = put(http, name)

    removed = http.delete(f"/schedules/{name}")

    assert (200, made["createdAt"]) == (removed.status_code, removed.json()["createdAt"])
    assert None is redis_client.zscore(SCHEDULE_DUE, name)
    for answer in (http.get(f"/schedules/{name}"), http.delete(f"/schedules/{name}")):
        assert (404, "urn:nexusq:problem:schedule-not-found") == (answer.status_code, answer.json()["type"])
    assert put(http, name)["createdAt"] > made["createdAt"]


@pytest.mark.parametrize(
    ("changes", "field", "said"),
    [
        ({"cron": "61 * * * *"}, "cron", "expected cron to be five fields"),
        ({"cron": "@reboot"}, "cron", "got '@reboot'"),
        ({"cron": 5}, "cron", "expected cron to be str, got int"),
        ({"timeZone": "Europe/Berln"}, "timeZone", "did you mean 'Europe/Berlin'?"),
        ({"missed": "never"}, "missed", "missed: Invalid enum value 'never'"),
        ({"taskType": "ECHOO"}, "taskType", "did you mean ECHO?"),
        ({"taskType": "EMAIL_SEND", "payload": {"to": "a@b.c"}}, "subject", "'subject' is missing"),
        ({"options": {"queue": "No Queue"}}, "options.queue", "expected queue to be a name"),
        ({"options": {"delaySeconds": 5}}, "options.delaySeconds", "expected options to have no delaySeconds"),
        ({"options": {"eta": "2030-01-01T00:00:00Z"}}, "options.eta", "expected options to have no eta"),
        ({"options": {"idempotencyKey": "k"}}, "options.idempotencyKey", "expected options to have no idempotencyKey"),
        ({"timezone": "UTC"}, "timezone", "unknown field 'timezone'; did you mean 'timeZone'?"),
    ],
)
def test_what_can_not_be_a_schedule_is_refused_naming_the_field(
    http: httpx.Client, name: str, changes: dict[str, Any], field: str, said: str
) -> None:
    answer = http.put(f"/schedules/{name}", json=ECHO | changes)

    assert 422 == answer.status_code, answer.text
    assert said in answer.json()["detail"]
    assert field in {error["field"] for error in answer.json()["errors"]}
    assert 404 == http.get(f"/schedules/{name}").status_code


@pytest.mark.parametrize(
    ("wrong", "body", "status"),
    [("-x", b"{}", 422), ("a b", b"{}", 422), ("a" * 101, b"{}", 422), ("a", b"", 422), ("a", b"[]", 422)],
)
def test_a_name_or_a_body_that_is_none_is_refused(http: httpx.Client, wrong: str, body: bytes, status: int) -> None:
    answer = http.put(f"/schedules/{wrong}", content=body, headers={"Content-Type": "application/json"})

    assert status == answer.status_code, answer.text
    assert "application/problem+json" == answer.headers["content-type"]


def test_a_notebook_adds_lists_and_removes_a_schedule(client: nexusq_sdk.Client, name: str) -> None:
    made = client.schedule(
        name, "ECHO", {"a": 1}, cron="@daily", time_zone="Asia/Kolkata", queue="reports", max_attempts=2
    )

    row = client.schedules().set_index("name").loc[name]
    assert ("ECHO", "@daily", "Asia/Kolkata", "once") == tuple(row[["task_type", "cron", "time_zone", "missed"]])
    assert ("reports", "normal", {"a": 1}) == tuple(row[["queue", "priority", "payload"]])
    assert made.next_at == row["next_at"]
    assert row["last_at"] is pd.NaT
    assert not row["paused"]
    client.unschedule(name)
    assert name not in set(client.schedules()["name"])
    with pytest.raises(nexusq_sdk.UnknownSchedule, match=name):
        client.unschedule(name)


def test_a_notebook_is_told_what_is_wrong(client: nexusq_sdk.Client, name: str) -> None:
    with pytest.raises(nexusq_sdk.Refused, match="expected cron to be five fields"):
        client.schedule(name, "ECHO", {}, cron="daily")
    with pytest.raises(ValueError, match="expected missed to be one of once, all, skip, got 'never'"):
        client.schedule(name, "ECHO", {}, cron="@daily", missed="never")
    with pytest.raises(ValueError, match="expected a schedule's name to be such as"):
        client.schedule("../tasks", "ECHO", {}, cron="@daily")
    with pytest.raises(nexusq_sdk.Refused, match="expected options to have no delaySeconds"):
        client.schedule(name, "ECHO", {}, cron="@daily", delay=5)


def test_a_terminal_adds_lists_and_removes_a_schedule(cluster: Addresses, name: str) -> None:
    def nexusq(*words: str) -> tuple[int, str]:
        answer = CliRunner().invoke(app, ["schedules", *words], env={"NEXUSQ_URL": cluster.url})
        return answer.exit_code, answer.output

    code, said = nexusq("add", name, "ECHO", "--cron", "0 6 * * *", "--payload", '{"a": 1}', "--priority", "low")
    assert (0, True) == (code, said.startswith(f"{name}: next at ")), said
    code, said = nexusq()
    assert 0 == code, said
    assert any(name in line and "0 6 * * *" in line for line in said.splitlines())
    assert (0, f"{name}: removed\n") == nexusq("remove", name)
    code, said = nexusq("remove", name)
    assert (1, True) == (code, "there is no schedule" in said)
    code, said = nexusq("add", name, "ECHO", "--cron", "@daily", "--payload", "{a: 1}")
    assert (2, True) == (code, "to be JSON" in said)
