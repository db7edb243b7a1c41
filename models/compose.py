"""Tails composed of shared rows: the quotient-remainder trick for ids without a row of their own.

Shi et al. 2019 (arXiv 1909.02107, section 4): two complementary partitions of the ids with m classes each tell m * m
ids apart with 2 m rows, and an id's vector is the sum of the rows of its classes. The paper's partitions are quotient
and remainder of an index; hashed ids have none, so here they are two independent hashes. As bags are sums anyway, an
id without a row is replaced in its bag by the two fids of its shared rows, which are rows like any other.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from monobeam.models.config import Config, SlotConfig
from monobeam.models.rows import Rows
from monobeam.models.tails import TABLE, shared_fids
from monobeam.native import hash_ints
from monobeam.store.bags import Bags, Keys, Mask

_SEEDS = 0x72656D61696E, 0x71756F7469656E  # of remainder and quotient; fixed: shared rows are stored


class Composition(nn.Module):
    """Ids without a row of their own are the sum of two of the slot's ``2 * tail_rows`` shared rows."""

    def __init__(self, config: Config, slot: SlotConfig) -> None:
        super().__init__()
        self._rows = slot.tail_rows

    def forward(self, bags: Bags, known: Mask, rows: Rows) -> Tensor:
        """What the ids without a row add to each bag."""
        return rows.pooled(TABLE, self.expanded(bags.at(np.flatnonzero(~known))))

    def expanded(self, bags: Bags) -> Bags:
        """The bags with two shared fids in the place of each id."""
        pairs = [
            shared_fids(bags.keys, self._hashed(bags.keys, seed), partition) for partition, seed in enumerate(_SEEDS)
        ]
        return Bags(np.stack(pairs, 1).reshape(-1), len(_SEEDS) * bags.offsets)

    def _hashed(self, keys: Keys, seed: int) -> Keys:
        return hash_ints(np.ascontiguousarray(keys).view(np.int64), seed) % np.uint64(self._rows)
