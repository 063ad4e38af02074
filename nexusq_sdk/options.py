"""What may be said when work is submitted, and its form on the wire. Pure."""

from __future__ import annotations

import difflib
import math
import numbers
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Literal, TypedDict

import msgspec

from nexusq_sdk.protocol.wire import Backoff, Options
from nexusq_sdk.protocol.words import Priority

#: Seconds, or a timedelta.
Time = float | timedelta


class SubmitOptions(TypedDict, total=False):
    """The keyword arguments of `Client.submit` and `Client.submit_batch`; unsaid, the handler's or the server's go.

    Attributes
    ----------
    queue : str
        The queue; otherwise ``default``.
    priority : {"high", "normal", "low"}
        Before or behind what else waits in the queue; ``low`` is not starved.
    delay : float (seconds) or timedelta
        How long to wait before it may start.
    eta : datetime
        When it may start; a naive one is local time.
    max_attempts : int
        How often it is tried in all if its handler raises.
    backoff : float or timedelta, or a pair of them
        Longest wait before the second attempt, doubled for each later one; of a pair, the second is the cap.
    timeout : float (seconds) or timedelta
        How long an attempt may run.
    result_ttl : float (seconds) or timedelta
        How long its state is kept once it has ended.
    idempotency_key : str
        Submitted again with the same key it is the same task or batch; with other work under that key it is refused.
    allow_unknown : bool
        Whether to submit although no worker has ever offered the type.
    """

    queue: str | None
    priority: Literal["high", "normal", "low"] | Priority | None
    delay: Time | None
    eta: datetime | None
    max_attempts: int | None
    backoff: Time | tuple[Time, Time] | None
    timeout: Time | None
    result_ttl: Time | None
    idempotency_key: str | None
    allow_unknown: bool


def to_wire(said: Mapping[str, Any]) -> Options:
    """Give options as the wire has them.

    Raises
    ------
    TypeError
        For a name that is no option.
    ValueError
        For a value that can't be meant.
    """
    for name in said:
        if name not in SubmitOptions.__annotations__:
            near = difflib.get_close_matches(name, list(SubmitOptions.__annotations__), 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"expected options among {', '.join(SubmitOptions.__annotations__)}, got {name!r}{hint}")
    values = {
        "queue": said.get("queue"),
        "priority": said.get("priority"),
        "delay_seconds": _finite(said.get("delay"), "delay"),
        "eta": _eta(said.get("eta")),
        "max_attempts": said.get("max_attempts"),
        "backoff": _backoff(said.get("backoff")),
        "timeout_seconds": _finite(said.get("timeout"), "timeout"),
        "result_ttl_seconds": _finite(said.get("result_ttl"), "result_ttl"),
        "idempotency_key": said.get("idempotency_key"),
        "allow_unknown": said.get("allow_unknown", False),
    }
    options = Options(**{name: value for name, value in values.items() if value is not None})
    try:
        return msgspec.json.decode(msgspec.json.encode(options), type=Options)
    except (msgspec.ValidationError, TypeError) as error:
        # In the user's names, not in the wire's.
        said_so = re.sub(r"[a-z]([A-Z])", lambda found: f"{found[0][0]}_{found[1].lower()}", str(error))
        raise ValueError(f"options: {said_so}") from None


def seconds(value: Any, name: str = "a time") -> float | None:
    """Give a time that was said in seconds or as a timedelta in seconds. Raises TypeError for anything else."""
    if value is None:
        return None
    if isinstance(value, timedelta):
        return value.total_seconds()
    # numpy's numbers as well; its timedelta64 passes for one, in a unit of its own, as True does for a second.
    if isinstance(value, numbers.Real) and type(value).__name__ != "timedelta64" and not isinstance(value, bool):
        return float(value)
    raise TypeError(f"expected {name} in seconds or as a timedelta, got {value!r}")


def _eta(value: Any) -> datetime | None:
    if value is None:
        return None
    # NaT passes for a datetime that equals nothing; a Timestamp does too, with an astimezone() of its own.
    if not isinstance(value, datetime) or value != value:  # noqa: PLR0124
        raise ValueError(f"expected eta to be a datetime, got {value!r}")
    return datetime.combine(value.date(), value.timetz()).astimezone()


def _finite(value: Any, name: str) -> float | None:
    number = seconds(value, name)
    if number is not None and not math.isfinite(number):
        raise ValueError(f"expected {name} to be a finite time, got {number}; leave it out for what is usual")
    return number


def _backoff(value: Any) -> Backoff | None:
    if value is None:
        return None
    if isinstance(value, tuple | list):
        if len(value) != 2:
            raise ValueError(f"expected backoff to be a time or a pair of times (first, cap), got {value!r}")
        first, cap = (_finite(part, "backoff") for part in value)
        if first is None or cap is None:
            raise ValueError(f"expected backoff to be a time or a pair of times (first, cap), got {value!r}")
        return Backoff(initial_seconds=first, cap_seconds=cap)
    return Backoff(initial_seconds=_finite(value, "backoff") or 0.0)
