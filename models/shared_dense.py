"""Dense weights that several trainers share: rows of the store, pulled before a step and moved by pushed gradients.

Asynchronous: between one trainer's pull and its push others may have pushed, so a gradient may be of weights that are
some steps old (as in the parameter servers of Dean et al. 2012, section 4.1).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from monobeam.models.dense import Arrays, clip, values_of
from monobeam.models.dense_table import NAME, WIDTH
from monobeam.models.optimizers import OptimizerConfig
from monobeam.store.bags import Bags, Floats
from monobeam.store.parameters import ParameterStore, Pulled


class SharedDense:
    """The parameters of a newly built module, whose learnable ones are the sum of their first values and rows.

    All of them in one vector, in order of name, are cut into rows of WIDTH, numbered from 0; the last is filled up.
    """

    def __init__(self, module: nn.Module, config: OptimizerConfig, store: ParameterStore) -> None:
        self._parameters = dict(module.named_parameters())
        self._learnt = [parameter for _, parameter in sorted(self._parameters.items()) if parameter.requires_grad]
        self._hyper = config.hyper
        self._store = store
        first = [parameter.detach().reshape(-1) for parameter in self._learnt]
        self._first = torch.cat(first).numpy().copy() if first else np.empty(0, np.float32)
        keys = np.arange(-(-len(self._first) // WIDTH), dtype=np.uint64)
        self._rows = Bags(keys, np.arange(len(keys) + 1, dtype=np.int64))
        self._pulled: Pulled | None = None

    def refresh(self, now_s: int) -> None:
        """Pull the weights as they are now; until the next ``step`` they are what its gradients are of."""
        self._pulled = self._store.pull(NAME, self._rows, now_s)
        self._take(self._pulled.pooled)

    def look(self) -> None:
        """The weights as they are now, to be used and not to be moved."""
        self._take(self._store.lookup(NAME, self._rows))

    def clear(self) -> None:
        """Drop the gradients."""
        for parameter in self._learnt:
            parameter.grad = None

    def step(self, learning_rate: float) -> None:
        """Push the gradients, clipped, and then with weight decay."""
        assert self._pulled is not None
        clip(self._learnt, self._hyper)
        decay = self._hyper["weight_decay"]
        flat = np.zeros(self._pulled.pooled.shape, np.float32)
        flat.reshape(-1)[: len(self._first)] = torch.cat([_gradient(p, decay) for p in self._learnt]).numpy()
        self._store.push(self._pulled, flat, learning_rate)
        self._pulled = None

    def values(self) -> Arrays:
        """The weights under the module's names: what serving needs."""
        return values_of(self._parameters)

    def state(self) -> None:
        """Nothing: all state is in the rows."""

    def _take(self, rows: Floats) -> None:
        weights = torch.from_numpy(self._first + rows.reshape(-1)[: len(self._first)])
        sizes = [parameter.numel() for parameter in self._learnt]
        with torch.no_grad():
            for parameter, part in zip(self._learnt, torch.split(weights, sizes), strict=True):
                parameter.copy_(part.view_as(parameter))


def _gradient(parameter: nn.Parameter, decay: float) -> Tensor:
    gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    return (gradient + decay * parameter.detach() if decay else gradient).reshape(-1)
