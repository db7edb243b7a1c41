"""torch's EmbeddingBag with sparse gradients, and its sparse Adagrad; the number of a key's row is given to it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks._table.contestant import Settings, Work, gradients, sample, serve
from benchmarks._table.workload import Positions

LEARNING_RATE = 0.02


def tensor_of(positions: Positions) -> torch.Tensor:
    return torch.from_numpy(positions.astype(np.int64))


class Bag:
    def __init__(self, settings: Settings) -> None:
        self.keys, self._dim = settings.keys, settings.dim
        self.works = {"lookup": Work(tensor_of, self._lookup), "train": Work(tensor_of, self._train)}

    def build(self) -> dict[str, float]:
        """All rows at once; row i holds i."""
        began = time.process_time()
        rows = torch.arange(self.keys, dtype=torch.float32)[:, None].repeat(1, self._dim)
        self._bag = torch.nn.EmbeddingBag(self.keys, self._dim, mode="sum", sparse=True, _weight=rows)
        self._adagrad = torch.optim.Adagrad(self._bag.parameters(), LEARNING_RATE)
        spent = time.process_time() - began
        positions = sample(self.keys)
        found = self._lookup(len(positions))(tensor_of(positions)).numpy()
        assert np.array_equal(found[:, 0], positions.astype(np.float32)), "torch does not find its rows"
        return {"cpu": spent, "keys": self.keys}

    def _lookup(self, batch: int) -> Callable[[Any], Any]:
        offsets = torch.arange(batch)

        def forward(numbers: torch.Tensor) -> Any:
            with torch.no_grad():
                return self._bag(numbers, offsets)

        return forward

    def _train(self, batch: int) -> Callable[[Any], object]:
        offsets, given = torch.arange(batch), torch.from_numpy(gradients(batch, self._dim))

        def step(numbers: torch.Tensor) -> None:
            self._adagrad.zero_grad()
            self._bag(numbers, offsets).backward(given)
            self._adagrad.step()

        return step


def make(settings: Settings) -> Bag:
    torch.set_num_threads(1)
    return Bag(settings)


if __name__ == "__main__":
    serve(make)
