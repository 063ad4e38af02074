"""How often Python looks for garbage in cycles: less often than usual, in processes through which many tasks go."""

from __future__ import annotations

import gc

#: How many objects come to be, or collections of the next younger kind are made, before the collector looks. Thousands
#: of tasks are in hand at a time, none of them a cycle: with the usual 700 each is looked at many times, which is a
#: sixth of a worker's time; with 20,000, a tenth.
COLLECT_AT = (200_000, 100, 20)


def look_less_often() -> None:
    """Leave what is there now alone, and look at what is new less often. To be called once all is imported."""
    gc.freeze()
    gc.set_threshold(*COLLECT_AT)
