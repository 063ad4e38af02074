"""A batch drawn: when which worker ran which task, how long tasks ran. Loads matplotlib: imported by the first plot."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

try:
    from matplotlib.figure import Figure
except ImportError:
    raise ImportError("expected matplotlib to be installed for batch.plot(): pip install matplotlib") from None

from nexusq_sdk.handle_html import COLOURS
from nexusq_sdk.progress_text import span
from nexusq_sdk.protocol.words import Status

if TYPE_CHECKING:
    import pandas as pd

#: Tasks that are drawn one by one; of more, that many spread evenly.
DRAWN = 20_000


class BatchFigure(Figure):
    """A figure that a notebook shows, whether pyplot has prepared it for that or not."""

    def _repr_png_(self) -> bytes:
        picture = io.BytesIO()
        self.savefig(picture, format="png")
        return picture.getvalue()


def batch_figure(frame: pd.DataFrame, title: str) -> Figure:
    """Draw a frame of tasks."""
    # Without pyplot: nothing of the user's figures is touched, and no window opens.
    figure = BatchFigure(figsize=(9, 4.5), layout="constrained")
    line, histogram = figure.subplots(1, 2, width_ratios=(2, 1))
    ran = frame[frame["started_at"].notna()]
    if ran.empty:
        line.text(0.5, 0.5, "nothing has started yet", ha="center", va="center", transform=line.transAxes)
    else:
        _timeline(line, ran.iloc[:: max(1, len(ran) // DRAWN)])
        _histogram(histogram, ran)
    figure.suptitle(title, fontsize="medium")
    return figure


def _timeline(axes: Any, ran: pd.DataFrame) -> None:
    begin = ran["started_at"].min()
    start = (ran["started_at"] - begin).dt.total_seconds()
    length = ran["duration"].dt.total_seconds().fillna(0.0)
    workers = [str(worker) for worker in ran["worker"].cat.remove_unused_categories().cat.categories]
    for row, worker in enumerate(workers):
        for status in Status:
            mine = (ran["worker"] == worker) & (ran["status"] == status.value)
            spans = list(zip(start[mine], length[mine].clip(lower=1e-4), strict=True))
            if spans:
                axes.broken_barh(spans, (row - 0.4, 0.8), color=COLOURS[status], alpha=0.6, label=status.value.lower())
    axes.set_yticks(range(len(workers)), workers, fontsize="small")
    axes.set_ylim(len(workers) - 0.5, -0.5)
    axes.set_xlabel("seconds since the first one began")
    seen = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    axes.legend(seen.values(), seen.keys(), fontsize="small", loc="upper center", bbox_to_anchor=(0.5, 1.1), ncols=3)


def _histogram(axes: Any, ran: pd.DataFrame) -> None:
    lasted = ran["duration"].dropna().dt.total_seconds()
    if lasted.empty:
        return
    axes.hist(lasted, bins=min(50, max(10, len(lasted) // 20)), color=COLOURS[Status.IN_PROGRESS], alpha=0.8)
    for name, share in (("p50", 0.5), ("p95", 0.95)):
        value = lasted.quantile(share)
        style = ":" if name == "p95" else "-"
        axes.axvline(value, color="black", linewidth=1, linestyle=style, label=f"{name} {span(value)}")
    axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, 1.1), ncols=2)
    axes.set_xlabel("how long they ran, s")
    axes.set_ylabel("tasks")
