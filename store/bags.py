"""Bags of feature ids, and which shard an id belongs to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]
Offsets = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Bags:
    """M bags of ids: bag ``i`` is ``keys[offsets[i]:offsets[i + 1]]``.

    ``keys``: uint64[N]; ``offsets``: int64[M + 1], from 0 to N, never falling.
    """

    keys: Keys
    offsets: Offsets

    def __post_init__(self) -> None:
        if self.keys.dtype != np.uint64 or self.offsets.dtype != np.int64:
            raise TypeError(f"keys {self.keys.dtype}, offsets {self.offsets.dtype}: must be uint64 and int64")
        if not len(self.offsets) or self.offsets[0] != 0 or self.offsets[-1] != len(self.keys):
            raise ValueError(f"offsets {self.offsets[:1]}..{self.offsets[-1:]}: must go from 0 to {len(self.keys)}")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def at(self, places: npt.NDArray[np.intp]) -> Bags:
        """The same M bags with only the keys at ``places`` (rising indices into ``keys``), in their order."""
        before = np.zeros(len(self.keys) + 1, np.int64)  # how many of the places come before each key
        before[places + 1] = 1
        np.cumsum(before, out=before)
        return Bags(self.keys[places], before[self.offsets])

    def part(self, start: int, stop: int) -> Bags:
        """Bags ``start`` to ``stop``."""
        offsets = self.offsets[start : stop + 1]
        return Bags(self.keys[offsets[0] : offsets[-1]], offsets - offsets[0])


PREFIXES = 2**16


def prefix_of(keys: Keys) -> npt.NDArray[np.uint64]:
    """The prefix of every key, below PREFIXES: the upper 16 bits of ``mix``."""
    return mix(keys) >> np.uint64(48)


def shard_of(keys: Keys, shards: int) -> npt.NDArray[np.uint64]:
    """The shard of every key: each has a range of prefixes, so that another number of shards only cuts them anew."""
    return prefix_of(keys) * np.uint64(shards) >> np.uint64(16)


def mix(keys: Keys) -> Keys:
    """splitmix64's finalizer (Steele, Lea, Flood 2014), a bijection of uint64[N]."""
    mixed = keys ^ (keys >> np.uint64(30))
    mixed = mixed * np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def pool(rows: Floats, offsets: Offsets) -> Floats:
    """Sum of every bag of rows, float32[M, dim], one after the other in order; in the place of ``rows`` if it can.

    Not ``np.add.reduceat``: its pairwise sums round differently from the native table's sequential ones.
    """
    lengths = np.diff(offsets)
    if len(lengths) == len(rows) and (lengths == 1).all():
        return np.add(rows, np.float32(0), out=rows)  # as below: -0 becomes 0
    pooled = np.zeros((len(lengths), rows.shape[1]), np.float32)
    bags = np.flatnonzero(lengths)
    place = 0
    while len(bags):
        pooled[bags] += rows[offsets[bags] + place]
        place += 1
        bags = bags[lengths[bags] > place]
    return pooled
