"""Narrow tails: mixed dimension by frequency, in residual form.

Ginart et al. 2019 (arXiv 1909.11810) give frequent ids wide rows and rare ones narrow rows that a learnt projection
lifts. Frequency is not known beforehand on a stream, so ids must be promoted, and here promotion adds instead of
replacing: every id has a narrow row from its first sighting, and keeps it; an id that is admitted has a wide row
besides, and its vector is ``lifted narrow + wide``. The wide row begins at its initial value, a pure function of fid
and seed as every row's is (starting it at the lifted narrow row would make it depend on when it was promoted), and with
a small ``init_scale`` the vector goes on nearly where it was.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from monobeam.models.config import Config, SlotConfig
from monobeam.models.rows import Rows
from monobeam.models.tails import NARROW
from monobeam.store.bags import Bags, Mask


class NarrowRows(nn.Module):
    """Every id has a row ``[linear weight | tail_dim factors]``; the slot's ``projection`` lifts the factors to dim."""

    def __init__(self, config: Config, slot: SlotConfig) -> None:
        super().__init__()
        narrow, wide = config.model.tail_dim, config.model.dim
        bound = math.sqrt(3 / narrow)  # variance 1 / narrow: lifted factors vary at first as those of a wide row do
        self.projection = nn.Parameter(torch.empty(narrow, wide).uniform_(-bound, bound))

    def forward(self, bags: Bags, known: Mask, rows: Rows) -> Tensor:
        """What the narrow rows add to each bag, whether or not an id has a wide one."""
        pooled = rows.pooled(NARROW, bags)
        weight, factors = torch.split(pooled, [1, pooled.shape[1] - 1], 1)
        # Not a matrix product, which may round differently for other numbers of bags; there are few columns.
        lifted = factors[:, 0:1] * self.projection[0]
        for i in range(1, factors.shape[1]):
            lifted = lifted + factors[:, i : i + 1] * self.projection[i]
        return torch.cat([weight, lifted], 1)
