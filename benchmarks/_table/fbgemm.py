"""fbgemm's table-batched embeddings on the CPU, with Adagrad in the backward pass.

It has no hash table: the number of a key's row is given to it. Runs in the environment that `make peers` gives it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)

from benchmarks._table.contestant import Settings, Work, gradients, sample, serve
from benchmarks._table.workload import Positions

LEARNING_RATE, EPSILON = 0.02, 1e-10


def tensor_of(positions: Positions) -> torch.Tensor:
    return torch.from_numpy(positions.astype(np.int64))


class Fbgemm:
    def __init__(self, settings: Settings) -> None:
        self.keys, self._dim = settings.keys, settings.dim
        self.works = {"lookup": Work(tensor_of, self._lookup), "train": Work(tensor_of, self._train)}

    def build(self) -> dict[str, float]:
        """All rows at once; row i holds i."""
        began = time.process_time()
        self._rows = SplitTableBatchedEmbeddingBagsCodegen(
            [(self.keys, self._dim, EmbeddingLocation.HOST, ComputeDevice.CPU)],
            optimizer=EmbOptimType.EXACT_ADAGRAD,
            pooling_mode=PoolingMode.SUM,
            learning_rate=LEARNING_RATE,
            eps=EPSILON,
        )
        (weights,) = self._rows.split_embedding_weights()
        weights.copy_(torch.arange(self.keys, dtype=torch.float32)[:, None].expand_as(weights))
        spent = time.process_time() - began
        positions = sample(self.keys)
        rows = self._lookup(len(positions))(tensor_of(positions)).numpy()
        assert np.array_equal(rows[:, 0], positions.astype(np.float32)), "fbgemm does not find its rows"
        return {"cpu": spent, "keys": self.keys}

    def _lookup(self, batch: int) -> Callable[[Any], Any]:
        offsets = torch.arange(batch + 1)

        def forward(numbers: torch.Tensor) -> Any:
            with torch.no_grad():
                return self._rows(numbers, offsets)

        return forward

    def _train(self, batch: int) -> Callable[[Any], object]:
        offsets, given = torch.arange(batch + 1), torch.from_numpy(gradients(batch, self._dim))
        return lambda numbers: self._rows(numbers, offsets).backward(given)


def make(settings: Settings) -> Fbgemm:
    torch.set_num_threads(1)
    return Fbgemm(settings)


if __name__ == "__main__":
    serve(make)
