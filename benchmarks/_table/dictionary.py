"""A Python dict from key to row number, and numpy's gather: the floor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks._table.contestant import Settings, Work, built, sample, serve
from benchmarks._table.workload import keys_of


class Dictionary:
    def __init__(self, settings: Settings) -> None:
        self.keys, self._dim = settings.keys, settings.dim
        self.works = {"lookup": Work(keys_of, self._lookup)}

    def build(self) -> dict[str, float]:
        """The dict alone; the rows are there, and all floats of a row are its position."""
        self._rows = np.repeat(np.arange(self.keys, dtype=np.float32)[:, None], self._dim, axis=1)
        self._numbers: dict[int, int] = {}
        spent = built(self.keys, self._insert)
        positions = sample(self.keys)
        found = self._lookup(len(positions))(keys_of(positions))
        assert np.array_equal(found[:, 0], positions.astype(np.float32)), "the dict does not find what was inserted"
        return spent

    def _insert(self, keys: Any) -> None:
        for key in keys.tolist():
            self._numbers.setdefault(key, len(self._numbers))

    def _lookup(self, batch: int) -> Callable[[Any], Any]:
        number, rows, out = self._numbers.__getitem__, self._rows, np.zeros((batch, self._dim), np.float32)

        def call(keys: Any) -> Any:
            numbers = np.fromiter(map(number, keys.tolist()), np.intp, len(keys))
            return np.take(rows, numbers, axis=0, out=out, mode="clip")

        return call


if __name__ == "__main__":
    serve(Dictionary)
