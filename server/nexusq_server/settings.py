"""Every setting of the server in one class: from flags, then the environment (``NEXUSQ_*``), then the defaults.

Wrong values are named one a line, with what was expected. ``nexusq settings`` lists them all.
"""

from __future__ import annotations

import os
import re
from datetime import timedelta
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from nexusq_sdk.protocol import blobs
from nexusq_sdk.protocol.words import DEFAULT_QUEUE, QUEUE, RESERVED_QUEUES

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9])?|[0-9a-fA-F:]+")

#: One mail address, perhaps with a name before it: in Python's and in JSON Schema's regular expressions alike, where
#: ``$`` alone would let a line's end pass. That it exists, only its server knows.
ADDRESS = re.compile(r'^(?:[^\s@,<>"]+@[^\s@,<>"]+|(?:"[^"\r\n]*"|[^\r\n,@<>"]*) *<[^\s@,<>"]+@[^\s@,<>"]+>)$(?!\n)')


#: Read where they are needed, by programs that have no other setting: variable, default, meaning.
ELSEWHERE = (
    ("NEXUSQ_URL", "http://127.0.0.1:8000", "where the API answers, for the SDK and for nexusq submit, status, report"),
    ("NEXUSQ_CACHE", "the user's cache folder", "folder for what nexusq up downloads once"),
    ("NEXUSQ_KAFKA_HOME", "", "folder of a Kafka (with libs/ in it) for nexusq up, in place of a download"),
    ("NEXUSQ_JAVA", "", "java program for nexusq up, in place of the one that it finds"),
    ("NEXUSQ_REDIS_SERVER", "", "redis-server or valkey-server for nexusq up, in place of the one that it finds"),
    ("NEXUSQ_MAVEN_URL", "Maven Central", "mirror that nexusq up downloads Kafka from"),
)


class SettingsError(ValueError):
    """Settings that can't be used; the message has a line for each."""


def parse_duration(value: Any) -> timedelta:
    """Read ``500ms``, ``10s``, ``5m``, ``2h``, ``1d`` (the unit is never left out) as a timedelta above zero."""
    if isinstance(value, timedelta):
        return value
    match = _DURATION.fullmatch(str(value).strip())
    if match is None or float(match[1]) == 0:
        raise ValueError("expected a time above zero with its unit, such as 500ms, 10s, 5m, 2h or 1d")
    return timedelta(seconds=float(match[1]) * _UNITS[match[2]])


