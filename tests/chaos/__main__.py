"""``python -m tests.chaos``: kill things for some minutes, let everything come to rest, judge."""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from tests.chaos import broken_worker, faults, oracle, report
from tests.chaos.cluster import ChaosCluster
from tests.chaos.collect import Collector, Witness
from tests.chaos.facts import Facts
from tests.chaos.ledger import read_runs
from tests.chaos.orders import orders
from tests.chaos.submitter import Submitter

#: How long everything may take to come to rest: the longest task, a lease, and what the faults have held up.
REST_SECONDS = 120.0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0, help="how long things are killed")
    parser.add_argument("--seed", type=int, help="of the faults and the orders; otherwise a new one, which is printed")
    parser.add_argument("--rate", type=float, default=40.0, help="tasks a second")
    parser.add_argument("--rest", type=float, default=REST_SECONDS, help="seconds until everything must have ended")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    parser.add_argument("--markdown", type=Path, help="file for the tables as a page of the documentation")
    parser.add_argument("--keep", action="store_true", help="keep the data and the logs even if nothing is broken")
    parser.add_argument("--only", help="kinds of faults, comma-separated; otherwise all of them")
    parser.add_argument("--break", dest="rule", choices=sorted(broken_worker.RULES), help="run workers without a rule")
    return parser.parse_args()


def run(arguments: argparse.Namespace, seed: int, folder: Path, console: Console) -> Facts:
    """Run it all, and give what is known then."""
    worker = [sys.executable, "-m", "nexusq_server", "worker"]
    if arguments.rule:
        worker = [sys.executable, "-m", "tests.chaos.broken_worker", arguments.rule]
    seconds = arguments.minutes * 60
    kinds = tuple(arguments.only.split(",")) if arguments.only else faults.DECK
    steps = faults.plan(seed, seconds, kinds)
    facts = Facts(began=time.time())
    with ChaosCluster(folder, worker) as cluster:
        collector = Collector(cluster.redis_url, cluster.kafka)
        submitter = Submitter(list(cluster.urls.values()), orders(seed), arguments.rate, folder)
        chaos = faults.Faults(cluster)
        witness = Witness(cluster.redis_url, lambda: list(submitter.sent))
        submitter.start()
        witness.start()
        chaos.carry_out(steps, seconds)
        console.print(f"The faults are over ({len(chaos.done)}); waiting for everything to come to rest")
        submitter.finish()
        still = collector.wait_for_rest(
            lambda: [name for name, task in submitter.sent.items() if task.accepted_at], arguments.rest
        )
        if still:
            console.print(f"After {arguments.rest:g} s not at rest: {len(still)}, such as {still[:3]}")
        witness.end()
        cluster.look()
        facts.ended_alone = cluster.ended_alone
        facts.sent, facts.batches, facts.refusals = submitter.sent, submitter.batches, submitter.refusals
        collector.collect(facts)
        facts.witnessed = witness.seen
        facts.faults, facts.memory = chaos.done, list(cluster.memory)
        facts.runs = read_runs(cluster.ledger)
    return facts


def main() -> int:
    """Give 0 if every promise was kept."""
    arguments = _arguments()
    console = Console(width=120 if not sys.stdout.isatty() else None)
    seed = random.randrange(10**6) if arguments.seed is None else arguments.seed
    folder = Path(tempfile.mkdtemp(prefix="nexusq-chaos-"))
    console.print(f"Seed {seed}, {arguments.minutes:g} minutes, in {folder}")
    facts = run(arguments, seed, folder, console)
    breaches = oracle.judge(facts)
    numbers = report.summary(facts, breaches, seed, arguments.minutes)
    report.show(numbers, breaches, console)
    if arguments.json:
        arguments.json.write_text(json.dumps(numbers, indent=2) + "\n")
    if arguments.markdown:
        arguments.markdown.write_text(report.markdown(numbers))
    if breaches or arguments.keep:
        console.print(f"Data and logs are in {folder}")
    else:
        shutil.rmtree(folder)
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
