"""The job: what a customer's orders were worth on average."""

from pathlib import Path


def average(spent: float, orders: int, once: str = "") -> float:
    """Give the average; where `once` names a file that is not there yet, make it and fail."""
    if once and not Path(once).exists():
        Path(once).touch()
        raise ConnectionError("try again")
    return spent / orders
