"""Dense weights outlive a change of their optimizer."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from monobeam.models import optimizers
from monobeam.models.dense import DenseWeights
from monobeam.models.optimizers import OptimizerConfig


def weights(optimizer: str) -> tuple[nn.Module, DenseWeights]:
    torch.manual_seed(1)
    module = nn.Linear(3, 1)
    return module, DenseWeights(module, OptimizerConfig(optimizer, 0.1, optimizers.DENSE[optimizer]))


def step(module: nn.Module, dense: DenseWeights) -> None:
    dense.clear()
    torch.autograd.backward(module(torch.ones(2, 3)).sum())
    dense.step()


@pytest.mark.parametrize(("before", "after"), product(optimizers.DENSE, optimizers.DENSE))
def test_weights_go_on_and_another_optimizer_begins_anew(before: str, after: str) -> None:
    module, dense = weights(before)
    for _ in range(3):
        step(module, dense)
    other, continued = weights(after)
    continued.restore(dense.state())
    for name, value in dense.values().items():
        assert np.array_equal(continued.values()[name], value)
    step(other, continued)
    fresh_module, fresh = weights(after)
    fresh.restore({f"weight/{name}": value for name, value in dense.values().items()})
    step(fresh_module, fresh)
    if before != after:
        for name, value in fresh.state().items():
            assert np.array_equal(continued.state()[name], value), name
