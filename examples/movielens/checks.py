"""What must hold when everything is decided, checked against the logs and the store themselves."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from monobeam.logs import block
from monobeam.logs.log import open_log, records
from monobeam.models.config import Config
from monobeam.models.features import FeatureEncoder
from monobeam.models.tails import counts_ids
from monobeam.store.backend import open_backend
from monobeam.store.changes import updates_of

Counters = Mapping[str, int]

IMPRESSIONS = ("examples", "sampled_out", "pending", "impressions_duplicated", "impressions_rejected")
ACTIONS = ("joined", "corrections", "actions_duplicated", "unmatched", "waiting", "actions_rejected")
CHUNK = 256  # blocks read at a time


@dataclass(frozen=True)
class Check:
    """One sentence, and the two numbers that must be equal for it to hold."""

    what: str
    found: int
    expected: int

    @property
    def holds(self) -> bool:
        """Whether they are equal."""
        return self.found == self.expected

    def __str__(self) -> str:
        if self.holds:
            return f"ok      {self.what}: {self.found:,}"
        return f"BROKEN  {self.what}: {self.found:,}, not {self.expected:,}"


def conservation(counters: Counters) -> list[Check]:
    """The two laws: what went in equals what became of it."""
    return [
        Check(f"{log} = {' + '.join(parts)}", sum(counters[part] for part in parts), counters[log])
        for log, parts in (("impressions", IMPRESSIONS), ("actions", ACTIONS))
    ]


def books(counters: Counters, expected: Counters) -> list[Check]:
    """The pipeline's counters against the replay's own books."""
    shown = Check("impressions shown once", counters["examples"] + counters["sampled_out"], expected["shown"])
    liked = Check("examples that are no negatives", counters["examples"] - counters["negatives"], expected["joined"])
    names = [
        *("impressions", "impressions_duplicated", "impressions_rejected", "actions", "joined", "corrections"),
        *("actions_duplicated", "unmatched", "actions_rejected"),
    ]
    return [shown, liked, *(Check(name, counters[name], expected[name]) for name in names)]


def decided(counters: Counters, expected: Counters) -> bool:
    """Whether everything that was sent has arrived and nothing is open any more."""
    arrived = all(counters.get(log, 0) >= expected[log] for log in ("impressions", "actions"))
    return arrived and counters["pending"] == counters["waiting"] == 0


def join_counters(metrics: str) -> dict[str, int]:
    """The join's counters, the latest of every shard added up, from the metrics log at this address."""
    latest: dict[str, dict[str, float]] = {}
    for record in _records(metrics):
        if record["component"] == "join":
            latest[record["key"]] = record["values"]
    names = {name for values in latest.values() for name in values}
    return {name: sum(int(values.get(name, 0)) for values in latest.values()) for name in names}


def in_log(config: Config, examples: str) -> tuple[int, int]:
    """How many distinct examples the log holds, and how many feature ids they have, repeats counted."""
    encoder, seen, ids = FeatureEncoder(config), set[int](), 0
    for record in _records(examples):
        batch = block.decode(record["block"])
        keys = batch.column("_key").to_pylist()
        fresh = batch.filter(pa.array([key not in seen for key in keys]))
        seen.update(keys)
        ids += len(encoder.encode(fresh).bags.keys)
    return len(seen), ids


def caught_up(examples: str, store: str, served_epoch: int) -> bool:
    """Whether the store has learnt the whole examples log, and the server follows the store."""
    log, backend = open_log(examples), open_backend(store)
    manifest = backend.manifest()
    backend.close()
    if manifest is None:
        return False
    learnt = all(manifest.positions.get(partition, 0) == log.end(partition) for partition in log.partitions())
    return learnt and served_epoch == min(manifest.epochs)


def updates_in_store(config: Config, store: str) -> int:
    """The sum of the update counts of the rows of the store that together count every id once."""
    backend = open_backend(store)
    counts = [
        updates_of(stored.rows[counts_ids(config, stored.table, stored.keys)]).sum()
        for shard in range(config.store.shards)
        for stored in backend.load(shard).blocks
    ]
    backend.close()
    return int(sum(counts))


def _records(uri: str) -> Iterator[dict[str, Any]]:
    log = open_log(uri)
    for partition in log.partitions():
        offset = 0
        while chunks := log.read(partition, offset, CHUNK):
            yield from records(chunks)
            offset = chunks[-1].end
