"""The handler of the cleaning notebook. A worker imports this module: ``nexusq worker --tasks cleaning_tasks``."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd

from nexusq_sdk import task

COLUMNS = ["time", "sensor", "celsius"]


@task("CLEAN_CSV", max_attempts=5, backoff=(1, 2), retry_on=OSError)
def clean(folder: str, file: str) -> dict[str, int]:
    """Clean a day's readings. Run twice, it writes the same again."""
    text = Path(folder, file).read_text(encoding="utf-8")
    if not text.endswith("# end\n"):
        raise OSError(f"{file} is not whole: its last line is not '# end'")
    readings = pd.read_csv(io.StringIO(text), comment="#")
    if list(readings.columns) != COLUMNS:
        raise ValueError(f"expected the columns {','.join(COLUMNS)}, got {','.join(readings.columns)}")
    readings["celsius"] = pd.to_numeric(readings["celsius"], errors="coerce")
    kept = readings[readings["celsius"].between(-40, 50)].drop_duplicates()
    kept.to_csv(Path(folder, "clean", file), index=False)
    return {"read": len(readings), "kept": len(kept)}
