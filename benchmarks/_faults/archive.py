"""The examples log of a round: written directly, growing, with what a join that restarts writes once more."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from benchmarks._examples import columns
from monobeam.logs import block, schemas
from monobeam.logs.log import open_log
from monobeam.models.config import Config
from monobeam.models.features import FeatureEncoder

START_US = 1_700_000_000_000_000
ROWS = 24
USERS, TAGS, ITEMS_AT_ONCE = 12, 8, 20
BLOCKS_PER_ITEM = 3  # after so many blocks an item leaves the catalogue and another comes
REPEATED_AT_MOST = 4


class Archive:
    """Appends blocks; remembers them, and what all of them say: distinct examples, and how often each id is in them."""

    def __init__(self, uri: str, config: Config, seed: int) -> None:
        log = open_log(uri, partitions=config.join.shards)
        self.blocks: list[list[pa.RecordBatch]] = [[] for _ in range(config.join.shards)]
        self.keys: set[int] = set()
        self.ids: Counter[int] = Counter()
        self.repeated = 0
        self._appenders = [log.appender(number, schemas.EXAMPLES) for number in range(config.join.shards)]
        self._encoder = FeatureEncoder(config)
        self._random = random.Random(seed)
        self._numbers = np.random.default_rng(seed)
        self._made = 0

    @property
    def ends(self) -> dict[int, int]:
        """The offset after the last block of every partition that has some."""
        return {number: len(blocks) for number, blocks in enumerate(self.blocks) if blocks}

    @property
    def items(self) -> list[str]:
        """Every item that there was, the newest last."""
        return [f"i{number}" for number in range(self._made // BLOCKS_PER_ITEM + ITEMS_AT_ONCE)]

    def grow(self) -> None:
        """Append a block; now and then some again, or one that repeats a part of the last."""
        partition = self._made % len(self.blocks)
        chance, before = self._random.random(), self.blocks[partition]
        if before and chance < 0.05:
            for again in before[-self._random.randint(1, REPEATED_AT_MOST) :]:
                self._append(partition, again)
            return
        made = self._make()
        if before and chance < 0.1:
            overlap = before[-1].slice(before[-1].num_rows // 2)
            made = pa.Table.from_batches([overlap, made]).combine_chunks().to_batches()[0]
        self._append(partition, made)

    def close(self) -> None:
        """Let others append."""
        for appender in self._appenders:
            appender.close()

    def _make(self) -> pa.RecordBatch:
        """A second of event time: any users, items that are in the catalogue now."""
        first, self._made = self._made * ROWS, self._made + 1
        draw = self._numbers
        times = START_US + self._made * 1_000_000 + np.sort(draw.integers(0, 1_000_000, ROWS))
        items = (self._made - 1) // BLOCKS_PER_ITEM + draw.integers(0, ITEMS_AT_ONCE, ROWS)
        tags = [[f"t{tag}" for tag in draw.integers(0, TAGS, draw.integers(0, 4))] for _ in range(ROWS)]
        labels = draw.random(ROWS) < 0.4
        made = columns(np.arange(first, first + ROWS) + 1, times, labels, wait_us=1_000_000)
        made |= {
            "user": pa.array([f"u{user}" for user in draw.integers(0, USERS, ROWS)]),
            "item": pa.array([f"i{item}" for item in items]),
            "tags": pa.array(tags, pa.list_(pa.string())),
            "price": pa.array(draw.normal(size=ROWS)),
        }
        return pa.record_batch(made)

    def _append(self, partition: int, made: pa.RecordBatch) -> None:
        offset = len(self.blocks[partition])
        record = {"shard": partition, "tick": offset, "count": made.num_rows, "block": block.encode(made)}
        self._appenders[partition].append([record])
        self.blocks[partition].append(made)
        self._note(made)

    def _note(self, made: pa.RecordBatch) -> None:
        fresh = _first_times(made.column("_key").to_pylist(), self.keys)
        self.repeated += len(fresh) - sum(fresh)
        self.ids.update(self._encoder.encode(made.filter(pa.array(fresh))).bags.keys.tolist())


def _first_times(keys: Sequence[int], known: set[int]) -> list[bool]:
    """Which keys are new; they are known then."""
    fresh = []
    for key in keys:
        fresh.append(key not in known)
        known.add(key)
    return fresh
