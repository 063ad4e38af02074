"""A worker without one of its rules, to show that the oracle would see it. The product has no switch for this.

``python -m tests.chaos.broken_worker RULE``, otherwise like ``nexusq worker``.
"""

from __future__ import annotations

import sys
from typing import Any

from nexusq_server.offsets import Offsets
from nexusq_server.settings import load_settings
from nexusq_server.store import Store
from nexusq_server.worker import run


def commit_early() -> None:
    """Commit whatever was received, ended or not."""

    def committable(self: Offsets[Any]) -> dict[Any, int]:
        with self._lock:
            return {name: book.next for name, book in self._partitions.items() if book.next is not None}

    Offsets.committable = committable  # type: ignore[method-assign]


def no_fence() -> None:
    """Write every outcome, whosever the task is now."""
    fence = "before ~= 'IN_PROGRESS' or state[2] ~= me or tonumber(state[3]) ~= number"
    _patch_settle(fence, "false")


def forget_retry() -> None:
    """Call a task SCHEDULED, and put it nowhere."""
    _patch_settle("call('ZADD', KEYS[1], outcomes[at + 8], id)", "")


def _patch_settle(rule: str, instead: str) -> None:
    made = Store.__init__

    def without(self: Store, client: Any, settings: Any) -> None:
        made(self, client, settings)
        script = self._scripts["settle"].script
        text = script if isinstance(script, str) else script.decode()
        if rule not in text:
            raise SystemExit(f"expected settle.lua to hold the rule that is to be broken: {rule}")
        self._scripts["settle"] = client.register_script(text.replace(rule, instead))

    Store.__init__ = without  # type: ignore[method-assign]


RULES = {"commit-early": commit_early, "no-fence": no_fence, "forget-retry": forget_retry}

if __name__ == "__main__":
    RULES[sys.argv[1]]()
    sys.exit(run(load_settings()))
