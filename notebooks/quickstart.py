"""The main job, as a notebook would do it: a DataFrame of mails goes in, a DataFrame of outcomes comes out."""

from __future__ import annotations

import time

import pandas as pd

import nexusq_sdk

TASKS = 1000


def main() -> None:
    """Run it on an embedded cluster of its own."""
    began = time.monotonic()
    print("Starting Kafka, Redis, the API, two workers and a mail sink on this machine ...", flush=True)
    with nexusq_sdk.local(workers=2) as cluster:
        print(f"... ready in {time.monotonic() - began:.1f} s: {cluster.url}\n")
        client = nexusq_sdk.Client(cluster.url)

        people = pd.DataFrame({"to": [f"user{number}@example.com" for number in range(TASKS)]})
        people["subject"] = "Hello from NexusQ!"
        people["body"] = [f"Dear user {number}, this is an asynchronous email." for number in range(TASKS)]

        batch = client.submit_batch("EMAIL_SEND", people)
        batch.progress()
        batch.wait(timeout=120)

        outcomes = people[["to"]].join(batch.frame()[["status", "result", "worker", "wait", "duration"]])
        print(f"\nThe first of {len(outcomes)} outcomes, people.join(batch.frame()):\n")
        print(outcomes.head().to_string())
        print("\nHow it went, batch.report():\n")
        print(batch.report().to_string())
        print(f"\nThe mail sink took {cluster.mails()} mails over SMTP.")
        client.close()
    print(f"All stopped again. {time.monotonic() - began:.1f} s in all.\n")
    print(
        "What next?\n"
        "  nexusq up                            a cluster to play with; its API is described at /docs\n"
        "  nexusq up --tasks my_tasks           with your own functions, declared with @task\n"
        "  jupyter lab notebooks/tour.ipynb     the tour\n"
        "  README.md                            the rest"
    )


if __name__ == "__main__":
    main()
