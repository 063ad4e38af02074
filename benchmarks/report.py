"""A run as text, and as files: JSON, the chart, the marked region of a document."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from benchmarks import chart, sizing, tables
from benchmarks.results import Results

BEGIN = "<!-- written by `nox -s bench`, from here -->"
END = "<!-- to here -->"
#: A load above this for each core, before anything was started, is others' work.
BUSY = 0.75


class NoRegion(ValueError):
    """Raised for a document that has no place for the tables."""


def text(results: Results) -> str:
    """Give all of it for a terminal."""
    blocks = [_machine(results), *(table.text() for table in _tables(results))]
    if results.failures:
        blocks.append("\n".join(["Could not be measured:", *(f"  {name}" for name in results.failures)]))
    return "\n\n".join(blocks)


def markdown(results: Results, picture: str | None) -> str:
    """Give all of it for a document."""
    blocks = [_machine(results).replace("\n", "  \n")]
    if picture:
        blocks.append(f"![Draining, submitting and one task at a time, NexusQ beside its peers]({picture})")
    blocks += [table.markdown() for table in _tables(results)]
    return "\n\n".join(blocks)


def write(results: Results, json_file: Path | None, chart_file: Path | None, document: Path | None) -> None:
    """Write what was asked for."""
    if json_file is not None:
        json_file.write_text(json.dumps(results.to_json(), indent=1) + "\n")
    drawn = chart_file is not None and chart.draw(results, chart_file)
    if document is not None:
        picture = os.path.relpath(chart_file, document.parent) if chart_file is not None and drawn else None
        document.write_text(fill(document.read_text(), markdown(results, picture)))


def fill(page: str, region: str) -> str:
    """Put a run's tables between a page's marks.

    Raises
    ------
    NoRegion
        If the marks are not there, in their order.
    """
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise NoRegion(f"expected a document with the lines {BEGIN} and {END}, in that order, got one without them")
    return f"{head}{BEGIN}\n\n{region}\n\n{END}{tail}"


def _tables(results: Results) -> list[tables.Table]:
    found = [tables.goal_table(results), *tables.row_tables(results), sizing.sizing_table(results)]
    return [table for table in found if table is not None]


def _machine(results: Results) -> str:
    said: dict[str, Any] = results.machine
    plan = results.plan
    packages = ", ".join(f"{name} {version}" for name, version in said["packages"].items())
    busy = "" if said["load_before"] <= BUSY * said["cores"] else "\nThis machine was busy: the run says little."
    return (
        f"{results.at}, commit {said['commit']}: {said['cpu']}, {said['cores']} cores, {said['memory_gib']} GiB, "
        f"{said['system']}; load {said['load_before']} before, {said['load_after']} after; "
        f"NexusQ's cluster stands by with {said['standing_by']:.0%} of a core\n"
        f"Python {said['python']}, Kafka {said['kafka']} on Java {said['java']}, Redis {said['redis']}; {packages}\n"
        f"Rounds: {plan['rounds']}; NexusQ and the bare loop drain {plan['tasks']:,} tasks, peers a share of them{busy}"
    )
