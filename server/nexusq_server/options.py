"""Checks what a submit asks for, and gives what is kept of it. Pure; called by the API's routes."""

from __future__ import annotations

import functools
from datetime import UTC, datetime
from typing import NamedTuple

from msgspec.structs import replace

from nexusq_sdk.protocol import ids
from nexusq_sdk.protocol.wire import Options
from nexusq_sdk.protocol.words import DEFAULT_QUEUE, QUEUE, RESERVED_QUEUES, Priority
from nexusq_server.limits import LONGEST, fault_in
from nexusq_server.problems import InvalidRequest
from nexusq_server.states import encode_options


class Plan(NamedTuple):
    """How tasks are to be handled. `kept` is the JSON of what a worker needs; `due_us` None: at once."""

    queue: str
    priority: Priority
    ttl_seconds: float | None
    due_us: int | None
    kept: bytes


def plan(options: Options | None, now_us: int) -> Plan:
    """Check options.

    Raises
    ------
    InvalidRequest
        Naming the option, what was expected and what came.
    """
    if options is None:
        return Plan(DEFAULT_QUEUE, Priority.NORMAL, None, None, b"")
    if options.delay_seconds is None and options.eta is None and options.idempotency_key is None:
        return _plain(options)  # most likely the same as those of the request before
    _check(options)
    due_us = _due_us(options, now_us)
    if due_us is not None:
        options = replace(options, delay_seconds=None, eta=datetime.fromtimestamp(due_us / 1e6, UTC))
    return _made(options, due_us)


def with_key(options: Options | None, header: str | None) -> Options | None:
    """Give the options with the ``Idempotency-Key`` header's value, where there is one."""
    if header is None:
        return options
    if options is not None and options.idempotency_key not in {None, header}:
        raise InvalidRequest(
            f"expected options.idempotencyKey and the header Idempotency-Key to be the same, "
            f"got {options.idempotency_key!r} and {header!r}",
            field="options.idempotencyKey",
        )
    return replace(options or Options(), idempotency_key=header)


def keyed_id(options: Options | None, given: str | None, name: str) -> str | None:
    """Give the id that an idempotency key stands for; None without one.

    Raises
    ------
    InvalidRequest
        If the key is empty or too long, or another id is given beside it.
    """
    key = options.idempotency_key if options else None
    if key is None:
        return None
    if not 1 <= len(key) <= 255:
        raise InvalidRequest(
            f"expected idempotencyKey to have 1 to 255 characters, got {len(key)}", field="options.idempotencyKey"
        )
    made = ids.id_from_key(key)
    if given is not None and given != made:
        raise InvalidRequest(
            f"expected {name} to be left out or {made!r}, which idempotencyKey stands for, got {given!r}", field=name
        )
    return made


@functools.lru_cache(100)
def _plain(options: Options) -> Plan:
    _check(options)
    return _made(options, None)


def _made(options: Options, due_us: int | None) -> Plan:
    return Plan(
        options.queue or DEFAULT_QUEUE,
        options.priority or Priority.NORMAL,
        options.result_ttl_seconds,
        due_us,
        encode_options(options),
    )


def _check(options: Options) -> None:
    queue = options.queue or DEFAULT_QUEUE
    if QUEUE.fullmatch(queue) is None or queue in RESERVED_QUEUES:
        raise InvalidRequest(
            f"expected queue to be a name such as 'reports' (a-z, 0-9, '_', '-'; 60 at most; "
            f"not {', '.join(sorted(RESERVED_QUEUES))}), got {queue!r}",
            field="options.queue",
        )
    fault = fault_in(options)
    if fault is not None:
        raise InvalidRequest(fault.message, field=f"options.{fault.name}")


def _due_us(options: Options, now_us: int) -> int | None:
    if options.eta is not None and options.delay_seconds is not None:
        raise InvalidRequest("expected delaySeconds or eta, got both", field="options.eta")
    if options.delay_seconds is not None:
        due = now_us + int(options.delay_seconds * 1_000_000)
    elif options.eta is not None:
        due = int(options.eta.astimezone(UTC).timestamp() * 1_000_000)
    else:
        return None
    if due > now_us + LONGEST * 1_000_000:
        raise InvalidRequest(f"expected eta to be within ten years, got {options.eta}", field="options.eta")
    return due if due > now_us else None
