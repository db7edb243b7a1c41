"""Two raw logs with every case that a join meets, made from a seed, and written as a user would write them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monobeam.logs.log import open_log

MICROS = {"type": "long", "logicalType": "timestamp-micros"}
IMPRESSIONS = {
    "type": "record",
    "name": "Shown",
    "fields": [
        {"name": "impression_id", "type": "string"},
        {"name": "time", "type": MICROS},
        {"name": "user", "type": "string"},
        {"name": "item", "type": "long"},
        {"name": "tags", "type": {"type": "array", "items": "string"}},
        {"name": "price", "type": ["null", "double"]},
    ],
}
ACTIONS = {
    "type": "record",
    "name": "Done",
    "fields": [
        {"name": "impression_id", "type": "string"},
        {"name": "time", "type": MICROS},
        {"name": "type", "type": "string"},
        {"name": "value", "type": ["null", "double"]},
    ],
}

SECOND = 1_000_000
START = 1_700_000_000 * SECOND
WINDOW, RETENTION, DISORDER, TICK = 2 * SECOND, 20 * SECOND, SECOND // 2, SECOND // 10

CONFIG = """
[logs]
disorder = "500ms"
idle_after = "500ms"
[store]
commit_every = "50ms"
dense_sync_every = "50ms"
[join]
window = "2s"
retention = "20s"
policy = "{policy}"
tick = "100ms"
shards = {shards}
negative_rate = 0.7
[[labels]]
name = "like"
action = "like"
[[slots]]
feature = "user"
[[slots]]
feature = "item"
[[slots]]
feature = "tags"
[[numerics]]
feature = "price"
transform = "log1p"
[model]
name = "shop"
label = "like"
dim = 4
hidden = [8]
"""
TAILED = (
    CONFIG.replace('feature = "user"', 'feature = "user"\ntail = "compose"\ntail_rows = 20\nadmit_count = 25')
    .replace('feature = "item"', 'feature = "item"\ntail = "narrow"\nadmit_count = 3\nadmit_probability = 0.1')
    .replace("dim = 4", "dim = 4\ntail_dim = 2")
)


@dataclass(frozen=True)
class Traffic:
    """Records as ``(time of logging, record)``, in the order in which they are logged; None is a torn datum."""

    impressions: list[tuple[int, dict[str, Any] | None]]
    actions: list[tuple[int, dict[str, Any] | None]]

    def between(self, start: int, stop: int) -> Traffic:
        """What is logged at start <= time < stop."""
        return Traffic(
            *([entry for entry in log if start <= entry[0] < stop] for log in (self.impressions, self.actions))
        )

    def span(self) -> int:
        """Time of the last logging."""
        return max(at for at, _ in self.impressions + self.actions)


def make(seed: int, count: int, per_second: int = 200) -> Traffic:
    """``count`` impressions with likes: late, early, doubled, orphaned, broken."""
    rng = random.Random(seed)
    impressions: list[tuple[int, dict[str, Any] | None]] = []
    actions: list[tuple[int, dict[str, Any] | None]] = []

    def log(records: list[tuple[int, dict[str, Any] | None]], record: dict[str, Any] | None, time: int) -> None:
        records.append((time + rng.randrange(DISORDER * 9 // 10), record))

    for number in range(count):
        time = START + number * SECOND // per_second + rng.randrange(1000)
        shown: dict[str, Any] = {
            "impression_id": f"i{seed}-{number}",
            "time": time,
            "user": f"u{rng.randrange(40)}",
            "item": rng.randrange(100),
            "tags": rng.sample(["a", "b", "c", "d"], rng.randrange(4)),
            "price": None if rng.random() < 0.1 else round(rng.uniform(1, 99), 2),
        }
        log(impressions, shown, time)
        if rng.random() < 0.03:
            log(impressions, dict(shown), time)
        chance = 0.2 + 0.5 * (shown["item"] % 3 == 0)
        if rng.random() < chance:
            delay = rng.randrange(WINDOW) if rng.random() < 0.9 else WINDOW + 1 + rng.randrange(RETENTION // 2)
            liked = {"impression_id": shown["impression_id"], "time": time + delay, "type": "like", "value": None}
            log(actions, liked, time + delay)
            if rng.random() < 0.05:
                log(actions, dict(liked), time + delay)
        if rng.random() < 0.01:
            orphan = {"impression_id": f"nobody{number}", "time": time, "type": "like", "value": 1.0}
            log(actions, orphan, time)
        if rng.random() < 0.005:
            log(impressions, dict(shown, impression_id=""), time)
        if rng.random() < 0.005:
            log(actions, None, time)
    return Traffic(sorted(impressions, key=_at), sorted(actions, key=_at))


def _at(record: tuple[int, Any]) -> int:
    return record[0]


def write(traffic: Traffic, folder: Path, *, partitions: int = 1, block: int = 50, seed: int = 0) -> None:
    """Write both logs under ``folder``, as ``write_to`` does."""
    write_to(traffic, lambda name: f"file:{folder / name}", partitions=partitions, block=block, seed=seed)


def write_to(
    traffic: Traffic, address: Callable[[str], str], *, partitions: int = 1, block: int = 50, seed: int = 0
) -> None:
    """Write both logs: each record to a partition by chance, in blocks of up to ``block`` records."""
    for name, schema, records in (
        ("impressions", IMPRESSIONS, traffic.impressions),
        ("actions", ACTIONS, traffic.actions),
    ):
        write_records(address(name), schema, [record for _, record in records], partitions, block, seed)


def write_records(
    uri: str, schema: dict[str, Any], records: Sequence[dict[str, Any] | None], partitions: int, block: int, seed: int
) -> None:
    """Append records, None as a datum that cannot be decoded."""
    rng = random.Random(seed)
    lanes: list[list[dict[str, Any] | None]] = [[] for _ in range(partitions)]
    for record in records:
        rng.choice(lanes).append(record)
    for partition, lane in enumerate(lanes):
        with open_log(uri).appender(partition, schema) as appender:
            run: list[dict[str, Any]] = []
            for record in lane:
                if run and (record is None or len(run) >= block):
                    appender.append(run)
                    run = []
                if record is None:
                    appender.append_payload(1, b"\xff\xff\xff")
                else:
                    run.append(record)
            if run:
                appender.append(run)
