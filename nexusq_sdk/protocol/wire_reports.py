"""What travels over HTTP about many batches: their names, their list, the queues. See `wire` for the rules."""

from __future__ import annotations

from nexusq_sdk.protocol.wire import Answer, BatchView, Strict
from nexusq_sdk.protocol.words import Priority


class NameBatch(Strict):
    """``PUT /names/{name}``: the batch that is to have the name, and what tells its inputs from others'.

    `new`: whether to take the name away from the batch that has it.
    """

    batch_id: str
    digest: str
    new: bool = False


class NamedBatch(Answer, omit_defaults=False):
    """``GET /names/{name}``: which batch has the name. Its name goes when it is forgotten itself."""

    name: str
    batch_id: str
    digest: str


class Batches(Answer, omit_defaults=False):
    """``GET /batches``: a page, newest first."""

    batches: list[BatchView]
    next_cursor: str | None = None


class LaneView(Answer, omit_defaults=False):
    """One priority of one queue.

    `lag` is the number of its Kafka records whose tasks have not ended, `in_progress` of which run now; `due` is the
    number of tasks that wait for their time. `rate_per_second` is how fast records were done with lately; null: that
    was not seen yet.
    """

    queue: str
    priority: Priority
    lag: int
    due: int
    in_progress: int
    rate_per_second: float | None
    workers: int


class Queues(Answer, omit_defaults=False):
    """``GET /queues``: by queue and priority, as they stood about two seconds ago.

    A record is done with once its task's outcome is on Redis's disk.
    """

    queues: list[LaneView]


class Backlog(Answer, omit_defaults=False):
    """``GET /queues/{queue}/backlog``: the work that a queue's workers have before them, to scale them by.

    `backlog` = `ready` + `due_soon` + `in_progress`. What runs counts, so that a queue of long tasks that have all been
    started is not taken for an empty one; so does what comes due while a new worker would start.
    """

    queue: str
    backlog: int
    ready: int
    due_soon: int
    in_progress: int
    workers: int
