"""The table: 1,000 customers, of whom one never ordered, and one's first call fails."""

import tempfile
from pathlib import Path

import pandas as pd


def table() -> pd.DataFrame:
    """Give the customers; those to look at are 13 and 42."""
    customers = pd.DataFrame({"spent": [float(n) for n in range(1000)], "orders": 4, "once": ""})
    customers.loc[13, "orders"] = 0
    customers.loc[42, "once"] = str(Path(tempfile.mkdtemp(), "been-here"))
    return customers
