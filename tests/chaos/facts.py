"""Everything that is known after a run, in one place: what was asked, what ran, what was killed, what the stores say.

Values only: the oracle judges them, and a test can make them up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.chaos.ledger import Run

#: Kinds of faults. What a fault puts at risk is in `oracle.at_risk`.
KILL_WORKER = "worker kill -9"
KILL_WORKER_AND_KEEPER = "worker and lease keeper kill -9"
STOP_WORKER = "worker SIGTERM"
FREEZE_WORKER = "worker SIGSTOP beyond its lease"
KILL_API = "API kill -9"
STOP_API = "API SIGTERM"
KILL_KAFKA = "Kafka kill -9"
KILL_REDIS = "Redis kill -9"
CRASH_REDIS = "Redis loses what is not on its disk"
CUT_REDIS = "Redis connections cut"

WORKER_FAULTS = frozenset({KILL_WORKER, KILL_WORKER_AND_KEEPER, STOP_WORKER, FREEZE_WORKER})
REDIS_DEATHS = frozenset({KILL_REDIS, CRASH_REDIS})


@dataclass
class Sent:
    """One task as the submitter sent it. `fails`: so many attempts fail before one succeeds, -1: all of them."""

    task: str
    kind: str
    task_type: str
    payload: dict[str, Any]
    max_attempts: int = 1
    delay: float = 0.0
    batch: str | None = None
    to_cancel: bool = False
    tried_at: float = 0.0  # when it was first posted
    accepted_at: float | None = None  # when a 202 came
    cancel_answer: str | None = None  # the status that the API answered to its cancel
    cancelled_at: float | None = None  # when that answer came

    @property
    def fails(self) -> int:
        """How many of its attempts fail."""
        return int(self.payload["fails"])


@dataclass
class SentBatch:
    """One batch: how many rows were accepted of how many, and whether its last chunk was."""

    batch: str
    size: int
    accepted: int = 0
    closed: bool = False
    cancelled: bool = False


@dataclass(frozen=True)
class Fault:
    """One thing that was done to a part. `since`: from when on Redis lost what was written."""

    at: float
    kind: str
    part: str
    since: float | None = None
    until: float | None = None  # when a frozen worker was woken


@dataclass(frozen=True)
class Memory:
    """How much one process held at some time of its life."""

    part: str
    age: float
    rss_mib: float


@dataclass(frozen=True)
class Seen:
    """How a task had ended when somebody looked for the first time after that."""

    at: float
    status: str
    attempt: int
    finished_us: int


@dataclass
class Facts:
    """All of it. States are Redis's hashes as text."""

    sent: dict[str, Sent] = field(default_factory=dict)
    batches: dict[str, SentBatch] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    states: dict[str, dict[str, str]] = field(default_factory=dict)
    batch_states: dict[str, dict[str, str]] = field(default_factory=dict)
    witnessed: dict[str, Seen] = field(default_factory=dict)
    due: set[str] = field(default_factory=set)
    dead: set[str] = field(default_factory=set)
    letters: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # on the topic, by task
    records: dict[str, int] = field(default_factory=dict)  # how many each task has on the topics
    lags: dict[str, tuple[int, int]] = field(default_factory=dict)  # committed and end, by topic and partition
    memory: list[Memory] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)  # answers that nobody should get
    ended_alone: list[str] = field(default_factory=list)  # processes that ended without being told to
    began: float = 0.0


@dataclass(frozen=True)
class Breach:
    """One broken promise: which, of which task or part, what is known of it."""

    rule: str
    what: str
    known: str = ""

    def __str__(self) -> str:
        return f"{self.rule}: {self.what}" + (f"\n    {self.known}" if self.known else "")
