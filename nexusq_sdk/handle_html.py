"""How tasks and batches are shown in a notebook: HTML of what is known. Pure; whatever users wrote is escaped.

Colours are JupyterLab's own where it says them, so that it is readable on light and dark.
"""

from __future__ import annotations

import html

from msgspec import Raw

from nexusq_sdk.errors import bounded
from nexusq_sdk.progress_text import describe, row, share, span, state
from nexusq_sdk.protocol.calls import is_call
from nexusq_sdk.protocol.wire import BatchView, ErrorKind, TaskError, TaskView
from nexusq_sdk.protocol.words import Status

COLOURS = {
    Status.COMPLETED: "#2e9e5b",
    Status.FAILED: "#d64545",
    Status.CANCELLED: "#9a9a9a",
    Status.IN_PROGRESS: "#3b82d6",
    Status.QUEUED: "#c9d3df",
    Status.SCHEDULED: "#e3c46f",
}
#: From left to right in the bar: what has ended first.
ORDER = (
    Status.COMPLETED,
    Status.FAILED,
    Status.CANCELLED,
    Status.IN_PROGRESS,
    Status.SCHEDULED,
    Status.QUEUED,
)
#: Kinds of errors that are listed.
SHOWN_ERRORS = 10
_FONT = "font-family:var(--jp-ui-font-family,system-ui,sans-serif);font-size:13px;line-height:1.5"
_MUTED = "opacity:.7"


def batch(
    view: BatchView,
    pace: float | None = None,
    examples: dict[str, TaskError] | None = None,
    note: str = "",
    *,
    errors_too: bool = True,
) -> str:
    """Show a batch: a bar, the counts, how fast, the errors by type. `examples`: an error of each type, to unfold."""
    name = f" “{text(view.name)}”" if view.name else ""
    title = f"<b>{_named(view.task_type)}</b>{name} <span style='{_MUTED}'>{state(view)}</span>"
    times = ""
    if view.p50_seconds is not None and view.p95_seconds is not None:
        times = f" · p50 {span(view.p50_seconds)}, p95 {span(view.p95_seconds)}"
    return (
        f"<div style='{_FONT};max-width:720px'>"
        f"<div>{title} · {text(describe(view, pace))}</div>"
        f"{segments(view)}"
        f"<div>{counts(view)}<span style='{_MUTED}'>{times}</span></div>"
        f"{said(view)}"
        f"{errors(view, examples) if errors_too else ''}"
        f"{f'<div>{text(note)}</div>' if note else ''}"
        f"<div style='{_MUTED};font-size:11px'>batch <code>{text(view.batch_id)}</code></div>"
        f"</div>"
    )


def segments(view: BatchView) -> str:
    """Draw the bar: a segment for each status."""
    total = max(view.size, 1)
    parts = "".join(
        f"<div title='{status.value.lower()}: {view.counts.get(status, 0):,}' "
        f"style='width:{100 * view.counts.get(status, 0) / total:.3f}%;background:{COLOURS[status]}"
        f"{';opacity:.4' if status is Status.IN_PROGRESS else ''}'></div>"  # it has not ended: not a full bar
        for status in ORDER
        if view.counts.get(status, 0)
    )
    return (
        f"<div role='progressbar' aria-valuenow='{100 * share(view):.0f}' aria-valuemin='0' aria-valuemax='100' "
        f"style='display:flex;height:10px;margin:4px 0;border-radius:5px;overflow:hidden;"
        f"background:rgba(128,128,128,.2)'>{parts}</div>"
    )


def counts(view: BatchView) -> str:
    """List the counts, each with its colour."""
    return " &nbsp; ".join(
        f"<span style='white-space:nowrap'><span style='color:{COLOURS[status]}'>●</span> "
        f"{view.counts.get(status, 0):,} {status.value.lower().replace('_', ' ')}</span>"
        for status in ORDER
        if view.counts.get(status, 0)
    )


def said(view: BatchView) -> str:
    """List what running tasks say of themselves: how far each is, and its last log lines."""
    if not view.said:
        return ""
    lines = 1 if len(view.said) > 2 else 3
    cell = "padding:0 8px 0 0;vertical-align:top;white-space:nowrap"
    rows = "".join(
        f"<tr><td style='{_MUTED};{cell};text-align:right'>row {text(row(task))}</td>"
        f"<td style='{cell};text-align:left'>{_share(task.progress)}</td>"
        f"<td style='padding:0;text-align:left'>{text(bounded(task.progress_text or '', 200))}"
        f"{_lines(task.log[-lines:])}</td></tr>"
        for task in view.said
    )
    return f"<table style='margin:2px 0;font-size:12px;border-collapse:collapse'>{rows}</table>"


