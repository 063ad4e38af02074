"""Whether a task gets another attempt, and after how long. Pure: nothing here waits, writes or asks anyone.

Called by the settler's thread for attempts that failed.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from datetime import timedelta

from nexusq_sdk.protocol.wire import Options
from nexusq_sdk.protocol.words import Status
from nexusq_sdk.tasks import Declaration, Retry
from nexusq_server.work import Ended, full_name

#: A handler that raises `Retry` gets so many tries in all where nothing says how many a task may have.
ASKED_TRIES = 10
_RETRY = full_name(Retry)
#: Doubling ends here: no cap is longer, and a float holds it.
_DOUBLINGS = 60


@dataclass(frozen=True, slots=True)
class Policy:
    """How often a task is tried, and how long it waits in between.

    `retry_on` and `no_retry_on` are names of exception classes, bare or qualified by their module. `asked_tries` is
    how many tries a handler gets that raises `Retry`; None: `max_attempts`, or `ASKED_TRIES` where that is 1.
    """

    max_attempts: int = 1
    backoff_initial: timedelta = timedelta(seconds=1)
    backoff_cap: timedelta = timedelta(minutes=5)
    retry_on: tuple[str, ...] | None = None
    no_retry_on: tuple[str, ...] = ()
    asked_tries: int | None = None


def policy_for(declared: Declaration | None, options: Options | None, default: Policy) -> Policy:
    """Put together what a submit said, else the task type's handler, else the server."""
    policy = default
    if declared is not None:
        policy = replace(
            policy,
            retry_on=policy.retry_on if declared.retry_on is None else tuple(map(full_name, declared.retry_on)),
            no_retry_on=(*policy.no_retry_on, *map(full_name, declared.no_retry_on)),
        )
        if declared.max_attempts is not None:
            policy = replace(policy, max_attempts=declared.max_attempts, asked_tries=declared.max_attempts)
        if declared.backoff is not None:
            policy = replace(policy, backoff_initial=declared.backoff[0], backoff_cap=declared.backoff[1])
    if options is not None:
        if options.max_attempts is not None:
            policy = replace(policy, max_attempts=options.max_attempts, asked_tries=options.max_attempts)
        if options.backoff is not None:
            policy = replace(
                policy,
                backoff_initial=timedelta(seconds=options.backoff.initial_seconds),
                backoff_cap=timedelta(seconds=options.backoff.cap_seconds),
            )
    return policy


def decide(policy: Policy, tries: int, ended: Ended, rng: random.Random) -> timedelta | None:
    """Give the wait before the next attempt, or None if this was the last one. `tries` counts this one too.

    A raised `Retry` is asked for by name, so `retry_on` and `no_retry_on` do not apply to it.
    """
    if ended.status is not Status.FAILED or ended.hopeless:
        return None
    if _RETRY in ended.kinds:
        tries_allowed = policy.asked_tries
        if tries_allowed is None:
            tries_allowed = policy.max_attempts if policy.max_attempts > 1 else ASKED_TRIES
    elif not _tried_again(policy, ended.kinds):
        return None
    else:
        tries_allowed = policy.max_attempts
    if tries >= tries_allowed:
        return None
    if ended.retry_in is not None:
        return ended.retry_in
    return rng.uniform(0, 1) * longest_wait(policy, tries)


def longest_wait(policy: Policy, tries: int) -> timedelta:
    """Give what the random wait after so many tries is at most."""
    seconds = policy.backoff_initial.total_seconds() * 2.0 ** min(max(tries - 1, 0), _DOUBLINGS)
    return policy.backoff_cap if seconds >= policy.backoff_cap.total_seconds() else timedelta(seconds=seconds)


def _tried_again(policy: Policy, kinds: tuple[str, ...]) -> bool:
    if any(kind in policy.no_retry_on for kind in kinds):
        return False
    return policy.retry_on is None or any(kind in policy.retry_on for kind in kinds)
