"""What batches are judged by: what NexusQ says of them, and what their handlers left outside of it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import httpx
import pandas as pd

import nexusq_sdk
from sandbox.first_batch import mails
from sandbox.shell import SandboxError, say

LEDGER = "LEDGER"


class Verdict(NamedTuple):
    """How a batch of LEDGER tasks went."""

    size: int
    completed: int
    started_twice: int
    ended_twice: int
    never_ended: int
    second_attempts: int

    def __str__(self) -> str:
        return (
            f"{self.completed} of {self.size} COMPLETED; in the ledger {self.never_ended} never ended, "
            f"{self.started_twice} started more than once, {self.ended_twice} ended more than once; "
            f"attempts above 1: {self.second_attempts}"
        )


def judge(batch: nexusq_sdk.Batch, ledger: str) -> Verdict:
    """Hold what the batch's frame says against the ledger's lines."""
    frame = batch.frame()
    words = [line.split() for line in ledger.splitlines()]
    starts, ends = (Counter(int(row) for what, row, _ in words if what == kind) for kind in ("start", "end"))
    return Verdict(
        size=len(frame),
        completed=int((frame["status"] == "COMPLETED").sum()),
        started_twice=sum(count > 1 for count in starts.values()),
        ended_twice=sum(count > 1 for count in ends.values()),
        never_ended=len(frame) - len(ends),
        second_attempts=int((frame["attempt"] > 1).sum()),
    )


def require(verdict: Verdict, *, none_run_again: bool) -> None:
    """Say the verdict; raise where something was lost, or was run again although nothing was killed."""
    say(f"  {verdict}")
    if verdict.completed != verdict.size or verdict.never_ended:
        raise SandboxError(f"something was lost: {verdict}")
    if none_run_again and (verdict.started_twice or verdict.ended_twice or verdict.second_attempts):
        raise SandboxError(f"something was run again although nothing was killed: {verdict}")


def rows(run: str, count: int, seconds: float) -> pd.DataFrame:
    """Give the rows of a batch of LEDGER tasks."""
    return pd.DataFrame({"run": run, "row": range(count), "seconds": seconds})


def submit(client: nexusq_sdk.Client, run: str, count: int, seconds: float) -> nexusq_sdk.Batch:
    """Submit a batch of LEDGER tasks and wait until it is well under way."""
    began = time.monotonic()
    batch = client.submit_batch(LEDGER, rows(run, count, seconds))
    say(f"  {count} LEDGER tasks of {seconds:g} s submitted in {time.monotonic() - began:.1f} s")
    wait_for(lambda: batch.counts().get("COMPLETED", 0) + batch.counts().get("IN_PROGRESS", 0) > min(count, 500) / 4)
    return batch


def finish(batch: nexusq_sdk.Batch, seconds: float = 600) -> None:
    """Wait for a batch's end, and say how long it took from submit to end."""
    batch.wait(timeout=seconds)
    frame = batch.frame()
    took = (frame["finished_at"].max() - frame["submitted_at"].min()).total_seconds()
    shares = frame["worker"].astype("str").str.rsplit("-", n=2).str[0].value_counts()
    share = ", ".join(f"{name} {count}" for name, count in shares.items())
    say(f"  ended {took:.1f} s after its submit; by worker: {share}")


def wait_for(done: Callable[[], bool], seconds: float = 120) -> None:
    """Wait until something holds; what fails meanwhile (an API that restarts) is asked again."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if done():
                return
        except nexusq_sdk.NexusQError as error:
            if time.monotonic() > deadline:
                raise SandboxError(str(error)) from error
        if time.monotonic() > deadline:
            raise SandboxError(f"expected a batch to get under way within {seconds:g} s")
        time.sleep(0.1)


def mailing(client: nexusq_sdk.Client, sink: str, count: int) -> None:
    """Send a batch of mails and count them at the mail sink, by their subjects."""
    httpx.delete(f"{sink}/api/v1/messages", timeout=60, trust_env=False).raise_for_status()
    batch = client.submit_batch("EMAIL_SEND", mails(count, "Lab"))
    finish(batch)
    frame = batch.frame()
    subjects: Counter[str] = Counter()
    while page := _messages(sink, subjects.total()):
        subjects.update(page)
    done, again = int((frame["status"] == "COMPLETED").sum()), sum(number > 1 for number in subjects.values())
    say(f"  {done} of {count} COMPLETED; the mail sink has {len(subjects)} different ones, {again} of them twice")
    if done != count or len(subjects) != count or again:
        raise SandboxError(f"expected {count} mails, each once, got {len(subjects)}, {again} of them twice")


def _messages(sink: str, start: int) -> list[str]:
    answer = httpx.get(
        f"{sink}/api/v1/messages", params={"start": start, "limit": 1000}, timeout=60, trust_env=False
    ).raise_for_status()
    return [message["Subject"] for message in answer.json()["messages"]]


class Trickle:
    """Submits a single task again and again while the block runs, as any client would, and counts what was refused."""

    def __init__(self, url: str) -> None:
        self._client = nexusq_sdk.Client(url)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.tasks: list[nexusq_sdk.Task] = []
        self.refused: list[str] = []

    def __enter__(self) -> Trickle:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            try:
                self.tasks.append(self._client.submit("ECHO", len(self.tasks)))
            except nexusq_sdk.NexusQError as error:
                self.refused.append(str(error))

    def require(self) -> None:
        """Every one was accepted, and has completed."""
        for task in self.tasks:
            task.wait(timeout=120)
        say(f"  {len(self.tasks)} single tasks were submitted meanwhile, one by one: {len(self.refused)} refused")
        if self.refused:
            raise SandboxError(f"expected no submit to be refused, got {self.refused[0]}")
        self._client.close()