def _share(done: float | None) -> str:
    if done is None:
        return ""
    colour = COLOURS[Status.IN_PROGRESS]
    return (
        f"<span style='display:inline-block;width:80px;height:6px;margin:0 6px 1px 0;border-radius:3px;"
        f"overflow:hidden;background:rgba(128,128,128,.2)'><span style='display:block;height:6px;"
        f"width:{100 * done:.1f}%;background:{colour}'></span></span>{done:.0%}"
    )


def _lines(log: list[str]) -> str:
    if not log:
        return ""
    shown = "<br>".join(text(bounded(line, 200)) for line in log)
    return f"<div style='{_MUTED};font-size:11px;font-family:monospace'>{shown}</div>"


def errors(view: BatchView, examples: dict[str, TaskError] | None = None) -> str:
    """List the errors by type with their counts; those with an example unfold to it."""
    if not view.errors:
        return ""
    listed = "".join(_error(kind, (examples or {}).get(kind.type)) for kind in view.errors[:SHOWN_ERRORS])
    return f"<div style='margin:4px 0'>{listed}{more_errors(view)}</div>"


def more_errors(view: BatchView) -> str:
    """Say how many types of errors are not listed."""
    more = len(view.errors) - SHOWN_ERRORS
    return f"<div style='{_FONT};{_MUTED}'>... and {more} more types</div>" if more > 0 else ""


def error_count(kind: ErrorKind) -> str:
    """Say how often there was an error of a type, apart from what unfolds: that would close when it is written anew."""
    return f"<div style='{_FONT}'>{_red(f'{kind.count:,} ×')}</div>"


def error_example(kind: ErrorKind, example: TaskError | None) -> str:
    """Show a type of errors without its count."""
    return f"<div style='{_FONT}'>{_unfolding(_red(kind.type), kind, example)}</div>"


def _error(kind: ErrorKind, example: TaskError | None) -> str:
    return _unfolding(_red(f"{kind.count:,} × {kind.type}"), kind, example)


def _red(title: str) -> str:
    return f"<b style='color:{COLOURS[Status.FAILED]}'>{text(title)}</b>"


def _unfolding(title: str, kind: ErrorKind, example: TaskError | None) -> str:
    if example is None:
        return f"<div>{title}</div>"
    said = example.traceback or f"{example.type}: {example.message}"
    return (
        f"<details><summary style='cursor:pointer'>{title} <span>{text(bounded(example.message, 200))}</span></summary>"
        f"<div style='{_MUTED};font-size:11px'>task <code>{text(kind.task_id)}</code></div>"
        f"<pre style='font-size:11px;max-height:300px;overflow:auto;margin:2px 0 6px'>"
        f"{text(bounded(said, 5000))}</pre></details>"
    )


def task(task_id: str, view: TaskView | None, label: object = None) -> str:
    """Show a task: its status, times, result or error."""
    if view is None:
        return f"<div style='{_FONT}'><b>Task</b> <code>{text(task_id)}</code></div>"
    rows = [("task", f"<code>{text(task_id)}</code>")]
    if label is not None:
        rows.append(("row", text(bounded(repr(label), 100))))
    if view.attempt > 1:
        rows.append(("attempt", str(view.attempt)))
    if view.worker:
        rows.append(("worker", text(view.worker)))
    if view.started_at and view.finished_at:
        rows.append(("ran for", span((view.finished_at - view.started_at).total_seconds())))
    if view.progress is not None and not view.status.terminal:
        said = f" {text(view.progress_text)}" if view.progress_text else ""
        rows.append(("progress", f"{view.progress:.0%}{said}"))
    for name, value in (("payload", view.payload), ("result", view.result)):
        if isinstance(value, Raw) and not is_call(view.task_type):
            rows.append((name, f"<code>{text(bounded(bytes(value).decode('utf-8', 'replace')))}</code>"))
    if view.error is not None and view.status is Status.FAILED:
        rows.append(("error", f"<b>{text(view.error.type)}</b>: {text(bounded(view.error.message))}"))
    if view.log:
        rows.append(("log", f"<pre style='margin:0'>{text(bounded(chr(10).join(view.log), 2000))}</pre>"))
    table = "".join(
        f"<tr><td style='{_MUTED};text-align:left;vertical-align:top'>{name}</td>"
        f"<td style='text-align:left'>{value}</td></tr>"
        for name, value in rows
    )
    said = f"<span style='color:{COLOURS[view.status]}'>●</span> {view.status.value.lower().replace('_', ' ')}"
    return (
        f"<div style='{_FONT}'><b>{_named(view.task_type)}</b> {said}"
        f"<table style='margin:2px 0;font-size:12px'>{table}</table></div>"
    )


def _named(task_type: str) -> str:
    """Give a task type as a title; of a function by value its name alone."""
    return text(task_type.partition(":")[2] if is_call(task_type) else task_type)


def text(value: object) -> str:
    """Escape what somebody wrote."""
    return html.escape(str(value))
