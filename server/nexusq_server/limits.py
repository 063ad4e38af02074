"""What options may be, whoever wrote them: a submit, or another client's record. Pure."""

from __future__ import annotations

from typing import NamedTuple

from nexusq_sdk.protocol.wire import Options

#: Ten years in seconds: more is a mistake in the unit.
LONGEST = 3650 * 86400.0
#: Beyond any that comes about by retries; it must stay exact in Lua's numbers.
MAX_ATTEMPT = 1_000_000


class Fault(NamedTuple):
    """An option that can't be meant: its name, and what was expected of it."""

    name: str
    message: str


def fault_in(options: Options) -> Fault | None:
    """Give the first option that can't be meant."""
    initial, cap = (options.backoff.initial_seconds, options.backoff.cap_seconds) if options.backoff else (None, None)
    times = (
        ("resultTtlSeconds", options.result_ttl_seconds, 1, "from 1 to ten years"),
        ("delaySeconds", options.delay_seconds, 0, "from 0 to ten years"),
        ("timeoutSeconds", options.timeout_seconds, 0, "above 0, up to ten years"),
        ("backoff.initialSeconds", initial, 0, "from 0 to ten years"),
        ("backoff.capSeconds", cap, 0, "from 0 to ten years"),
    )
    for name, value, least, expected in times:
        if value is not None and (not least <= value <= LONGEST or (value == 0 and name == "timeoutSeconds")):
            return Fault(name, f"expected {name} to be {expected}, got {value:g}")
    if options.max_attempts is not None and not 1 <= options.max_attempts <= MAX_ATTEMPT:
        return Fault("maxAttempts", f"expected maxAttempts to be from 1 to {MAX_ATTEMPT}, got {options.max_attempts}")
    if options.eta is not None and options.eta.tzinfo is None:
        expected = "a time with its offset, such as 2026-01-31T12:00:00Z"
        return Fault("eta", f"expected eta to be {expected}, got {options.eta.isoformat()!r}")
    return None
