"""How far a batch is, in words: counters to text and numbers. Pure."""

from __future__ import annotations

from collections import deque

from nexusq_sdk.protocol.wire import BatchView, TaskSaid
from nexusq_sdk.protocol.words import TERMINAL, Status

#: Seconds over which the pace of a batch is measured that is being watched.
PACE_SECONDS = 20.0


def ended(view: BatchView) -> int:
    """Give how many of a batch's tasks have ended."""
    return sum(view.counts.get(status.value, 0) for status in TERMINAL)


def finished(view: BatchView) -> bool:
    """Whether a batch has all its tasks and all of them have ended."""
    return view.closed and ended(view) >= view.size


def share(view: BatchView) -> float:
    """Give how much of a batch has ended, from 0 to 1."""
    return min(1.0, ended(view) / view.size) if view.size else 1.0


def state(view: BatchView) -> str:
    """Say in a word how a batch stands."""
    if not finished(view):
        return "running" if ended(view) or view.counts.get(Status.IN_PROGRESS, 0) else "waiting"
    for status in (Status.FAILED, Status.CANCELLED):
        if view.counts.get(status, 0):
            return status.value.lower()
    return "completed"


def describe(view: BatchView, pace: float | None = None) -> str:
    """Say in one line how a batch stands. `pace`: tasks a second lately; otherwise that since its first task began."""
    parts = [f"{ended(view):,} of {view.size:,}"]
    for status in (Status.FAILED, Status.CANCELLED):
        count = view.counts.get(status, 0)
        if count:
            parts.append(f"{count:,} {status.value.lower()}")
    rate = view.rate_per_second if pace is None or view.finished_at else pace
    if rate:
        parts.append(f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s")
        left = view.size - ended(view)
        if left and view.finished_at is None:
            parts.append(f"{span(left / rate)} left")
    if view.finished_at and view.started_at:
        parts.append(f"in {span((view.finished_at - view.started_at).total_seconds())}")
    return ", ".join(parts)


def said(task: TaskSaid) -> str:
    """Say in one line what a running task says of itself.

    Examples
    --------
    >>> said(TaskSaid(task_id="b-3", progress=0.4, progress_text="epoch 4/10", log=["loss 0.31"]))
    'row 3: 40%, epoch 4/10, loss 0.31'
    """
    share_ = [] if task.progress is None else [f"{task.progress:.0%}"]
    parts = [*share_, task.progress_text or "", *task.log[-1:]]
    return f"row {row(task)}: {', '.join(part for part in parts if part)}"


def row(task: TaskSaid) -> str:
    """Give a task's row: the last part of its id."""
    return task.task_id.rpartition("-")[2]


def span(seconds: float) -> str:
    """Say a span of time as people do.

    Examples
    --------
    >>> span(0.0004), span(0.042), span(8.25), span(75), span(7300), span(200_000)
    ('0.4 ms', '42 ms', '8.2 s', '1 min 15 s', '2 h 1 min', '2 d 7 h')
    """
    if seconds < 0.1:
        return f"{1000 * seconds:.0f} ms" if seconds >= 0.001 or not seconds else f"{1000 * seconds:.1g} ms"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def bar(fraction: float, width: int, ascii_only: bool = False) -> str:
    """Draw a bar of `width` characters.

    Examples
    --------
    >>> bar(0.5, 8, ascii_only=True), bar(0.5, 5)
    ('####    ', '██▌  ')
    """
    eighths = int(fraction * width * 8)
    drawn = "█" * (eighths // 8) + (" ▏▎▍▌▋▊▉"[eighths % 8] if eighths % 8 else "")
    return f"{'#' * (eighths // 8) if ascii_only else drawn:<{width}}"


class Pace:
    """How fast a batch that is being watched goes: tasks a second, over the last `PACE_SECONDS`."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def add(self, now: float, count: int) -> float | None:
        """Note how many have ended; give the pace, None while it is not known yet, 0 where nothing has moved for long.

        Examples
        --------
        >>> pace = Pace()
        >>> pace.add(0.0, 0), pace.add(2.0, 10), pace.add(4.0, 30)
        (None, 5.0, 7.5)
        """
        self._seen.append((now, count))
        while len(self._seen) > 2 and self._seen[1][0] < now - PACE_SECONDS:
            self._seen.popleft()
        then, before = self._seen[0]
        if count > before and now - then >= 1.0:
            return (count - before) / (now - then)
        return 0.0 if now - then >= PACE_SECONDS else None
