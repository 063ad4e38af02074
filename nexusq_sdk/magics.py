"""``%load_ext nexusq_sdk``, then ``%nexusq``: how the cluster stands, in a line and three tables."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

from nexusq_sdk.client import Client, recent
from nexusq_sdk.errors import NexusQError

if TYPE_CHECKING:
    import pandas as pd

#: Batches that are listed, newest first.
BATCHES = 10


class ClusterState:
    """What ``%nexusq`` gives: a notebook shows it as tables, a terminal as text; its parts are DataFrames.

    Attributes
    ----------
    workers, queues, batches : DataFrame
    """

    def __init__(self, client: Client) -> None:
        self.url = client.url
        self.workers = client.workers()
        queues = client.queues()
        busy = queues[["lag", "due", "in_progress"]].any(axis=1)
        self.queues = queues[busy | (queues["priority"] == "normal")].reset_index(drop=True)
        self.batches = client.batches(limit=BATCHES)

    def _summary(self) -> str:
        places = int(self.workers["concurrency"].sum())
        return (
            f"{len(self.workers)} workers with {places} threads, "
            f"{int(self.queues['in_progress'].sum())} tasks running, "
            f"{int(self.queues['lag'].sum())} not done with"
        )

    def _parts(self) -> list[tuple[str, pd.DataFrame]]:
        batches = self.batches[["batch_id", "name", "task_type", "size", "completed", "failed", "submitted_at"]]
        workers = self.workers[["worker", "queues", "concurrency", "running", "settled"]]
        return [("Queues", self.queues), ("Workers", workers), ("Batches", batches)]

    def __repr__(self) -> str:
        parts = "\n\n".join(f"{title}\n{table.to_string(index=False)}" for title, table in self._parts())
        return f"NexusQ at {self.url}: {self._summary()}\n\n{parts}"

    def _repr_html_(self) -> str:
        parts = "".join(f"<p><b>{title}</b></p>{table.to_html(index=False)}" for title, table in self._parts())
        return f"<div><b>NexusQ</b> at {html.escape(self.url)}: {self._summary()}{parts}</div>"


def register(shell: Any) -> None:
    """Add the magic to an IPython shell."""
    shell.register_magic_function(nexusq, "line", "nexusq")


def nexusq(line: str) -> ClusterState | None:
    """Show how the cluster stands: ``%nexusq``, or ``%nexusq http://nexusq:8000``.

    Without a URL it is that of the client that was made last, else ``NEXUSQ_URL``.
    """
    try:
        if not line.strip():
            return ClusterState(recent())
        with Client(line.strip()) as client:
            return ClusterState(client)
    except (NexusQError, RuntimeError) as error:  # RuntimeError: the client was closed
        print(f"{type(error).__name__}: {error}")
        return None
