"""The command line: `python -m benchmarks run WORKLOAD`, `… report`, `… install-peer`, `… list`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from benchmarks import neighbours, report
from benchmarks.contest import Failure, Workload, run_case
from benchmarks.distillation import WORKLOAD as DISTILLATION
from benchmarks.preference import WORKLOAD as PREFERENCE
from benchmarks.reinforcement import WORKLOAD as REINFORCEMENT
from benchmarks.sampling import WORKLOAD as SAMPLING
from benchmarks.sft import WORKLOAD as SFT
from benchmarks.vocabulary import WORKLOAD as VOCABULARY

WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (SFT, VOCABULARY, PREFERENCE, REINFORCEMENT, DISTILLATION, SAMPLING)
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Ours, the floor and the peer in turn."
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("list", help="workloads, their cases, and what of them this machine can run")
    verbs.add_parser("install-peer", help="make the environment of TRL (downloads about 1 GB)")
    run = verbs.add_parser("run", help="measure a workload and keep its figures")
    run.add_argument("workload", choices=sorted(WORKLOADS))
    run.add_argument(
        "--case", action="append", default=[], metavar="LABEL", help="this case only; repeatable"
    )
    run.add_argument("--rounds", type=int, default=5)
    run.add_argument("--threads", type=int, default=1)
    run.add_argument("--without-peer", action="store_true")
    run.add_argument("--json", action="store_true", help="print the figures, keep nothing")
    told = verbs.add_parser("report", help="write tables and pictures of the kept figures into the guide")
    told.add_argument("workload", nargs="*", default=[], help="all without names")
    return parser


def _list() -> None:
    for workload in WORKLOADS.values():
        print(f"{workload.name}: {workload.title}, {workload.unit}")
        for case in workload.cases([]):
            print(f"  {case.label}: {', '.join(contestant.name for contestant in case.contestants)}")
    if neighbours.peer_python() is None:
        print("the peer (TRL) is not installed here: python -m benchmarks install-peer")


def _run(options: argparse.Namespace) -> None:
    workload = WORKLOADS[options.workload]
    known = [case.label for case in workload.cases([])]
    if unknown := [label for label in options.case if label not in known]:
        raise Failure(f"{workload.name} has no case {unknown[0]!r}; it has {', '.join(known)}")
    rows = []
    if neighbours.peer_python() is None:
        print("without the peer: its environment is not here (install-peer makes it)", file=sys.stderr)
    for case in workload.cases(options.case):
        chosen = case.without("TRL") if options.without_peer else case
        outcome = run_case(
            chosen,
            rounds=options.rounds,
            threads=options.threads,
            tell=lambda line: print(line, file=sys.stderr),
        )
        rows.append(report.summary(workload, outcome))
        if not options.json:
            report.save(workload, rows[-1:])
    print(json.dumps(rows, indent=2) if options.json else report.table(workload, rows))


def _report(names: Sequence[str]) -> None:
    """Tables and pictures of the workloads that were named, or of all that have figures."""
    if unknown := sorted(set(names) - set(WORKLOADS)):
        raise Failure(f"no workload is named {', '.join(unknown)}; there are {', '.join(WORKLOADS)}")
    for workload in (WORKLOADS[name] for name in names or WORKLOADS):
        rows = report.load(workload)
        if rows:
            report.put_table(workload, rows)
            report.put_picture(workload, rows)
        elif names:
            raise Failure(f"{workload.name} has no figures; python -m benchmarks run {workload.name}")


def main(arguments: Sequence[str]) -> int:
    """Run a verb; 1 and a sentence where it cannot."""
    options = _parser().parse_args(arguments)
    try:
        if options.verb == "list":
            _list()
        elif options.verb == "install-peer":
            print(neighbours.install_peer())
        elif options.verb == "run":
            _run(options)
        else:
            _report(options.workload)
    except Failure as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
