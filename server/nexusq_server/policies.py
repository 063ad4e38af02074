"""What applies to a task, its time limit and retries: a submit's word, else the handler's, else the server's.

Asked by the worker's loop (limits) and the settler (retries).
"""

from __future__ import annotations

import functools
import random
from datetime import timedelta

import msgspec

from nexusq_sdk.protocol.wire import Options
from nexusq_server.registry import Handler, find_handler
from nexusq_server.retries import Policy, decide, policy_for
from nexusq_server.settings import Settings
from nexusq_server.work import Claimed, Ended

_decode = msgspec.json.Decoder(Options).decode


class Policies:
    """The rules of one worker's handlers."""

    def __init__(self, settings: Settings, handlers: dict[str, Handler]) -> None:
        self._handlers = handlers
        self._default = Policy(settings.max_attempts, settings.backoff, settings.backoff_cap)
        self._random = random.Random()  # noqa: S311 - spreads retries, hides nothing
        self._policy = functools.lru_cache(1000)(self._make)

    def limit(self, claimed: Claimed, handler: Handler) -> timedelta | None:
        """Give how long the attempt may take; None: as long as it likes."""
        options = claimed.received.record.options
        seconds = options.timeout_seconds if options is not None else None
        return handler.timeout if seconds is None else timedelta(seconds=seconds)

    def next_wait(self, claimed: Claimed, ended: Ended) -> timedelta | None:
        """Give the wait before the next attempt, or None if this was the last one."""
        task = claimed.received.task
        policy = self._policy(task.task_type, task.options)
        return decide(policy, claimed.attempt - claimed.spent, ended, self._random)

    def _make(self, task_type: str, options: bytes) -> Policy:
        handler = find_handler(self._handlers, task_type)
        return policy_for(handler.policy if handler else None, _decode(options) if options else None, self._default)
