"""Steps of torch's optimizers, by the functions that its classes call.

The first of those classes that is made imports torch's compiler, only to be left alone by it: seconds at each start of
a trainer, and half of what a restart takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn
from torch.optim.adagrad import adagrad
from torch.optim.adam import adam
from torch.optim.sgd import sgd

State = dict[str, torch.Tensor]
"""What an optimizer keeps for a parameter, under torch's names."""

STATE = {"sgd": ("momentum_buffer",), "adagrad": ("step", "sum"), "adam": ("step", "exp_avg", "exp_avg_sq")}
Hyper = Mapping[str, float]


def step(
    optimizer: str, parameters: Sequence[nn.Parameter], states: Sequence[State], rate: float, hyper: Hyper
) -> None:
    """Move parameters by their gradients, and their states with them; one that is empty begins."""
    moved = [(one, state) for one, state in zip(parameters, states, strict=True) if one.grad is not None]
    with torch.no_grad():
        _STEPS[optimizer]([one for one, _ in moved], [state for _, state in moved], rate, hyper)


def begins(optimizer: str, hyper: Hyper) -> dict[str, float]:
    """What each element of a kind of state is before the first step; of kinds that are not in it 0."""
    return {"sum": hyper["initial_accumulator"]} if optimizer == "adagrad" else {}


def _gradients(parameters: Sequence[nn.Parameter]) -> list[torch.Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _sgd(parameters: Sequence[nn.Parameter], states: Sequence[State], rate: float, hyper: Hyper) -> None:
    buffers = [state.get("momentum_buffer") for state in states]
    sgd(
        list(parameters),
        _gradients(parameters),
        buffers,
        weight_decay=hyper["weight_decay"],
        momentum=hyper["momentum"],
        lr=rate,
        dampening=0.0,
        nesterov=False,
        maximize=False,
    )
    for state, buffer in zip(states, buffers, strict=True):
        if buffer is not None:
            state["momentum_buffer"] = buffer


def _adagrad(parameters: Sequence[nn.Parameter], states: Sequence[State], rate: float, hyper: Hyper) -> None:
    for parameter, state in zip(parameters, states, strict=True):
        if not state:
            state |= {"step": torch.tensor(0.0), "sum": torch.full_like(parameter, begins("adagrad", hyper)["sum"])}
    adagrad(
        list(parameters),
        _gradients(parameters),
        [state["sum"] for state in states],
        [state["step"] for state in states],
        lr=rate,
        weight_decay=hyper["weight_decay"],
        lr_decay=0.0,
        eps=hyper["epsilon"],
        maximize=False,
    )


def _adam(parameters: Sequence[nn.Parameter], states: Sequence[State], rate: float, hyper: Hyper) -> None:
    for parameter, state in zip(parameters, states, strict=True):
        if not state:
            moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            state |= {"step": torch.tensor(0.0), **moments}
    adam(
        list(parameters),
        _gradients(parameters),
        [state["exp_avg"] for state in states],
        [state["exp_avg_sq"] for state in states],
        [],
        [state["step"] for state in states],
        fused=True,  # one pass over all weights, where the default makes a dozen small ones for each array
        amsgrad=False,
        beta1=hyper["beta1"],
        beta2=hyper["beta2"],
        lr=rate,
        weight_decay=hyper["weight_decay"],
        eps=hyper["epsilon"],
        maximize=False,
    )


_Step = Callable[[Sequence[nn.Parameter], Sequence[State], float, Hyper], None]
_STEPS: Mapping[str, _Step] = {"sgd": _sgd, "adagrad": _adagrad, "adam": _adam}
