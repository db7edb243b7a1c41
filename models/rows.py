"""Where a model's rows come from: a store that is trained, or one that is only read. Serving has a replica."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from monobeam.models.admission import Admission
from monobeam.models.tails import TABLE
from monobeam.store.bags import Bags, Keys, Mask
from monobeam.store.parameters import ParameterStore, Pulled


class Rows(Protocol):
    """Rows of the tables of one model."""

    def known(self, keys: Keys) -> Mask:
        """Which ids, bool[N], have a row of their own. To be asked once for each sighting: training counts them."""

    def pooled(self, table: str, bags: Bags) -> Tensor:
        """Sum of the rows of every bag, float32 [M, dim]; ids without one count as zeros."""


class Lookups:
    """Rows as a store has them; makes and changes none."""

    def __init__(self, store: ParameterStore) -> None:
        self._store = store

    def known(self, keys: Keys) -> Mask:
        """Which ids have a row of their own."""
        return self._store.known(TABLE, keys)

    def pooled(self, table: str, bags: Bags) -> Tensor:
        """Sum of the rows of every bag."""
        return torch.from_numpy(self._store.lookup(table, bags))


class Pulls:
    """Rows for one training step: rows that are missing are made, and ``push`` teaches all that were pulled.

    Hold the store's lock from the first to the last of it.
    """

    def __init__(self, store: ParameterStore, admission: Admission, now_s: int) -> None:
        self._store = store
        self._admission = admission
        self._now_s = now_s
        self._pulled: list[tuple[Pulled, Tensor]] = []

    def known(self, keys: Keys) -> Mask:
        """Which ids have a row of their own or, being admitted now, are to get one."""
        return self._admission.admit(keys, self._now_s)

    def pooled(self, table: str, bags: Bags) -> Tensor:
        """Sum of the rows of every bag, a leaf of autograd's graph."""
        pulled = self._store.pull(table, bags, self._now_s)
        leaf = torch.from_numpy(pulled.pooled).requires_grad_()
        self._pulled.append((pulled, leaf))
        return leaf

    def push(self, learning_rate: float) -> None:
        """One optimizer step for every row, with the gradients that a backward pass has left."""
        for pulled, leaf in self._pulled:
            assert leaf.grad is not None
            self._store.push(pulled, np.ascontiguousarray(leaf.grad.numpy()), learning_rate)
