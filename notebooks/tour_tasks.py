"""The handlers of the tour. A worker imports this module: ``nexusq worker --tasks tour_tasks``."""

from __future__ import annotations

from nexusq_sdk import task


@task("DISCOUNT")
def discount(spent: float, orders: int) -> int:
    """Give a customer's discount in percent."""
    average = spent / orders
    return 10 if average > 40 else 5
