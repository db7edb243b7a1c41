"""What must hold whenever everything has come to rest, whatever happened before."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks._faults.archive import USERS, Archive
from benchmarks._faults.deployment import SERVING
from benchmarks._faults.visitors import ask
from benchmarks._faults.world import World
from monobeam.logs.log import open_log
from monobeam.models.config import Config
from monobeam.models.tails import TABLE
from monobeam.models.trainer import Trainer
from monobeam.serving.columns import FeatureTypes
from monobeam.serving.follower import Follower
from monobeam.serving.freshness import Freshness
from monobeam.serving.predictor import Predictor
from monobeam.serving.replica import Replica
from monobeam.serving.request import parse
from monobeam.store.backend import Backend
from monobeam.store.bags import Keys
from monobeam.store.changes import updates_of
from monobeam.store.manifest import Manifest
from monobeam.store.memory import MemoryBackend
from monobeam.store.parameters import ALL
from monobeam.store.room import TableRoom
from monobeam.store.shard import Shard, lookup
from monobeam.store.spec import SLOT_SHIFT
from monobeam.store.store import Store

ITEMS_ASKED = 200


@dataclass(frozen=True)
class Rows:
    """A table: uint64[N] in order, and uint8[N, row_bytes]; ``twice``: ids that came more than once."""

    keys: Keys
    rows: npt.NDArray[np.uint8]
    twice: int = 0

    @property
    def update_counts(self) -> dict[int, int]:
        """How often each row was updated."""
        return dict(zip(self.keys.tolist(), updates_of(self.rows).tolist(), strict=True))


def rows_of(config: Config, backend: Backend, manifest: Manifest) -> dict[str, Rows]:
    """All rows that have not expired by the trainer's clock, whether or not its sweep has come to them."""
    shard = Shard(config.store_spec(), TableRoom(0, ""))
    stored = dict.fromkeys(shard.tables, 0)
    for number in range(len(manifest.epochs)):
        for block in backend.load(number).blocks:
            stored[block.table] += len(block.keys)
            shard.restore(block)
    loaded = {name: len(table) for name, table in shard.tables.items()}
    shard.expire(int(manifest.meta["clock_s"]), ALL)
    found = {}
    for name, table in shard.tables.items():
        keys = np.sort(np.asarray(table.keys()))
        rows = np.asarray(table.export_rows(keys)).reshape(len(keys), table.row_bytes)
        found[name] = Rows(keys, rows, stored[name] - loaded[name])
    return found


