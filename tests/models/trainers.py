"""Trainers over a store in memory, blocks for them, and what they have learnt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from monobeam.models.config import Config
from monobeam.models.features import FeatureEncoder
from monobeam.models.tails import TABLE
from monobeam.models.trainer import Trainer
from monobeam.store.bags import Bags
from monobeam.store.dense import decode
from monobeam.store.memory import MemoryBackend
from monobeam.store.store import Store
from tests.models.streams import START_US, block, config

SETTINGS = config(
    ["user", "item", "tags"],
    "dim = 4\nhidden = [8]\nseed = 3",
    "sparse = { learning_rate = 0.1 }\ndense = { learning_rate = 0.01 }",
    ["price"],
)


def stream(blocks: int, rows: int = 16, seed: int = 5) -> list[pa.RecordBatch]:
    """Blocks whose ids repeat within rows, within blocks and over blocks."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(blocks):
        tags = [[f"t{t}" for t in rng.integers(0, 5, rng.integers(0, 4))] for _ in range(rows)]
        columns = {
            "user": [f"u{u}" for u in rng.integers(0, 20, rows)],
            "item": rng.zipf(1.5, rows),
            "tags": pa.array(tags, pa.list_(pa.string())),
            "price": rng.normal(size=rows),
        }
        labels, weights = rng.random(rows) < 0.4, rng.choice([0.5, 1.0, 2.0], rows)
        made.append(block(labels, columns, 1 + number * rows, weights=weights))
    return made


def parameters(trainer: Trainer, blocks: Sequence[pa.RecordBatch]) -> dict[str, np.ndarray]:
    """All rows of the blocks' ids, and the dense weights with their optimizer state."""
    keys = np.unique(np.concatenate([FeatureEncoder(trainer.config).encode(b).bags.keys for b in blocks]))
    rows = trainer.store.lookup(TABLE, Bags(keys, np.arange(len(keys) + 1)))
    trainer.commit(START_US)
    state = trainer.store.dense()
    assert state is not None
    return {"keys": keys, "rows": rows} | dict(decode(state))


def rows_of(trainer: Trainer) -> dict[tuple[str, int], bytes]:
    """Every row of every table: embedding, optimizer state, times and counts."""
    return {
        (name, int(key)): row.tobytes()
        for shard in trainer.store.host.shards.values()
        for name, table in shard.tables.items()
        for key, row in zip(table.keys(), table.export_rows(table.keys()), strict=True)
    }


def assert_equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert np.array_equal(one[name], other[name]), name


def opened(backend: MemoryBackend | None = None, config: Config = SETTINGS) -> Trainer:
    return Trainer(config, Store(config.store_spec(), backend or MemoryBackend()))
