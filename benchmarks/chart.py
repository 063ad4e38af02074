"""A run as a picture for the documents: draining, submitting, and one task at a time."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.results import Results
from benchmarks.systems import BARE, NEXUSQ
from benchmarks.tables import number

_PANELS = (
    ("drain", "tasks drained a second", False),
    ("submit", "tasks submitted a second", False),
    ("latency", "one task, submit to result: median, ms", True),
)
_OURS, _LIMIT, _PEER = "#1f6feb", "#9aa4af", "#d29922"


def draw(results: Results, path: Path) -> bool:
    """Draw it; False if the run has nothing of what it shows."""
    panels = [panel for panel in _PANELS if results.rows.get(panel[0])]
    if not panels:
        return False
    # The same run gives the same file; text stays text.
    matplotlib.rcParams.update({"svg.hashsalt": "nexusq", "svg.fonttype": "none", "font.size": 9})
    counts = [len(results.rows[row]) for row, _, _ in panels]
    figure = Figure(figsize=(8, 0.9 * len(panels) + 0.28 * sum(counts)), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=counts)
    for (row, title, upward), ax in zip(panels, axes[:, 0], strict=True):
        _panel(ax, results, row, title, upward)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=160)
    return True


def _panel(ax: Axes, results: Results, row: str, title: str, upward: bool) -> None:
    entries = sorted(results.rows[row].items(), key=lambda entry: entry[1].median, reverse=upward)
    medians = [series.median for _, series in entries]
    # From the median to the least and to the most of the rounds.
    errors = [
        [series.median - series.spread[0] for _, series in entries],
        [series.spread[1] - series.median for _, series in entries],
    ]
    colours = [_colour(name) for name, _ in entries]
    ax.barh([name for name, _ in entries], medians, xerr=errors, color=colours, ecolor="#57606a", capsize=2)
    for at, (_, series) in enumerate(entries):
        ax.annotate(number(series.median), (series.spread[1], at), (4, 0), textcoords="offset points", va="center")
    ax.set_title(title, loc="left")
    ax.margins(x=0.12)
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.spines[["top", "right"]].set_visible(False)


def _colour(name: str) -> str:
    if name == NEXUSQ:
        return _OURS
    return _LIMIT if name.startswith(BARE) else _PEER
