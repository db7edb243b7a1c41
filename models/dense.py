"""Dense weights with their torch optimizer: one step, and all state as named float32 arrays (never pickle)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from monobeam.models import steps
from monobeam.models.columns import Columns
from monobeam.models.optimizers import OptimizerConfig

Arrays = dict[str, npt.NDArray[np.float32]]


def clip(parameters: Collection[nn.Parameter], hyper: Mapping[str, float]) -> None:
    """Clip gradients as hyper-parameters say: components first, then the norm of all of them together."""
    if hyper["clip_value"]:
        nn.utils.clip_grad_value_(parameters, hyper["clip_value"])
    if hyper["clip_norm"]:
        nn.utils.clip_grad_norm_(parameters, hyper["clip_norm"])


def values_of(parameters: Mapping[str, nn.Parameter]) -> Arrays:
    """Copies of parameters under their names."""
    return {name: parameter.detach().numpy().copy() for name, parameter in parameters.items()}


class DenseWeights:
    """The parameters of a module, with the optimizer that moves them.

    State has the names ``weight/<parameter>`` and ``<optimizer's name of it>/<parameter>``, and of a parameter with
    columns for slots ``slots/<parameter>``; all of it is float32, Adam's step count too (as in torch), so that a round
    trip is exact.
    """

    def __init__(self, module: nn.Module, config: OptimizerConfig) -> None:
        self._parameters = dict(module.named_parameters())
        self._columns: Columns | None = getattr(module, "columns", None)
        self._states: dict[str, steps.State] = {name: {} for name in self._parameters}
        self._optimizer = config.optimizer
        self._hyper = config.hyper

    def refresh(self, now_s: int) -> None:
        """Nothing: these weights are nobody else's."""

    def look(self) -> None:
        """Nothing, as for ``refresh``."""

    def clear(self) -> None:
        """Drop the gradients."""
        for parameter in self._parameters.values():
            parameter.grad = None

    def step(self, learning_rate: float) -> None:
        """Move the weights by their gradients, clipped."""
        clip(self._parameters.values(), self._hyper)
        parameters, states = list(self._parameters.values()), list(self._states.values())
        steps.step(self._optimizer, parameters, states, learning_rate, self._hyper)

    def values(self) -> Arrays:
        """The weights under the module's names: what serving needs."""
        return values_of(self._parameters)

    def state(self) -> Arrays:
        """Weights and optimizer state."""
        arrays = {f"weight/{name}": value for name, value in self.values().items()}
        if self._columns:
            arrays[self._columns.label] = self._columns.state()
        for name, state in self._states.items():
            arrays |= {f"{key}/{name}": value.numpy().copy() for key, value in state.items()}
        return arrays

    def restore(self, arrays: Mapping[str, npt.NDArray[np.float32]]) -> None:
        """Take over what ``state`` gave; ValueError where it belongs to another model.

        The state of another optimizer is left out: this one begins anew. So do the columns of slots that are new.
        """
        if self._columns:
            first = self._parameters[self._columns.parameter].detach().numpy()
            arrays = self._columns.arranged(arrays, first, steps.begins(self._optimizer, self._hyper))
        for label in sorted(arrays.keys() - {f"weight/{name}" for name in self._parameters}):
            if label.startswith("weight/"):
                raise ValueError(f"{label}: the store holds shape {arrays[label].shape}, the model has none")
        for name, parameter in self._parameters.items():
            self._restore_weight(parameter, arrays, f"weight/{name}")
            keeps = steps.STATE[self._optimizer]
            saved = {key: arrays[f"{key}/{name}"] for key in keeps if f"{key}/{name}" in arrays}
            if len(saved) == len(keeps):
                tensors = {key: torch.from_numpy(np.array(value, np.float32)) for key, value in saved.items()}
                self._states[name].update(tensors)

    def _restore_weight(
        self, parameter: nn.Parameter, arrays: Mapping[str, npt.NDArray[np.float32]], label: str
    ) -> None:
        value = arrays.get(label)
        if value is None or value.shape != tuple(parameter.shape):
            found = "nothing" if value is None else f"shape {value.shape}"
            raise ValueError(f"{label}: the store holds {found}, the model needs shape {tuple(parameter.shape)}")
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(np.array(value, np.float32)))
