"""docs/portability.md, from the outcomes of all cells."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks._portability.cells import LOGS, PIPELINES, REFUSED, RUNNERS, WORKS, Cell, Outcome, cells

_TOP = """# What runs where

`make portability` runs every cell and writes this page: the command as a user types it, on generated logs with
late, early, doubled and broken records. *Works* means that the examples were those of the reference join, that each was
trained exactly once, and that a streaming job ended well when it was told to. *Builds*: the graph was built and checked
as Dataflow gets it (`--dry_run=True --no_auth`); nothing was ever run there. A number is how the command refuses,
before anything is started; what it says stands [below](#refused).
*Not run*: no matrix has come to it yet.
"""


def page(outcomes: Mapping[Cell, Outcome]) -> str:
    """The page as Markdown; a cell without an outcome has not been run."""
    known = [outcomes[cell] for cell in cells() if cell in outcomes]
    refusals = list(dict.fromkeys(found.said for found in known if found.verdict == REFUSED))
    parts = [_TOP]
    for log in LOGS:
        parts.append(f"## {log}\n{_HEADS[log]}\n\n{_table(log, outcomes, refusals)}\n")
    listed = [f"{number}. `{said}`" for number, said in enumerate(refusals, 1)]
    return "\n".join([*parts, "## Refused", *listed, "", _NOTES])


def _table(log: str, outcomes: Mapping[Cell, Outcome], refusals: list[str]) -> str:
    columns = [Cell("", pipeline, streaming, log).column for pipeline, streaming in PIPELINES]
    lines = [f"| | {' | '.join(columns)} |", f"|---{'|---' * len(columns)}|"]
    for runner in RUNNERS:
        row = [Cell(runner, pipeline, streaming, log) for pipeline, streaming in PIPELINES]
        lines.append(f"| {runner} | {' | '.join(_shown(cell, outcomes.get(cell), refusals) for cell in row)} |")
    return "\n".join(lines)


def _shown(cell: Cell, found: Outcome | None, refusals: list[str]) -> str:
    if found is None:
        return "not run"
    if found.verdict == WORKS:
        return "builds" if cell.only_built else "works"
    if found.verdict == REFUSED:
        return f"[{refusals.index(found.said) + 1}](#refused)"
    return "**fails**"


_HEADS = {
    "file": "All logs are directories of Avro files; the store and the cold store are in LMDB.",
    "Kafka": "All logs are topics.",
    "Pub/Sub": "Raw logs, and for `train` the examples, are subscriptions; other logs are files, on Dataflow topics.",
}
_NOTES = """## What else differs

* **In process** is Beam's FnApiRunner, which `--runner=DirectRunner` or none gives here. It is for bounded work.
* **Prism** and **Flink, embedded** (`--flink_master=[local]`) keep nothing when they end. Begun again they read logs
  from the start, or from `--since`, and what is there already is not trained again. Subscriptions give no message
  twice that was acknowledged: there, what was in open windows is lost ([Pub/Sub](dataflow.md#pubsub)).
* **Flink cluster**: [flink.md](flink.md). It survives the end of any of its processes; so do messages of subscriptions.
* **Dataflow**: [dataflow.md](dataflow.md).
"""