def _split(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Duration = Annotated[timedelta, BeforeValidator(parse_duration)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]


class Settings(BaseSettings):
    """What the API and the workers are told. Each field's description is what ``nexusq settings`` prints."""

    model_config = SettingsConfigDict(env_prefix="NEXUSQ_", frozen=True, extra="ignore")

    kafka: Names = Field(("127.0.0.1:9092",), description="Kafka's bootstrap servers, host:port, comma-separated")
    kafka_security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="how Kafka is spoken to, as its security.protocol: SSL is TLS, SASL_* logs in"
    )
    kafka_sasl: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="how to log in at Kafka, as its sasl.mechanism"
    )
    kafka_user: str = Field("", description="Kafka: login, for SASL_*")
    kafka_password: str = Field("", description="Kafka: password, for SASL_*", repr=False)
    kafka_ca: str = Field("", description="Kafka: file (PEM) of who signed its certificate; empty: the system's")
    kafka_cert: str = Field("", description="Kafka: file (PEM) of the client's own certificate; empty: none")
    kafka_key: str = Field("", description="Kafka: file (PEM) of that certificate's key")
    redis: str = Field(
        "redis://127.0.0.1:6379/0",
        description="Redis's URL: rediss://user:password@host:6379/0?ssl_ca_certs=/ca.pem with TLS",
    )
    partitions: int = Field(8, ge=1, le=1000, description="partitions of a topic that NexusQ creates")
    replication: int = Field(1, ge=1, le=7, description="replicas of a topic that NexusQ creates")

    host: str = Field("127.0.0.1", description="address that the API listens on")
    port: int = Field(8000, ge=0, le=65535, description="port that the API listens on; 0: a free one")
    max_body_mib: int = Field(64, ge=1, le=1024, description="largest body that the API reads, unpacked, in MiB")
    submit_timeout: Duration = Field(timedelta(seconds=10), description="how long a submit waits for Kafka before 503")

    tasks: Names = Field((), description="modules with @task functions that the worker imports, comma-separated")
    queues: Names = Field((DEFAULT_QUEUE,), description="queues that the worker serves, comma-separated")
    concurrency: int = Field(8, ge=1, le=1000, description="tasks that a worker runs at once in threads")
    processes: int = Field(os.cpu_count() or 1, ge=1, le=256, description="tasks that it runs at once in processes")
    async_concurrency: int = Field(100, ge=1, le=10000, description="tasks that it runs at once on its event loop")
    recycle_tasks: int = Field(0, ge=0, description="a process ends after so many tasks, a new one follows; 0: never")
    recycle_mib: int = Field(0, ge=0, description="a process ends after a task that left it larger, in MiB; 0: never")
    lease: Duration = Field(timedelta(seconds=10), description="a worker silent for so long is taken for dead")
    grace: Duration = Field(timedelta(seconds=30), description="how long a stopping worker waits for running tasks")
    max_tasks: int = Field(0, ge=0, description="the worker stops, as by SIGTERM, after so many tasks; 0: never")
    max_lifetime: Duration | None = Field(
        None, description="the worker stops, as by SIGTERM, after so long; empty: never"
    )
    group_instance: str = Field(
        "", description="name of this worker in its Kafka group (static membership); empty: none"
    )
    health_port: int = Field(0, ge=0, le=65535, description="port for a worker's /healthz and /readyz; 0: none")

    max_attempts: int = Field(1, ge=1, le=1000, description="attempts at a task unless its handler or its submit says")
    backoff: Duration = Field(
        timedelta(seconds=1), description="longest wait before the second attempt; then it doubles"
    )
    backoff_cap: Duration = Field(timedelta(minutes=5), description="longest wait before any attempt")
    alone_after: int = Field(2, ge=1, description="a task claimed so often without an end runs in a process of its own")
    max_deliveries: int = Field(10, ge=1, description="a task claimed so often without an end goes to the dead letters")
    park_after: Duration = Field(
        timedelta(seconds=60), description="a task that holds a partition's commit back for so long is parked"
    )
    park_gap: int = Field(10_000, ge=100, description="... or that holds back the commit of so many others")

    result_ttl: Duration = Field(timedelta(days=1), description="how long the state of an ended task is kept")
    gone_ttl: Duration = Field(timedelta(days=7), description="how long an expired id is then known as expired")
    dead_letter_ttl: Duration = Field(timedelta(days=7), description="how long a task that failed for good is kept")
    max_result_kib: int = Field(512, ge=1, le=65536, description="largest result of a task, in KiB of JSON")

    signing_key: str = Field(
        "", description="signs functions that are sent by value; empty: none are taken", repr=False
    )
    blob_ttl: Duration = Field(timedelta(days=30), description="how long a function is kept after its last use")
    max_blob_mib: int = Field(32, ge=1, le=512, description="largest function or argument sent apart, in MiB")

    smtp_host: str = Field("", description="EMAIL_SEND: mail server; empty: EMAIL_SEND is not offered")
    smtp_port: int = Field(587, ge=1, le=65535, description="EMAIL_SEND: its port")
    smtp_starttls: bool = Field(True, description="EMAIL_SEND: whether to encrypt by STARTTLS")
    smtp_user: str = Field("", description="EMAIL_SEND: login; empty: none")
    smtp_password: str = Field("", description="EMAIL_SEND: password", repr=False)
    smtp_from: str = Field("nexusq@localhost", description="EMAIL_SEND: sender unless the payload names one")
    http_hosts: Names = Field((), description="HTTP_REQUEST: hosts it may call; empty: HTTP_REQUEST is not offered")

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="what is logged to stderr")

    @field_validator("signing_key")
    @classmethod
    def _fit_key(cls, value: str) -> str:
        if value:
            blobs.read_key(value)
        return value

    @field_validator("kafka")
    @classmethod
    def _bootstrap_servers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for server in value:
            host, _, port = server.rpartition(":")
            if not host or "/" in server or not (port.isdecimal() and 0 < int(port) < 65536):
                raise ValueError("expected host:port, such as kafka:9092, comma-separated")
        if not value:
            raise ValueError("expected at least one host:port")
        return value

    @field_validator("kafka_ca", "kafka_cert", "kafka_key")
    @classmethod
    def _readable_file(cls, value: str) -> str:
        if value and not os.access(value, os.R_OK):
            raise ValueError("expected a file that can be read")
        return value

    @field_validator("redis")
    @classmethod
    def _redis_url(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            known = parts.scheme in {"redis", "rediss"} and bool(parts.hostname) and parts.port != 0
        except ValueError:
            known = False
        if not known and not value.startswith("unix:///"):
            raise ValueError(
                "expected a URL such as redis://host:6379/0 (rediss:// with TLS, unix:///path of a socket)"
            )
        return value

    @field_validator("tasks")
    @classmethod
    def _module_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not all(part.isidentifier() for part in name.split(".")):
                raise ValueError("expected names of modules as in Python's import: my_package.tasks, no path, no .py")
        return value

    @field_validator("http_hosts")
    @classmethod
    def _host_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for host in value:
            if _HOST.fullmatch(host) is None:
                raise ValueError("expected names of hosts alone, such as api.example.com: no port, no https://")
        return tuple(host.lower() for host in value)

    @model_validator(mode="after")
    def _fit_kafka(self) -> Settings:
        """Refuse what would be left out without a word: a password that is never sent, a certificate never shown."""
        for first, second in (("USER", "PASSWORD"), ("CERT", "KEY")):
            if bool(getattr(self, f"kafka_{first.lower()}")) != bool(getattr(self, f"kafka_{second.lower()}")):
                raise ValueError(f"expected NEXUSQ_KAFKA_{first} and NEXUSQ_KAFKA_{second} together, got only one")
        for name, needs in (("user", "SASL"), ("ca", "SSL"), ("cert", "SSL")):
            if getattr(self, f"kafka_{name}") and needs not in self.kafka_security.split("_"):
                raise ValueError(
                    f"NEXUSQ_KAFKA_SECURITY: expected one with {needs}, since NEXUSQ_KAFKA_{name.upper()} is set, "
                    f"got {self.kafka_security!r}"
                )
        if "SASL" in self.kafka_security and not self.kafka_user:
            raise ValueError(f"NEXUSQ_KAFKA_USER: expected a login, since {self.kafka_security} needs one, got ''")
        return self

    @property
    def kafka_client(self) -> dict[str, Any]:
        """Where Kafka is and how it is spoken to: what every kafka-python client is made with."""
        return {
            "bootstrap_servers": list(self.kafka),
            "security_protocol": self.kafka_security,
            "sasl_mechanism": self.kafka_sasl if self.kafka_user else None,
            "sasl_plain_username": self.kafka_user or None,
            "sasl_plain_password": self.kafka_password or None,
            "ssl_cafile": self.kafka_ca or None,
            "ssl_certfile": self.kafka_cert or None,
            "ssl_keyfile": self.kafka_key or None,
        }

    @property
    def redis_shown(self) -> str:
        """Redis's address for messages and logs: never the password."""
        return self.redis.rpartition("@")[2]

    @field_validator("smtp_from")
    @classmethod
    def _sender(cls, value: str) -> str:
        if ADDRESS.search(value) is None:
            raise ValueError("expected one mail address, such as nexusq@example.com or 'NexusQ <nexusq@example.com>'")
        return value

    @field_validator("queues")
    @classmethod
    def _queue_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if QUEUE.fullmatch(name) is None or name in RESERVED_QUEUES:
                raise ValueError(
                    f"expected a queue to be a name such as 'reports' (a-z, 0-9, '_', '-'; "
                    f"not {', '.join(sorted(RESERVED_QUEUES))})"
                )
        if not value:
            raise ValueError("expected at least one queue")
        return value


def load_settings(**flags: Any) -> Settings:
    """Read the settings; flags that are None count as not given.

    Raises
    ------
    SettingsError
        Naming every setting that is wrong, where it came from, and what was expected.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        lines = []
        for fault in error.errors():
            if not fault["loc"]:  # several settings that don't fit together
                lines.append(fault["msg"].removeprefix("Value error, "))
                continue
            name = str(fault["loc"][0])
            source = f"--{name.replace('_', '-')}" if name in given else f"NEXUSQ_{name.upper()}"
            # What is wrong with a secret is told without showing it.
            shown = (
                repr(fault["input"]) if Settings.model_fields[name].repr else f"{len(str(fault['input']))} characters"
            )
            lines.append(f"{source}: {_expected(fault['msg'])}, got {shown}")
        raise SettingsError("\n".join(lines)) from None


def _expected(message: str) -> str:
    """Say what was expected in the words of the other refusals."""
    message = message.removeprefix("Value error, ").partition(", unable to")[0]
    return re.sub(
        r"^Input should be (greater|less)?",
        lambda found: f"expected {'a number ' + found[1] if found[1] else ''}",
        message,
    )
