"""Changed and deleted rows of a table, and how later ones win over earlier ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monobeam.store.bags import Floats, Keys

Rows = npt.NDArray[np.uint8]

NO_KEYS: Keys = np.empty(0, np.uint64)


@dataclass(frozen=True, eq=False)
class Change:
    """What happened to a table: rows with new contents, and ids that are gone.

    ``keys``: uint64[N]; ``rows``: uint8[N, row_bytes], as the native table exports them; ``deletes``: uint64[D].
    An id is in one of the two, at most once.
    """

    keys: Keys
    rows: Rows
    deletes: Keys

    def __post_init__(self) -> None:
        if self.rows.ndim != 2 or len(self.rows) != len(self.keys):
            raise ValueError(f"rows {self.rows.shape} for {len(self.keys)} keys: must be [{len(self.keys)}, row_bytes]")

    def __bool__(self) -> bool:
        return len(self.keys) > 0 or len(self.deletes) > 0

    @property
    def nbytes(self) -> int:
        """Bytes of ids and rows."""
        return self.keys.nbytes + self.rows.nbytes + self.deletes.nbytes


def merge(changes: Sequence[Change]) -> Change:
    """One change with the effect of all of them (at least one) in order, the last one winning; sorted by id."""
    ids = np.concatenate([part for change in changes for part in (change.keys, change.deletes)])
    _, from_the_end = np.unique(ids[::-1], return_index=True)
    last = np.zeros(len(ids), np.bool_)
    last[len(ids) - 1 - from_the_end] = True
    keys, rows, deletes, start = [], [], [], 0
    for change in changes:
        middle, end = start + len(change.keys), start + len(change.keys) + len(change.deletes)
        keys.append(change.keys[last[start:middle]])
        rows.append(change.rows[last[start:middle]])
        deletes.append(change.deletes[last[middle:end]])
        start = end
    merged = np.concatenate(keys)
    order = np.argsort(merged)
    return Change(merged[order], np.concatenate(rows)[order], np.sort(np.concatenate(deletes)))


def values_of(rows: Rows, dim: int) -> Floats:
    """The embeddings in exported rows: a float32[N, dim] view."""
    return rows[:, : 4 * dim].view(np.dtype("<f4"))


def updates_of(rows: Rows) -> npt.NDArray[np.int64]:
    """How often each of exported rows was updated, int64[N]: the last eight bytes of a row."""
    return rows[:, -8:].copy().view("<i8")[:, 0]
