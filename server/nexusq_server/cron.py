"""When a schedule ticks: cron expressions, time zones, what an outage leaves to be done. Pure; called from any thread.

Five fields go by the rules of Debian's cron where clocks are changed: a time that is skipped ticks when the skipped
hour is over, one that comes twice ticks once; where minute or hour is ``*`` every real minute or hour counts.
With six fields, seconds in front, each time on the clock is taken as it comes.
"""

from __future__ import annotations

import difflib
import functools
import itertools
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from nexusq_sdk.protocol.words import Missed

#: A tick that is later than this was missed; the policy ``skip`` passes over it.
LATE_SECONDS = 60
#: The policy ``all`` submits at most so many, the newest.
MOST_MISSED = 1000

ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_LONGEST = 500


class CronError(ValueError):
    """A cron expression or a time zone that is none. `field` is the one at fault, as on the wire."""

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


class Cron:
    """A cron expression in a time zone.

    Raises
    ------
    CronError
        If either is none.
    """

    def __init__(self, expression: str, time_zone: str = "UTC") -> None:
        if len(expression) > _LONGEST:
            raise CronError(f"expected cron to have at most {_LONGEST} characters, got {len(expression)}", "cron")
        self._zone = _zone(time_zone)
        self._fields = ALIASES.get(expression.strip().lower(), expression)
        try:
            CronSim(self._fields, datetime.now(self._zone))
        except CronSimError as error:
            why = str(error)
            raise CronError(
                f"expected cron to be five fields such as '30 8 * * MON-FRI' (minute, hour, day of month, month, "
                f"weekday), six with seconds in front, or one of {', '.join(ALIASES)}, "
                f"got {expression[:100]!r}: {why[:1].lower()}{why[1:]}",
                "cron",
            ) from None

    def after(self, moment: float) -> int | None:
        """Give the first tick after `moment`, both in Unix seconds; None if there is none within 50 years."""
        return next(self._ticks(moment), None)

    def between(self, after: float, until: float) -> Iterator[int]:
        """Give the ticks after `after`, up to and with `until`."""
        return itertools.takewhile(lambda tick: tick <= until, self._ticks(after))

    def _ticks(self, after: float) -> Iterator[int]:
        try:
            for moment in CronSim(self._fields, datetime.fromtimestamp(int(after), self._zone)):
                tick = int(moment.timestamp())
                # In an hour that comes twice the clock's times begin again before `after`.
                if tick > after:
                    after = tick
                    yield tick
        except (OverflowError, ValueError):
            return  # beyond the calendar's end


def due_ticks(cron: Cron, first: int, now: float, missed: Missed) -> list[int]:
    """Give the ticks that a task is to be submitted for: `first` is due, and later ones may be by now."""
    if missed == Missed.ONCE:
        return [first]
    if missed == Missed.SKIP:
        recent = max(first, int(now) - LATE_SECONDS - 1)
        return [tick for tick in itertools.chain([first], cron.between(recent, now)) if tick >= now - LATE_SECONDS]
    # Looked for in ever longer spans back from now: a year of minutes would take seconds to count.
    span = MOST_MISSED
    while True:
        start = max(first, int(now) - span)
        ticks = list(deque(cron.between(start, now), MOST_MISSED))
        if start == first:
            return [first, *ticks][-MOST_MISSED:]
        if len(ticks) == MOST_MISSED:
            return ticks
        span *= 4


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError):
        near = difflib.get_close_matches(name, _zones(), 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise CronError(
            f"expected timeZone to be a name such as 'Europe/Berlin' (IANA), got {name[:100]!r}{hint}", "timeZone"
        ) from None


@functools.cache
def _zones() -> tuple[str, ...]:
    return tuple(sorted(available_timezones()))
