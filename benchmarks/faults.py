"""Seeded faults against real processes, and after each of them the laws: trained exactly once, the store is the fold of
its log, replicas are the store, and there was always an answer. People's figures, violations, and JSON last.

    python -m benchmarks.faults [--faults 1000] [--seed 1] [--store both] [--replay SEED]
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import nullcontext, suppress
from statistics import median

from benchmarks._faults.campaign import Campaign, Report
from benchmarks._faults.nursery import Nursery
from benchmarks._faults.plan import plan
from examples import emulators
from examples.installed import MissingError, prism

STORES = {"lmdb": ("lmdb",), "bigtable": ("bigtable",), "both": ("lmdb", "bigtable")}
PER_ROUND = 20


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def show(report: Report, store: str) -> None:
    """Figures for people, then JSON."""
    say(f"  {'fault':24} {'times':>6}   all trained and served again within, seconds: median, longest")
    for kind, count in sorted(report.by_kind.items()):
        seconds = report.recovery_s.get(kind, [0.0])
        say(f"  {kind:24} {count:6}   {median(seconds):6.1f} {max(seconds):6.1f}")
    say(f"{report.faults} faults in {report.seconds / 60:.1f} minutes, {len(report.violations)} violations")
    say(f"{report.blocks} blocks, {report.examples} examples, {report.repeated} more of them were repetitions")
    starts = ", ".join(f"{name} {count}" for name, count in sorted(report.starts.items()))
    say(f"processes started: {starts}")
    say(f"{report.requests} requests, {report.request_errors} without an answer; {report.passed_over} times a server")
    say(f"did not answer and the next was asked; longest time without an answer {report.longest_gap_s * 1e3:.0f} ms")
    for violation in report.violations:
        say(f"VIOLATION {violation}; again: python -m benchmarks.faults --store={store} --replay={violation.seed}")
    result = {
        "faults": report.faults,
        "violations": len(report.violations),
        "by_kind": dict(sorted(report.by_kind.items())),
        "requests": report.requests,
        "request_errors": report.request_errors,
        "servers_passed_over": report.passed_over,
        "longest_gap_ms": round(report.longest_gap_s * 1e3, 1),
        "seconds": round(report.seconds, 1),
    }
    say(json.dumps(result))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=1000, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the first round (default: %(default)s)")
    parser.add_argument("--store", choices=STORES, default="both", help="(default: %(default)s)")
    parser.add_argument("--replay", type=int, metavar="SEED", help="only the round of that seed")
    options = parser.parse_args()
    if options.faults < 1:
        parser.error(f"--faults {options.faults}: must be at least 1")
    stores = STORES[options.store]
    try:
        runner, emulator = prism(), emulators.bigtable() if "bigtable" in stores else nullcontext("")
    except MissingError as missing:
        raise SystemExit(str(missing)) from None
    nursery = Nursery()
    with emulator as address:
        campaign = Campaign(nursery, address, runner, say)
        with suppress(KeyboardInterrupt):  # what was found until then is reported
            if options.replay is not None:
                campaign.round(plan(options.replay, stores, PER_ROUND))
            else:
                campaign.run(options.seed, stores, options.faults, PER_ROUND)
    report = campaign.report
    show(report, options.store)
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
