"""The proof that a sandbox works: a batch of mails, submitted from this machine, run by its workers."""

from __future__ import annotations

from typing import NamedTuple

import httpx
import pandas as pd

import nexusq_sdk
from sandbox.shell import SandboxError, say

TASKS = 300


class Urls(NamedTuple):
    """Where the pages answer on this machine."""

    api: str
    jupyter: str
    mail: str
    token: str = "nexusq"  # noqa: S105 - the sandbox's, which everybody knows

    def shown(self) -> str:
        """Give them as a person reads them."""
        return (
            f"  API       {self.api}/docs\n"
            f"  Jupyter   {self.jupyter}/lab/tree/tour.ipynb?token={self.token}\n"
            f"  Mails     {self.mail}"
        )


def answers(url: str) -> bool:
    """Whether a page answers."""
    try:
        return httpx.get(url, timeout=5, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def mails(count: int, subject: str = "Hello from NexusQ!") -> pd.DataFrame:
    """Give so many mails, the subject of each with its row's number."""
    rows = pd.DataFrame({"to": [f"user{number}@example.com" for number in range(count)]})
    return rows.assign(
        subject=[f"{subject} {number}" for number in range(count)], body="This is an asynchronous email."
    )


def submit_first(url: str) -> None:
    """Submit a batch, wait for its end, say how it went."""
    with nexusq_sdk.Client(url) as client:
        batch = client.submit_batch("EMAIL_SEND", mails(TASKS)).wait(timeout=120)
        frame = batch.frame()
        done = int((frame["status"] == "COMPLETED").sum())
        if done != TASKS:
            raise SandboxError(f"expected {TASKS} mails to be sent, got {done}:\n{batch.failed().head().to_string()}")
        took = (frame["finished_at"].max() - frame["submitted_at"].min()).total_seconds()
        say(f"a first batch: {done} of {TASKS} mails sent in {took:.1f} s by {frame['worker'].nunique()} worker(s)")
