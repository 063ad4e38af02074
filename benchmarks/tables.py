"""A run's rows as tables: the same cells for a terminal and for a document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.goals import verdicts
from benchmarks.results import Results, Series

_TITLES = {
    "drain": "Draining no-op tasks, one worker process",
    "submit": "Submitting, until the queue has the tasks",
    "latency": "One task at a time, submitted and waited for: the median",
    "latency-p99": "One task at a time, submitted and waited for: the 99th percentile",
    "post": "POST over 64 connections, one task each",
    "frame": "Reading a finished batch as a DataFrame",
    "million": "A batch from start to frame, one worker process",
    "memory": "Memory with the large batch",
    "scaling": "10 ms tasks by several worker processes",
    "partitions": "Draining no-op tasks from topics of several sizes, one worker process",
    "cpu": "5 ms of CPU a task, a process for each core",
    "beside": "CPU that is used beside 5 ms of a child process's, by part",
    "budget": "CPU that a no-op task costs, by part",
    "soak": "A soak",
    "soak-p99": "A soak, the 99th percentile minute by minute",
    "soak-memory": "A soak, memory minute by minute",
    "soak-rate": "A soak, tasks submitted minute by minute",
}
#: Where least is best, or there is no best.
_UPWARD = {"latency", "latency-p99", "million"}
_AS_IT_CAME = {"memory", "beside", "budget", "scaling", "partitions", "soak", "soak-p99", "soak-memory", "soak-rate"}


@dataclass(frozen=True)
class Table:
    """A table: its title, its columns' names, its cells; numbers stand to the right."""

    title: str
    columns: Sequence[str]
    cells: Sequence[Sequence[str]]

    def text(self) -> str:
        """Give it for a terminal."""
        lines = [[cell.replace("**", "") for cell in line] for line in [self.columns, *self.cells]]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        shown = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
        return "\n".join([self.title, *(f"  {line}" for line in shown)])

    def markdown(self) -> str:
        """Give it for a document."""
        lines = [self.columns, ["---"] * len(self.columns), *self.cells]
        return "\n".join([f"**{self.title}**", ""] + [f"| {' | '.join(line)} |" for line in lines])


def goal_table(results: Results) -> Table | None:
    """Give the goals that this run says something of."""
    cells = [[one.work, one.goal, one.seen, "met" if one.met else "**not met**"] for one in verdicts(results)]
    return Table("Goals", ["work", "goal", "this run", ""], cells) if cells else None


def row_tables(results: Results) -> list[Table]:
    """Give a table for each row that was measured."""
    tables = []
    for row, title in _TITLES.items():
        by_name = results.rows.get(row)
        if not by_name:
            continue
        entries = list(by_name.items())
        if row not in _AS_IT_CAME:
            entries.sort(key=lambda entry: entry[1].median, reverse=row not in _UPWARD)
        if row.startswith("soak-"):
            cells = [
                [name, series.unit, " ".join(number(value) for value in series.values)] for name, series in entries
            ]
            tables.append(Table(title, ["", "unit", "by minute"], cells))
        else:
            tables.append(Table(title, ["", "median", "unit", "least to most"], [_cells(*entry) for entry in entries]))
    return tables


def number(value: float) -> str:
    """Give a number with as many digits as mean something."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _cells(name: str, series: Series) -> list[str]:
    low, high = series.spread
    return [name, number(series.median), series.unit, f"{number(low)} to {number(high)}"]
