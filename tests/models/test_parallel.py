"""Several trainers over one store, each with a partition: every example once, in whatever order their steps fall."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monobeam.models import dense_table
from monobeam.models.config import Config
from monobeam.models.features import FeatureEncoder
from monobeam.models.tails import TABLE
from monobeam.models.trainer import Trainer
from monobeam.store.memory import MemoryBackend
from monobeam.store.store import Store
from tests.models.streams import START_US
from tests.models.trainers import SETTINGS, stream

PARALLEL = replace(SETTINGS, training=replace(SETTINGS.training, parallel=True))
PARTITIONS, BLOCKS = 3, 6


def logs() -> list[list[pa.RecordBatch]]:
    """For each partition its blocks, of which the last repeats the first: a join was started again."""
    made = stream(PARTITIONS * BLOCKS, rows=8)
    parts = [made[partition::PARTITIONS] for partition in range(PARTITIONS)]
    return [[*blocks, blocks[0]] for blocks in parts]


LOGS = logs()


class World:
    """Trainers that come and go over one backend."""

    def __init__(self, config: Config = PARALLEL) -> None:
        self.config, self.backend, self.now_us = config, MemoryBackend(), START_US
        self.open()

    def open(self) -> None:
        self.store = Store(self.config.store_spec(), self.backend)
        self.trainers = [Trainer(self.config, self.store, partition) for partition in range(PARTITIONS)]

    def step(self, partition: int) -> None:
        trainer = self.trainers[partition]
        offset = trainer.positions.get(partition, 0)
        if offset < len(LOGS[partition]):
            trainer.train(LOGS[partition][offset], partition, offset)

    def commit(self, partition: int) -> None:
        self.now_us += 1_000_000
        self.trainers[partition].commit(self.now_us)

    def crash(self) -> None:
        self.store.close()
        self.open()

    def finish(self) -> None:
        for partition in range(PARTITIONS):
            for _ in LOGS[partition]:
                self.step(partition)
            self.commit(partition)
        self.crash()


def check(world: World) -> None:
    """Every row was updated as often as its id occurs, and everybody knows how far everybody is."""
    encoder, ids = FeatureEncoder(world.config), Counter[int]()
    for blocks in LOGS:
        for block in blocks[:-1]:
            ids.update(encoder.encode(block).bags.keys.tolist())
    keys = np.array(sorted(ids), np.uint64)
    assert world.store.update_counts(TABLE, keys).tolist() == [ids[key] for key in keys.tolist()]
    assert world.store.positions() == {partition: len(blocks) for partition, blocks in enumerate(LOGS)}
    blocks = sum(len(blocks) - 1 for blocks in LOGS)
    dense = np.arange(2, dtype=np.uint64)
    assert set(world.store.update_counts(dense_table.NAME, dense).tolist()) == {blocks}


actions = st.one_of(
    st.tuples(st.sampled_from(["step", "step", "step", "commit"]), st.integers(0, PARTITIONS - 1)),
    st.tuples(st.just("crash"), st.just(0)),
)


@settings(max_examples=25, deadline=None)
@given(history=st.lists(actions, max_size=30))
def test_every_block_once_in_any_interleaving(history: list[tuple[str, int]]) -> None:
    world = World()
    for action, partition in history:
        if action == "crash":
            world.crash()
        else:
            getattr(world, action)(partition)
    world.finish()
    check(world)


def test_one_alone_learns_the_same_bits_whatever_commits_and_crashes_there_are() -> None:
    straight, broken = World(), World()
    for _ in LOGS[0]:
        straight.step(0)
        for lost in (True, False):
            broken.step(0)
            if lost:
                broken.crash()
        broken.commit(0)
    straight.commit(0)
    keys = np.unique(np.concatenate([FeatureEncoder(PARALLEL).encode(block).bags.keys for block in LOGS[0]]))
    for name, of in ((TABLE, keys), (dense_table.NAME, np.arange(2, dtype=np.uint64))):
        rows = [world.store.host.shards[0].tables[name].export_rows(of) for world in (straight, broken)]
        np.testing.assert_array_equal(*rows)


def test_examples_trained_and_base_rate_are_those_of_all() -> None:
    world = World()
    for partition in range(PARTITIONS):
        world.step(partition)
        world.commit(partition)
    last = world.trainers[-1]
    meta = world.store.meta()["partitions"]
    assert [other.trained for other in last._others] == [8, 8]
    assert {name: kept["trained"] for name, kept in meta.items()} == {"0": 8, "1": 8, "2": 8}
    world.crash()
    positives = sum(float(np.asarray(log[0].column("_weight"))[np.asarray(log[0].column("_label.like")) > 0.5].sum())
                    for log in LOGS)  # fmt: skip
    counted = sum(kept["base_rate"][0] - 1 for kept in meta.values())
    assert counted == pytest.approx(positives)


def test_a_partition_is_named_where_it_must_be_and_only_there() -> None:
    store = Store(PARALLEL.store_spec(), MemoryBackend())
    with pytest.raises(ValueError, match=r"partition None: to be given where training\.parallel"):
        Trainer(PARALLEL, store)
    with pytest.raises(ValueError, match=r"partition 0: to be given where training\.parallel"):
        Trainer(SETTINGS, Store(SETTINGS.store_spec(), MemoryBackend()), 0)


def test_dense_weights_are_published_at_one_interval_for_all() -> None:
    world = World()
    versions = []
    for partition in range(PARTITIONS):
        world.step(partition)
        world.commit(partition)
        versions.append(world.store.dense_version)
    assert versions == [1, 1, 1]
    world.now_us += PARALLEL.store.dense_sync_every_us
    world.commit(1)
    assert world.store.dense_version == 2
