"""The keys and the queries that all contestants get. Needs numpy alone: it runs in the environments of the peers too.

The key at a position of the order of insertion is a mix of the position, so there are as many distinct keys as
positions. Popularity is shuffled against that order. Queries come in windows that are drawn once: a pass over one
window finds little of it in the caches, since the passes before it were over others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ZIPF = 1.05
DISTRIBUTIONS = ("uniform", "zipf")
WINDOWS = 8

Positions = npt.NDArray[np.uint32]
Keys = npt.NDArray[np.uint64]


def keys_of(positions: npt.NDArray[Any]) -> Keys:
    """The splitmix64 generator's outputs at these positions: a bijection of 64 bits."""
    z = (positions.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def write(folder: Path, keys: int, window: int, seed: int) -> None:
    """Draw WINDOWS windows of each distribution over so many keys, and leave them in a folder."""
    rng = np.random.default_rng(seed)
    shape = (WINDOWS, window)
    np.save(folder / "uniform.npy", rng.integers(0, keys, shape, np.uint32))
    by_popularity = rng.permutation(np.arange(keys, dtype=np.uint32))
    np.save(folder / "zipf.npy", by_popularity[_ranks(rng, keys, WINDOWS * window)].reshape(shape))


def _ranks(rng: np.random.Generator, count: int, draws: int) -> npt.NDArray[np.int64]:
    """Zipf's law cut off after ``count`` ranks, by rejection from the one without an end; ranks start at 0."""
    found = np.empty(0, np.int64)
    while len(found) < draws:
        drawn = rng.zipf(ZIPF, draws)
        found = np.concatenate([found, drawn[drawn <= count] - 1])
    return found[:draws]


class Workload:
    """The windows in a folder, for a contestant that holds the first ``keys`` keys."""

    def __init__(self, folder: Path, keys: int) -> None:
        self._keys = keys
        self._windows = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in DISTRIBUTIONS}

    def batches(self, distribution: str, window: int, batch: int) -> npt.NDArray[np.uint32]:
        """Positions [calls, batch]; what does not fill a batch is left out."""
        positions = np.array(self._windows[distribution][window % WINDOWS])
        calls = len(positions) // batch
        return (positions[: calls * batch] % np.uint32(self._keys)).reshape(calls, batch)
