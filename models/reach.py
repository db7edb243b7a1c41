"""How far training has come in each partition of the examples log, in the order in which the join writes examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

ORDER = ("_decided", "_id", "_kind", "_key")


class Reach:
    """The place of the last example of each partition.

    A partition only goes back where a join that was started again writes it anew. So what lies at or before its last
    place has been trained on, even when its key has been forgotten. Another partition's progress says nothing: a
    backfill may read one to its end before it begins the next.
    """

    def __init__(self, saved: Mapping[str, Sequence[Any]]) -> None:
        self._last = {int(partition): tuple(place) for partition, place in saved.items()}

    def includes(self, block: pa.RecordBatch, partition: int) -> npt.NDArray[np.bool_]:
        """Which rows of a block (bool[n]) lie at or before the last place of the partition."""
        decided = np.asarray(block.column("_decided"))
        last = self._last.get(partition)
        if last is None:
            return np.zeros(len(decided), np.bool_)
        included: npt.NDArray[np.bool_] = decided < last[0]
        for row in np.flatnonzero(decided == last[0]).tolist():
            included[row] = _place(block, row) <= last
        return included

    def advance(self, block: pa.RecordBatch, partition: int) -> None:
        """The partition has come to the end of a block."""
        if block.num_rows:
            last = _place(block, block.num_rows - 1)
            self._last[partition] = max(last, self._last.get(partition, last))

    def save(self) -> dict[str, list[Any]]:
        """What ``Reach`` can be made from again; fit for JSON."""
        return {str(partition): list(place) for partition, place in self._last.items()}


def _place(block: pa.RecordBatch, row: int) -> tuple[Any, ...]:
    return tuple(block.column(name)[row].as_py() for name in ORDER)
