"""Settings from flags and the environment: what is wrong is named, with what was expected."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import pytest

from nexusq_server.settings import SettingsError, load_settings

WRONG = [
    ("NEXUSQ_KAFKA", "kafka", "expected host:port, such as kafka:9092, comma-separated"),
    ("NEXUSQ_KAFKA", "http://kafka:9092", "expected host:port"),
    ("NEXUSQ_KAFKA", "", "expected at least one host:port"),
    ("NEXUSQ_REDIS", "localhost:6379", "expected a URL such as redis://host:6379/0"),
    ("NEXUSQ_REDIS", "http://localhost:6379", "expected a URL such as redis://host:6379/0"),
    ("NEXUSQ_REDIS", "redis://host:port/0", "expected a URL such as redis://host:6379/0"),
    ("NEXUSQ_KAFKA_SECURITY", "TLS", "expected 'PLAINTEXT', 'SSL', 'SASL_PLAINTEXT' or 'SASL_SSL'"),
    ("NEXUSQ_KAFKA_SASL", "GSSAPI", "expected 'PLAIN', 'SCRAM-SHA-256' or 'SCRAM-SHA-512'"),
    ("NEXUSQ_KAFKA_CA", "/nowhere/ca.crt", "expected a file that can be read"),
    ("NEXUSQ_PARTITIONS", "0", "expected a number greater than or equal to 1"),
    ("NEXUSQ_REPLICATION", "many", "expected a valid integer"),
    ("NEXUSQ_PORT", "65536", "expected a number less than or equal to 65535"),
    ("NEXUSQ_MAX_BODY_MIB", "1.5", "expected a valid integer"),
    ("NEXUSQ_SUBMIT_TIMEOUT", "10", "expected a time above zero with its unit, such as 500ms, 10s, 5m, 2h or 1d"),
    ("NEXUSQ_LEASE", "0s", "expected a time above zero"),
    ("NEXUSQ_GRACE", "-5s", "expected a time above zero"),
    ("NEXUSQ_RESULT_TTL", "a day", "expected a time above zero"),
    ("NEXUSQ_TASKS", "jobs/my_tasks.py", "expected names of modules as in Python's import"),
    ("NEXUSQ_QUEUES", "Reports", "expected a queue to be a name such as 'reports'"),
    ("NEXUSQ_QUEUES", "dead", "expected a queue to be a name such as 'reports'"),
    ("NEXUSQ_QUEUES", ",", "expected at least one queue"),
    ("NEXUSQ_CONCURRENCY", "-1", "expected a number greater than or equal to 1"),
    ("NEXUSQ_SMTP_PORT", "smtp", "expected a valid integer"),
    ("NEXUSQ_SMTP_STARTTLS", "perhaps", "expected a valid boolean"),
    ("NEXUSQ_SMTP_FROM", "a@example.com\nBcc: b@example.com", "expected one mail address"),
    ("NEXUSQ_HTTP_HOSTS", "https://api.example.com", "expected names of hosts alone"),
    ("NEXUSQ_HTTP_HOSTS", "api.example.com:8443", "expected names of hosts alone"),
    ("NEXUSQ_LOG_LEVEL", "LOUD", "expected 'DEBUG', 'INFO', 'WARNING' or 'ERROR'"),
]


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("NEXUSQ_"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(("variable", "value", "expected"), WRONG, ids=lambda value: repr(value)[:30])
def test_a_wrong_value_is_named_with_what_was_expected(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, expected: str
) -> None:
    # given one wrong value
    monkeypatch.setenv(variable, value)

    # when the settings are read; then one line names it, what was expected, and what it was
    with pytest.raises(SettingsError) as caught:
        load_settings()
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"{variable}: {expected}")
    assert line.endswith(f"got {value!r}")


def test_each_of_several_wrong_values_has_a_line_that_says_where_it_is_from(monkeypatch: pytest.MonkeyPatch) -> None:
    # given two wrong values, one of them a flag's
    monkeypatch.setenv("NEXUSQ_LEASE", "soon")

    # when the settings are read
    with pytest.raises(SettingsError) as caught:
        load_settings(concurrency=0)

    # then both are named as the user wrote them
    assert {"NEXUSQ_LEASE", "--concurrency"} == {line.partition(":")[0] for line in str(caught.value).splitlines()}


def test_a_flag_wins_over_the_environment_and_that_over_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    # given two variables, and a flag for one of them
    monkeypatch.setenv("NEXUSQ_CONCURRENCY", "3")
    monkeypatch.setenv("NEXUSQ_PORT", "8001")

    # when the settings are read
    settings = load_settings(port=8002, concurrency=None)

    # then the nearest one holds
    assert (8002, 3, 587) == (settings.port, settings.concurrency, settings.smtp_port)


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("lease", "500ms", timedelta(milliseconds=500)),
        ("lease", "1.5 h", timedelta(minutes=90)),
        ("result_ttl", "2d", timedelta(days=2)),
        ("tasks", "my_tasks, my_package.more,", ("my_tasks", "my_package.more")),
        ("kafka", "a:9092,[::1]:9093", ("a:9092", "[::1]:9093")),
        ("http_hosts", "API.example.com,10.0.0.1", ("api.example.com", "10.0.0.1")),
        ("redis", "unix:///run/redis.sock", "unix:///run/redis.sock"),
        ("smtp_from", "NexusQ <nexusq@example.com>", "NexusQ <nexusq@example.com>"),
    ],
)
def test_a_right_value_is_read_as_it_was_meant(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, meant: Any
) -> None:
    # given a value; when it is read; then it is what was meant
    monkeypatch.setenv(f"NEXUSQ_{name.upper()}", value)
    assert meant == getattr(load_settings(), name)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"user": "u"}, "expected NEXUSQ_KAFKA_USER and NEXUSQ_KAFKA_PASSWORD together, got only one"),
        ({"cert": __file__}, "expected NEXUSQ_KAFKA_CERT and NEXUSQ_KAFKA_KEY together, got only one"),
        ({"user": "u", "password": "p"}, "expected one with SASL, since NEXUSQ_KAFKA_USER is set, got 'PLAINTEXT'"),
        ({"ca": __file__}, "expected one with SSL, since NEXUSQ_KAFKA_CA is set, got 'PLAINTEXT'"),
        ({"ca": __file__, "security": "SASL_PLAINTEXT"}, "expected one with SSL, since NEXUSQ_KAFKA_CA is set"),
        ({"security": "SASL_SSL"}, "NEXUSQ_KAFKA_USER: expected a login, since SASL_SSL needs one"),
    ],
)
def test_what_is_set_for_kafka_and_would_be_left_out_is_refused(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], told: str
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(f"NEXUSQ_KAFKA_{name.upper()}", value)

    with pytest.raises(SettingsError) as caught:
        load_settings()

    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_kafkas_client_is_told_how_to_log_in(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"security": "SASL_SSL", "user": "u", "password": "secret", "ca": __file__}
    for name, value in told.items():
        monkeypatch.setenv(f"NEXUSQ_KAFKA_{name.upper()}", value)

    settings = load_settings(kafka="a:9093,b:9093")

    given = {name: value for name, value in settings.kafka_client.items() if value is not None}
    assert {
        "bootstrap_servers": ["a:9093", "b:9093"],
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "u",
        "sasl_plain_password": "secret",
        "ssl_cafile": __file__,
    } == given
    assert "secret" not in repr(settings)
