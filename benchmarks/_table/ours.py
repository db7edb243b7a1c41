"""The native table, from Python."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._table.contestant import (
    Settings,
    Work,
    anonymous_bytes,
    built,
    gradients,
    sample,
    serve,
    spent_by_process,
)
from benchmarks._table.stops import beside
from benchmarks._table.workload import keys_of
from monobeam.native import Table

LEARNING_RATE, INIT_SCALE = 0.02, 0.05
STEP = 256  # keys of a train step beside a save


class Ours:
    """A table without policies, as the settings say: for serving (sgd, which has no state) or for training."""

    def __init__(self, settings: Settings) -> None:
        self.keys = settings.keys
        self._dim, self._optimizer = settings.dim, settings.optimizer
        self._table = self._empty()
        self._now = 1
        self.works = {"lookup": Work(keys_of, self._lookup)}
        if settings.optimizer != "sgd":
            self.works["train"] = Work(keys_of, self._train)
            self.works["update"] = Work(lambda positions: self._table.find(keys_of(positions)), self._update)

    def _empty(self) -> Table:
        return Table(self._dim, self._optimizer, {}, seed=1, init_scale=INIT_SCALE)

    def build(self) -> dict[str, float]:
        """From empty, as training does it: what a commit would clear is cleared every million keys."""
        spent = self._built(0)
        self.check()
        return spent

    def build_reserved(self) -> dict[str, float]:
        """The same in memory that reserve() has made ready beforehand, in ``reserving`` CPU seconds."""
        return self._built(self.keys)

    def _built(self, reserved: int) -> dict[str, float]:
        self._table = table = self._empty()
        before = _own_bytes()
        reserving = spent_by_process(lambda: table.reserve(reserved))["cpu"]
        spent = built(self.keys, lambda keys: table.find_or_insert(keys, 1), after_block=table.clear_touched)
        assert len(table) == self.keys, f"{len(table)} rows, not {self.keys}"
        memory = {"resident": _own_bytes() - before, "reported": table.memory_bytes}
        return {**spent, **memory, "reserving": reserving}

    def check(self) -> None:
        """Every key looked at has a row of its own."""
        rows, found = self._table.lookup(keys_of(sample(self.keys)))
        assert found.all(), "a key that was inserted is not found"
        assert len(np.unique(rows, axis=0)) == len(rows), "keys share a row"

    def row_bytes(self) -> int:
        """Embedding and optimizer state."""
        return (self._table.dim + self._table.state_floats) * 4

    def _lookup(self, batch: int) -> Callable[[Any], object]:
        table, rows = self._table, np.zeros((batch, self._dim), np.float32)
        return lambda keys: table.lookup(keys, out=rows)

    def _train(self, batch: int) -> Callable[[Any], object]:
        table, rows, given = self._table, np.zeros((batch, self._dim), np.float32), gradients(batch, self._dim)
        table.clear_touched()
        self._now += 1

        def step(keys: Any) -> None:
            handles = table.find_or_insert(keys, self._now)
            table.gather(handles, out=rows)
            table.apply(handles, given, LEARNING_RATE)

        return step

    def _update(self, batch: int) -> Callable[[Any], object]:
        table, given = self._table, gradients(batch, self._dim)
        table.clear_touched()
        return lambda handles: table.apply(handles, given, LEARNING_RATE)

    def save(self, path: str) -> dict[str, float]:
        """How long a save takes alone; and ``stops`` of train steps beside one."""
        table = self._table
        stops = {} if self._optimizer == "sgd" else beside(lambda: table.save(path), self._random_steps())
        return {**stops, **spent_by_process(lambda: table.save(path)), "bytes": Path(path).stat().st_size}

    def _random_steps(self) -> Callable[[], object]:
        step, rng = self._train(STEP), np.random.default_rng(3)
        return lambda: step(keys_of(rng.integers(0, self.keys, STEP, np.uint32)))

    def load(self, path: str) -> dict[str, float]:
        """In place of the table, whose memory is given back first; the loaded one must be equal."""
        positions = sample(self.keys)
        before = self._table.lookup(keys_of(positions))[0]
        self._table = self._empty()
        loaded = []
        spent = spent_by_process(lambda: loaded.append(Table.load(path)))
        (self._table,) = loaded
        after = self._table.lookup(keys_of(positions))[0]
        assert len(self._table) == self.keys, "the loaded table has another number of rows"
        assert np.array_equal(before, after), "the loaded table has other rows"
        return {**spent, "bytes": Path(path).stat().st_size}


def _own_bytes() -> int:
    """Memory of this process without what it has freed, such as the benchmark's own arrays of keys."""
    ctypes.CDLL(None).malloc_trim(0)
    return anonymous_bytes()


if __name__ == "__main__":
    serve(Ours)
