"""From bags of ids to vectors, for training and serving alike: rows of ids themselves, and the tails of slots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from monobeam.models.compose import Composition
from monobeam.models.config import Config
from monobeam.models.narrow import NarrowRows
from monobeam.models.rows import Rows
from monobeam.models.tails import TABLE, counter
from monobeam.store.bags import Bags, Mask


class Tail(Protocol):
    """How ids of one slot are represented besides, or in the place of, rows of their own: a torch module.

    Its parameters are dense weights of the model. It may ask for rows of any table that ``models.tails.tables`` names,
    in any bags; they are trained by their gradients.
    """

    def __call__(self, bags: Bags, known: Mask, rows: Rows) -> Tensor:
        """What is added to the rows of the ids themselves: [B, 1 + k] for B bags.

        ``known``, bool[N]: which ids of the bags have a row of their own. A bag's vector has the same bits whatever
        other bags there are.
        """


TAILS: Mapping[str, type[nn.Module]] = {"compose": Composition, "narrow": NarrowRows}


class Embedding(nn.Module):
    """The pooled vectors of every slot's bags; ``tails`` holds a module for each slot with a tail, by its number."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self._slots = [slot.slot for slot in config.slots]
        self._waits = any(counter(slot) is not None for slot in config.slots)  # whether ids may be without a row
        self.tails = nn.ModuleDict(
            {str(slot.slot): TAILS[slot.tail](config, slot) for slot in config.slots if slot.tail in TAILS}
        )

    def forward(self, bags: Bags, rows: Rows, places: Sequence[int] | None = None) -> Tensor:
        """Vectors [S, B, 1 + k] of slot-major bags: of all slots, or of those at these places in the configuration."""
        slots = self._slots if places is None else [self._slots[place] for place in places]
        each = len(bags) // len(slots)
        if not self._waits:
            pooled = rows.pooled(TABLE, bags)
            return pooled.view(len(slots), each, pooled.shape[1])
        known = rows.known(bags.keys)
        own = rows.pooled(TABLE, bags.at(np.flatnonzero(known)))
        vectors = list(own.view(len(slots), each, own.shape[1]))
        for i, slot in enumerate(slots):
            if str(slot) in self.tails:
                start, stop = i * each, (i + 1) * each
                tail: Tail = self.tails[str(slot)]
                part = known[bags.offsets[start] : bags.offsets[stop]]
                vectors[i] = vectors[i] + tail(bags.part(start, stop), part, rows)
        return torch.stack(vectors)
