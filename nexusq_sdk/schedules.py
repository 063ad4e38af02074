"""Schedules in an SDK's terms: what is sent for one, and all of them as a DataFrame. Pure; called by `Client`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from nexusq_sdk.options import to_wire
from nexusq_sdk.protocol.wire import Options, Schedule, ScheduleView
from nexusq_sdk.protocol.words import DEFAULT_QUEUE, SCHEDULE, TASK_TYPE, Missed, Priority
from nexusq_sdk.rows import encode_payload

if TYPE_CHECKING:
    import pandas as pd

#: A frame's columns; those of the second are times.
COLUMNS = ("name", "task_type", "cron", "time_zone", "missed", "paused", "queue", "priority", "last_task_id", "payload")
TIMES = ("next_at", "last_at", "created_at")


def check_name(name: str) -> None:
    """Raise `ValueError` for what can't be a schedule's name: it would ask for something else."""
    if not isinstance(name, str) or SCHEDULE.fullmatch(name) is None:
        raise ValueError(
            f"expected a schedule's name to be such as 'nightly-report' (a letter or digit, then letters, digits, "
            f"'_', '.', ':' or '-'; 100 at most), got {name!r}"
        )


def encode_schedule(
    task_type: str,
    payload: Any,
    options: Mapping[str, Any],
    cron: str,
    time_zone: str,
    missed: str,
    paused: bool,
) -> bytes:
    """Give the body of ``PUT /schedules/{name}``.

    Raises
    ------
    ValueError, TypeError
        For what can't be meant; the server checks the rest.
    RowError
        If the payload has no JSON form.
    """
    if not isinstance(task_type, str) or TASK_TYPE.fullmatch(task_type) is None:
        raise ValueError(f"expected the task type to be a name such as 'EMAIL_SEND', got {task_type!r}")
    if missed not in list(Missed):
        raise ValueError(f"expected missed to be one of {', '.join(Missed)}, got {missed!r}")
    for name, value in (("cron", cron), ("time_zone", time_zone)):
        if not isinstance(value, str):
            raise TypeError(f"expected {name} to be a str, got {value!r}")
    said = to_wire(options)
    schedule = Schedule(
        task_type=task_type,
        payload=msgspec.Raw(encode_payload(payload)),
        cron=cron,
        time_zone=time_zone,
        options=None if said == Options() else said,
        missed=Missed(missed),
        paused=paused,
    )
    return msgspec.json.encode(schedule)


def schedule_frame(views: Sequence[ScheduleView]) -> pd.DataFrame:
    """Make a frame of schedules, a row each, by name. Columns: see `nexusq_sdk.Client.schedules`."""
    import pandas as pd  # noqa: PLC0415 - pandas loads when a frame is wanted

    rows = [_row(view) for view in views]
    frame = pd.DataFrame({name: [row[name] for row in rows] for name in COLUMNS})
    for place, name in enumerate(TIMES, COLUMNS.index("last_task_id")):
        times = pd.to_datetime([getattr(view, name) for view in views], utc=True)
        frame.insert(place, name, pd.Series(times, dtype="datetime64[us, UTC]"))
    return frame


def _row(view: ScheduleView) -> dict[str, Any]:
    row = {name: getattr(view, name, None) for name in COLUMNS}
    row["missed"] = view.missed.value
    row["queue"] = (view.options and view.options.queue) or DEFAULT_QUEUE
    row["priority"] = ((view.options and view.options.priority) or Priority.NORMAL).value
    row["payload"] = msgspec.json.decode(view.payload)
    return row
