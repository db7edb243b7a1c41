"""Every runner with every pipeline on every kind of log, for real, and the page that says what came of it.

Each cell is a command as a user types it, on small generated logs; what it left behind is held against the reference
join. Outcomes are kept in runs/portability, so that an interrupted matrix goes on, and docs/portability.md is written
from them.

    python -m benchmarks.portability [WORD ...]     only cells with these words in their names, e.g. Prism Kafka
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path

from benchmarks._portability.cells import FAILED, WORKS, Cell, Outcome, cells
from benchmarks._portability.page import page
from benchmarks._portability.places import Places
from benchmarks._portability.trial import tried
from examples.installed import MissingError

ROOT = Path(__file__).parents[1]
FOLDER, PAGE = ROOT / "runs/portability", ROOT / "docs/portability.md"


def kept() -> dict[Cell, Outcome]:
    """Outcomes of cells that were tried before."""
    try:
        found = json.loads((FOLDER / "outcomes.json").read_text())
    except FileNotFoundError:
        return {}
    return {cell: Outcome(*found[cell.name]) for cell in cells() if cell.name in found}


def keep(outcomes: dict[Cell, Outcome]) -> None:
    """Remember them."""
    found = {cell.name: [outcome.verdict, outcome.said] for cell, outcome in outcomes.items()}
    (FOLDER / "outcomes.json").write_text(json.dumps(found, indent=1))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.portability", description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", metavar="WORD", help="only cells that have it in their names")
    words = parser.parse_args().words
    wanted = cells(words)
    FOLDER.mkdir(parents=True, exist_ok=True)
    outcomes, work = kept(), FOLDER / "work"
    shutil.rmtree(work, ignore_errors=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with suppress(KeyboardInterrupt), ExitStack() as stack:  # what was found until then is kept
            places = Places(work, stack)
            for cell in wanted:
                if outcomes.get(cell) == Outcome(WORKS) and not words:
                    continue
                started = time.monotonic()
                outcomes[cell] = found = tried(cell, places)
                print(f"{cell.name:50} {found.verdict:8} {time.monotonic() - started:6.1f} s  {found.said}", flush=True)
                keep(outcomes)
    except MissingError as missing:
        raise SystemExit(str(missing)) from None
    PAGE.write_text(page(outcomes))
    verdicts = Counter(outcome.verdict for outcome in outcomes.values())
    print(json.dumps({"cells": len(cells()), "tried": len(outcomes), **verdicts}))
    return 1 if verdicts[FAILED] else 0


if __name__ == "__main__":
    sys.exit(main())
