"""The join as one would explain it: all records at once, no state, no time."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa

from monobeam.join.sampling import kept
from tests.end_to_end.traffic import WINDOW, Traffic

JOINED, NEGATIVE, CORRECTION = 0, 1, 2


def join(traffic: Traffic, negative_rate: float = 0.7, seed: int = 0) -> tuple[set[tuple[Any, ...]], dict[str, int]]:
    """The examples, as ``_example`` says, and what became of every record."""
    shown = [record for _, record in traffic.impressions if record and record["impression_id"]]
    done = [record for _, record in traffic.actions if record]
    by_id = {record["impression_id"]: record for record in shown}
    likes = {(like["impression_id"], like["time"]) for like in done}
    examples: set[tuple[Any, ...]] = set()
    count = Counter(
        impressions=len(traffic.impressions),
        impressions_duplicated=len(shown) - len(by_id),
        impressions_rejected=len(traffic.impressions) - len(shown),
        actions=len(traffic.actions),
        actions_duplicated=len(done) - len(likes),
        actions_rejected=len(traffic.actions) - len(done),
    )
    for name, time in likes:
        delay = time - by_id[name]["time"] if name in by_id else None
        if delay is None:
            count["unmatched"] += 1
        elif delay <= WINDOW:
            count["joined"] += 1
        else:
            count["corrections"] += 1
            examples.add(_example(by_id[name] | {"time": time}, CORRECTION, 1.0))
    liked = {name for name, time in likes if name in by_id and time - by_id[name]["time"] <= WINDOW}
    for name, record in by_id.items():
        if name in liked:
            examples.add(_example(record, JOINED, 1.0))
        elif kept(pa.array([name]), negative_rate, seed)[0]:
            examples.add(_example(record, NEGATIVE, 0.0))
            count["negatives"] += 1
        else:
            count["sampled_out"] += 1
    count["examples"] = sum(1 for example in examples if example[1] != CORRECTION)
    return examples, dict(count)


def _example(record: dict[str, Any], kind: int, label: float) -> tuple[Any, ...]:
    """(impression id, kind, label, two features, time); the time of a correction is its action's."""
    return record["impression_id"], kind, label, record["user"], record["item"], record["time"]


def as_set(rows: dict[int, dict[str, Any]]) -> set[tuple[Any, ...]]:
    """Examples out of the log, in the reference's form."""
    return {(r["_id"], r["_kind"], r["_label.like"], r["user"], r["item"], r["_time"]) for r in rows.values()}
