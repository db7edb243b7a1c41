"""The ways to keep embeddings that ``benchmarks.collisions`` compares: add one to ``CONTESTANTS`` and it takes part."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Rows = Callable[[str, Sequence[str], int], Ints]

# Monolith's table 1: MD5 of its MovieLens ids leaves 149,970 of 162,541 users and 57,361 of 59,047 movies, which is
# what a million rows for each of the two would leave. The paper does not name the size of its hashed space.
PAPER_ROWS_PER_ID = {"user": 1e6 / 162_541, "item": 1e6 / 59_047}


def own_rows(slot: str, ids: Sequence[str], seed: int) -> Ints:
    """No two ids share a row."""
    return np.arange(len(ids))


def hashed_rows(rows_per_id: Mapping[str, float], slot: str, ids: Sequence[str], seed: int) -> Ints:
    """The row of every id (int64[n]) in a table of its slot, which has ``rows_per_id[slot]`` rows for each of them.

    The hash is MD5, as in the paper, of the id and the seed; each slot has a table of its own, also as in the paper.
    """
    rows = max(1, round(rows_per_id[slot] * len(ids)))
    digests = (hashlib.md5(f"{seed}/{slot}/{value}".encode(), usedforsecurity=False).digest() for value in ids)
    return np.array([int.from_bytes(digest[:8], "little") % rows for digest in digests], np.int64)


@dataclass(frozen=True)
class Contestant:
    """One way to keep embeddings.

    Attributes:
        name: in the tables, the plot and the JSON.
        rows: the row of each of a slot's distinct ids, from the slot's name, the ids and a seed.
        slot: lines for every ``[[slots]]`` of the configuration: where options of the embedding table itself go.
    """

    name: str
    rows: Rows = own_rows
    slot: str = ""

    def owners(self, slot: str, ids: Sequence[str], seed: int) -> Ints:
        """For every id (int64[n]) the place of the first id that has the same row.

        The table knows a row by its owner's id. So an id that shares its row with nobody starts from the same values as
        without collisions, and paired differences are due to collisions alone.
        """
        _, first, row = np.unique(self.rows(slot, ids, seed), return_index=True, return_inverse=True)
        return first[row].astype(np.int64)


def _hashed(name: str, rows_per_id: float) -> Contestant:
    return Contestant(name, partial(hashed_rows, {"user": rows_per_id, "item": rows_per_id}))


BASELINE = Contestant("collisionless")
CONTESTANTS: tuple[Contestant, ...] = (
    BASELINE,
    Contestant("admitted at 10", slot="admit_count = 10"),
    Contestant("hashed, paper's load", partial(hashed_rows, PAPER_ROWS_PER_ID)),
    _hashed("hashed, 1 row per id", 1),
    _hashed("hashed, 1/2", 1 / 2),
    _hashed("hashed, 1/4", 1 / 4),
    _hashed("hashed, 1/8", 1 / 8),
    _hashed("hashed, 1/16", 1 / 16),
)


def shared(owners: Ints) -> npt.NDArray[np.bool_]:
    """Which ids share their row with another one."""
    return np.bincount(owners, minlength=len(owners))[owners] > 1
