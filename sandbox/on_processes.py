"""The sandbox as plain processes: the embedded cluster, which needs neither Docker nor root. It ends with Ctrl-C."""

from __future__ import annotations

import threading

import nexusq_sdk
from sandbox.first_batch import submit_first
from sandbox.shell import SandboxError, say


def up(workers: int | None) -> None:
    """Bring it up, prove it by a first batch, stay until Ctrl-C."""
    try:
        with nexusq_sdk.local(workers=workers or 2, port=8000, tasks=("notebooks.tour_tasks",)) as cluster:
            submit_first(cluster.url)
            say(
                f"ready:\n  API       {cluster.url}/docs\n  Mails     {cluster.mail_file}\n  Logs      {cluster.logs}\n"
                f"  Notebook  NEXUSQ_URL={cluster.url} jupyter lab notebooks/tour.ipynb\nCtrl-C ends it, and its data."
            )
            threading.Event().wait()
    except nexusq_sdk.LocalClusterError as error:
        raise SandboxError(str(error)) from error
