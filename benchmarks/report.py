"""A run as text: a table a row of the issue, medians and spread."""

from __future__ import annotations

from benchmarks.results import Results


def text(results: Results) -> str:
    """Give the tables."""
    lines = [f"{name}: {value}" for name, value in results.machine.items() if name != "packages"]
    lines.append(", ".join(f"{name} {version}" for name, version in results.machine["packages"].items()))
    for row, by_name in results.rows.items():
        lines += ["", row]
        for name, series in sorted(by_name.items(), key=lambda entry: -entry[1].median):
            low, high = series.spread
            lines.append(f"  {name:24} {series.median:>12,.1f} {series.unit:10} ({low:,.1f} to {high:,.1f})")
    return "\n".join(lines)
