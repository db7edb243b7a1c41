"""``python -m monobeam.store``: look at a store, copy it, bring it back, cut it anew."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence

from monobeam.logs import diagnostics
from monobeam.store.commands import COMMANDS, Figures
from monobeam.store.storage import Progress, open_storage

DESCRIPTION = """\
Acts on a parameter store as a whole. Figures go to standard output, the last line of which is one JSON object; progress
goes to standard error.
"""
EPILOG = """\
restore, compact and reshard need a store whose trainer has ended; servers go on answering, and follow. Each command can
be killed at any time and started again.

Status: 0 done; 1 check found faults; 2 it could not be done, and standard error says why.
"""
SHOWN_EVERY_S = 1.0
_PLACES = {"store": "store", "to": "to", "from": "source"}  # options and their attributes


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    options = parser().parse_args(arguments)
    started = time.monotonic()
    try:
        diagnostics.to_standard_error()
        figures = _run(options)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(f"{options.command}: interrupted; it can be started again\n")
        return 130
    for line in figures.lines:
        print(line)
    seconds = round(time.monotonic() - started, 3)
    print(json.dumps({"command": options.command, "store": options.store, **figures.values, "seconds": seconds}))
    return 1 if figures.values.get("faults") else 0


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    result = argparse.ArgumentParser(
        prog="python -m monobeam.store",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = result.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument(
            "--store", required=True, metavar="URI", help="lmdb:DIRECTORY or bigtable://PROJECT/INSTANCE/TABLE"
        )
        return command

    add("create", "make the place for a store, with all that it needs")
    add("show", "what the last commit made true")
    add("list", "the store and its snapshots: epoch, time, rows, bytes")
    add("keep", "copy the last commit, while training goes on").add_argument(
        "--to", metavar="URI", help="an empty place for the copy; by default it is a snapshot beside the store"
    )
    source = add("restore", "bring the store back to a snapshot").add_mutually_exclusive_group(required=True)
    source.add_argument("epoch", nargs="?", type=int, help="of a snapshot beside the store")
    source.add_argument("--from", dest="source", metavar="URI", help="a copy elsewhere")
    add("check", "look for damage and for rows that are misplaced or doubled")
    add("compact", "free what is superseded or left over")
    add("reshard", "cut the store into another number of shards").add_argument(
        "shards", type=int, help="how many shards it is to have"
    )
    add("drop", "remove a snapshot beside the store").add_argument("epoch", type=int)
    return result


def _run(options: argparse.Namespace) -> Figures:
    for name, place in _PLACES.items():
        uri = getattr(options, place, None) or ""
        if uri.startswith("memory:"):
            raise ValueError(f"--{name}={uri}: a store in memory is that of one process; there is nothing to see")
    store = open_storage(options.store)
    try:
        return COMMANDS[options.command](store, options, _shown(options.command))
    finally:
        store.close()


def _shown(command: str) -> Progress:
    """Progress as lines on standard error, one a second at most."""
    shown_s = time.monotonic()

    def show(done: float) -> None:
        nonlocal shown_s
        if time.monotonic() - shown_s >= SHOWN_EVERY_S:
            shown_s = time.monotonic()
            sys.stderr.write(f"{command}: {done:.0%}\n")
            sys.stderr.flush()

    return show


if __name__ == "__main__":
    sys.exit(main())
