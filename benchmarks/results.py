"""What was measured, by row and by whom; a value for each round."""

from __future__ import annotations

import dataclasses
import statistics
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any


@dataclass
class Series:
    """One measured quantity of one system: a value a round. ``more`` keeps what goes along with each."""

    unit: str
    values: list[float] = field(default_factory=list)
    more: list[dict[str, Any]] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """The least and the most."""
        return min(self.values), max(self.values)


@dataclass
class Results:
    """All of a run."""

    machine: dict[str, Any]
    plan: dict[str, Any]
    rows: dict[str, dict[str, Series]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="minutes"))

    def add(self, row: str, name: str, value: float, unit: str, **more: Any) -> None:
        """Add a round's value."""
        series = self.rows.setdefault(row, {}).setdefault(name, Series(unit))
        series.values.append(value)
        series.more.append(more)

    def median(self, row: str, name: str) -> float | None:
        """Give a median; None where that was not measured."""
        series = self.rows.get(row, {}).get(name)
        return series.median if series is not None else None

    def to_json(self) -> dict[str, Any]:
        """Give it as JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, said: dict[str, Any]) -> Results:
        """Take up a run that was written."""
        rows = {row: {name: Series(**one) for name, one in names.items()} for row, names in said["rows"].items()}
        return cls(**{**said, "rows": rows})