class Reference:
    """The fold of the archive in this process, which nothing ever happens to."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._backend = MemoryBackend()
        self._trainer = Trainer(config, Store(config.store_spec(), self._backend))
        self._now_us = 0

    def follow(self, archive: Archive) -> None:
        """Train on what has come, and commit."""
        for partition, blocks in enumerate(archive.blocks):
            for offset in range(self._trainer.positions.get(partition, 0), len(blocks)):
                self._trainer.train(blocks[offset], partition, offset)
        self._now_us += 1_000_000
        self._trainer.commit(self._now_us, final=True)

    def differs(self, world: World, manifest: Manifest, rows: Mapping[str, Rows]) -> Iterator[str]:
        """In what the store is not this fold; with several partitions only what does not depend on their order."""
        own = self._backend.manifest()
        assert own is not None
        for name in ("trained", "clock_s", "rate", "reach", "base_rate"):
            if name != "base_rate" or world.plan.in_order:
                yield from _differs(f"the manifest's {name}", manifest.meta[name], own.meta[name])
        for name, expected in rows_of(self._config, self._backend, own).items():
            found = rows[name]
            if len(odd := np.setxor1d(found.keys, expected.keys)):
                yield f"table {name!r}: {len(odd)} ids are in one alone, such as {int(odd[0]):#x}"
            elif world.plan.in_order and (wrong := np.flatnonzero((found.rows != expected.rows).any(axis=1))).size:
                yield f"table {name!r}: {len(wrong)} rows differ, such as that of {int(found.keys[wrong[0]]):#x}"
        if world.plan.in_order and world.backend.dense() != self._backend.dense():
            yield "the dense weights or their optimizer's state differ"


def exactly_once(world: World, manifest: Manifest, rows: Mapping[str, Rows]) -> Iterator[str]:
    """Whether each example was trained once, by counts that know nothing of training."""
    archive = world.archive
    yield from _differs("examples trained", manifest.meta["trained"], len(archive.keys))
    seen = [key for block in world.backend.seen() for key in block.keys.tolist()]
    yield from _differs("example keys remembered", len(seen), len(archive.keys))
    yield from _differs("example keys that are not in the log", len(set(seen) - archive.keys), 0)
    for name, table in rows.items():
        if table.twice:
            yield f"table {name!r}: {table.twice} ids are stored twice"
    counts = rows[TABLE].update_counts
    ruled = {slot.slot for slot in world.config.slots if slot.expire_us or slot.admit_count}
    for key, count in archive.ids.items():
        if key >> SLOT_SHIFT not in ruled and counts.get(key, 0) != count:
            yield f"id {key:#x}: {counts.get(key, 0)} updates, and it is {count} times in the examples"
            return
    extra = [key for key in counts if key not in archive.ids and not key >> 63]
    if extra:
        yield f"id {extra[0]:#x} and {len(extra) - 1} more have rows, and are in no example"


class Watcher:
    """A replica in this process that follows the same sync log as the servers do, and can be looked into."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._replica = Replica(world.config)
        relayed = open_log(world.relayed)
        self._follower = Follower(
            self._replica, world.open_backend, relayed, Freshness(), lambda: time.time_ns() // 1000
        )
        self._follower.start()

    @property
    def epoch(self) -> int:
        """Of the shard that is furthest behind."""
        return self._replica.epoch

    def close(self) -> None:
        """Stop following."""
        self._follower.stop()

    def differs(self, manifest: Manifest) -> Iterator[str]:
        """In what this replica is not one that was just loaded from the store."""
        expected = Replica(self._world.config)
        expected.load(self._world.backend)
        yield from _differs("its epochs", tuple(shard.epoch for shard in self._replica.shards), manifest.epochs)
        yield from _differs("its dense version", self._replica.dense.version, expected.dense.version)
        for name, table in expected.tables.items():
            here, there = (np.sort(np.asarray(each.keys())) for each in (self._replica.tables[name], table))
            if len(odd := np.setxor1d(here, there)):
                yield f"table {name!r}: {len(odd)} ids are in one alone, such as {int(odd[0]):#x}"
            elif not np.array_equal(lookup(self._replica.tables[name], here), lookup(table, there)):
                yield f"table {name!r}: rows differ"


def answers(world: World) -> Iterator[str]:
    """Whether every server scores every user with every item as the store's own rows do, to the last bit."""
    replica = Replica(world.config)
    replica.load(world.backend)
    predictor, types = Predictor(world.config, replica.tables), FeatureTypes(world.config)
    items = world.archive.items[-ITEMS_ASKED:]
    for user in range(USERS):
        body = world.body(user, items)
        expected = predictor.score(parse(body, types, len(items)), replica.dense)
        best = [(int(place), float(expected.probabilities[place])) for place in expected.order]
        for name in SERVING:
            status, answer = ask(world.ports[name], "POST", "/rank", body, timeout_s=10.0)
            given: Any = json.loads(answer)
            if status != 200:
                yield f"{name}, user {user}: status {status}: {answer[:200]!r}"
                return
            found = [(result["index"], result["score"]) for result in given["results"]]
            if found != best:
                odd = sum(one != other for one, other in zip(found, best, strict=False))
                yield f"{name}, user {user}: {odd} of {len(best)} scores are not those of the store"
                return


def _now_us() -> int:
    return time.time_ns() // 1000


def _differs(what: str, found: Any, expected: Any) -> Iterator[str]:
    if found != expected:
        yield f"{what}: {found!r}, and should be {expected!r}"
