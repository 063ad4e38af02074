"""Measure NexusQ beside the bare loop and its peers, in rounds whose order rotates; print what came out, and write it.

What counts are ratios within one run: another machine, or the same one an hour later, is another speed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from benchmarks import machine, report
from benchmarks.peers.catalogue import PEERS
from benchmarks.results import Results
from benchmarks.rows import ROWS, Plan, run
from benchmarks.stage import Stage
from benchmarks.systems import OWN, System
from benchmarks.talk import ROOT


def main() -> int:
    """Run it; 1 if something could not be measured."""
    parser = _parser()
    arguments = parser.parse_args()
    rows = _chosen(parser, "--only", arguments.only or ("none" if arguments.soak else "all"), ROWS)
    if arguments.quick and not arguments.only:
        rows -= {"partitions", "scaling"}
    peers = _chosen(parser, "--peers", arguments.peers, tuple(PEERS))
    written = [path.absolute() for path in (arguments.json, arguments.chart, arguments.markdown) if path]
    for path in written:
        if not path.parent.is_dir():
            parser.error(f"expected a file in a folder that exists, got {path}")
    # Before a quarter of an hour is spent on it.
    if arguments.chart and arguments.chart.suffix not in {".svg", ".png"}:
        parser.error(f"expected --chart to end with .svg or .png, got {arguments.chart}")
    if arguments.markdown:
        try:
            report.fill(arguments.markdown.read_text(), "")
        except (OSError, report.NoRegion) as error:
            parser.error(f"--markdown {arguments.markdown}: {error}")
    if arguments.show:
        results = Results.from_json(json.loads(arguments.show.read_text()))
    else:
        os.chdir(ROOT)  # where the workers find their handlers
        plan = _plan(arguments, rows)
        results = Results(machine.describe(), {**vars(plan), "rows": sorted(rows)})
        systems: list[System] = [*OWN, *(PEERS[name] for name in PEERS if name in peers)]
        with Stage() as stage:
            results.machine["standing_by"] = round(stage.standing_by(), 3)
            run(stage, systems, plan, results)
        results.machine["load_after"] = round(os.getloadavg()[0], 2)
    print(report.text(results))
    report.write(results, arguments.json, arguments.chart, arguments.markdown)
    return 1 if results.failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nox -s bench --", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer tasks, rounds and rows: three minutes")
    parser.add_argument("--only", help=f"rows to measure: all, none, or some of {','.join(ROWS)}")
    parser.add_argument(
        "--peers", default="all", help=f"peers to compare with: all, none, or some of {','.join(PEERS)}"
    )
    parser.add_argument("--rounds", type=_positive, help="how many rounds; otherwise 3, or 1 with --quick")
    parser.add_argument(
        "--tasks", type=_positive, help="tasks that NexusQ and the bare loop drain; peers get a share of them"
    )
    parser.add_argument(
        "--million", type=_positive, help="tasks of the large batch; otherwise 1000000, or 30000 with --quick"
    )
    parser.add_argument(
        "--soak",
        type=float,
        default=0.0,
        metavar="MINUTES",
        help="half of the most, for so long; other rows if --only says",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was measured")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw drain and submit (.svg or .png)")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="put the tables between the file's marks")
    parser.add_argument("--show", type=Path, metavar="FILE", help="measure nothing: take a run that --json has written")
    return parser


def _chosen(parser: argparse.ArgumentParser, option: str, said: str, known: tuple[str, ...]) -> frozenset[str]:
    names = known if said == "all" else () if said == "none" else tuple(said.split(","))
    unknown = sorted(set(names) - set(known))
    if unknown:
        parser.error(f"expected {option} to be of {', '.join(known)}, got {', '.join(unknown)}")
    return frozenset(names)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return int(text)


def _plan(arguments: argparse.Namespace, rows: frozenset[str]) -> Plan:
    if arguments.quick:
        plan = Plan(rows, 1, 15_000, 20, 2.0, 1, 1.0, 30_000, arguments.soak)
    else:
        plan = Plan(rows, 3, 100_000, 100, 6.0, 5, 5.0, 1_000_000, arguments.soak)
    said = {name: getattr(arguments, name) for name in ("rounds", "tasks", "million") if getattr(arguments, name)}
    return Plan(**{**vars(plan), **said})


if __name__ == "__main__":
    sys.exit(main())
