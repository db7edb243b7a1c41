"""Dense weights: they outlive a change of their optimizer; rates and clipped gradients move them."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from monobeam.models import optimizers
from monobeam.models.dense import DenseWeights
from monobeam.models.optimizers import COMMON, OptimizerConfig

# With momentum, or sgd would have no state.
OPTIMIZERS = {name: {"momentum": 0.9} if name == "sgd" else {} for name in optimizers.DENSE}


def weights(optimizer: str, **hyper: float) -> tuple[nn.Module, DenseWeights]:
    torch.manual_seed(1)
    module = nn.Linear(3, 1)
    config = OptimizerConfig(optimizer, 0.1, {**COMMON, **optimizers.DENSE[optimizer], **hyper})
    return module, DenseWeights(module, config)


def step(module: nn.Module, dense: DenseWeights, rate: float = 0.1) -> None:
    dense.clear()
    torch.autograd.backward(module(torch.ones(2, 3)).sum())
    dense.step(rate)


@pytest.mark.parametrize("before", OPTIMIZERS)
@pytest.mark.parametrize("after", OPTIMIZERS)
def test_weights_go_on_and_another_optimizer_begins_anew(before: str, after: str) -> None:
    module, dense = weights(before, **OPTIMIZERS[before])
    for _ in range(3):
        step(module, dense)
    other, continued = weights(after, **OPTIMIZERS[after])
    continued.restore(dense.state())
    for name, value in dense.values().items():
        assert np.array_equal(continued.values()[name], value)
    step(other, continued)
    if before == after:
        step(module, dense)
        expected = dense
    else:
        fresh_module, expected = weights(after, **OPTIMIZERS[after])
        expected.restore({f"weight/{name}": value for name, value in dense.values().items()})
        step(fresh_module, expected)
    assert continued.state().keys() == expected.state().keys()
    for name, value in expected.state().items():
        assert np.array_equal(continued.state()[name], value), name


@pytest.mark.parametrize("optimizer", optimizers.DENSE)
def test_moves_are_in_proportion_to_the_rate_of_the_step(optimizer: str) -> None:
    moves = []
    for rate in (0.1, 0.025, 0.0):
        module, dense = weights(optimizer)
        step(module, dense)
        before = dense.values()["weight"]
        step(module, dense, rate)
        moves.append(dense.values()["weight"] - before)
    np.testing.assert_allclose(moves[0], 4 * moves[1], rtol=1e-4)
    assert (moves[0] != 0).all()
    assert (moves[2] == 0).all()


def test_gradients_are_clipped_to_components_and_then_to_the_norm_of_all_together() -> None:
    """The gradient is 2 for each of three weights and the bias: clipped to 1.5, its norm is 3, and then 0.6."""
    for hyper, moved in (({}, 2.0), ({"clip_value": 1.5}, 1.5), ({"clip_value": 1.5, "clip_norm": 0.6}, 0.3)):
        module, dense = weights("sgd", **hyper)
        before = dense.values()
        step(module, dense)
        for name, value in dense.values().items():
            np.testing.assert_allclose(before[name] - value, 0.1 * moved, rtol=1e-5)


def test_short_gradients_are_not_lengthened() -> None:
    plain, clipping = weights("adam"), weights("adam", clip_norm=100.0, clip_value=100.0)
    for _ in range(3):
        step(*plain)
        step(*clipping)
    for name, value in plain[1].state().items():
        assert np.array_equal(clipping[1].state()[name], value), name


def test_weights_that_the_module_lacks_are_refused() -> None:
    """They would be dropped without a word, and with them what rows were learnt for."""
    _, dense = weights("adam")
    state = dense.state() | {"weight/projection": np.zeros((2, 3), np.float32)}
    with pytest.raises(ValueError, match=r"weight/projection: the store holds shape \(2, 3\), the model has none"):
        weights("adam")[1].restore(state)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_steps_are_those_of_torchs_own_optimizer(optimizer: str) -> None:
    hyper = {"weight_decay": 0.01, **OPTIMIZERS[optimizer]}
    module, dense = weights(optimizer, **hyper)
    theirs, config = weights(optimizer)[0], {**COMMON, **optimizers.DENSE[optimizer], **hyper}
    parameters = list(theirs.parameters())
    twin: torch.optim.Optimizer = {
        "sgd": lambda: torch.optim.SGD(parameters, 0.1, config["momentum"], weight_decay=0.01),
        "adagrad": lambda: torch.optim.Adagrad(
            parameters,
            0.1,
            weight_decay=0.01,
            initial_accumulator_value=config["initial_accumulator"],
            eps=config["epsilon"],
        ),
        "adam": lambda: torch.optim.Adam(
            parameters, 0.1, (config["beta1"], config["beta2"]), config["epsilon"], weight_decay=0.01, fused=True
        ),
    }[optimizer]()
    for _ in range(5):
        step(module, dense)
        twin.zero_grad()
        torch.autograd.backward(theirs(torch.ones(2, 3)).sum())
        twin.step()
    for name, parameter in theirs.named_parameters():
        assert np.array_equal(dense.values()[name], parameter.detach().numpy()), name
        for key, value in twin.state[parameter].items():
            assert np.array_equal(dense.state()[f"{key}/{name}"], value.numpy()), key


def test_a_trainer_starts_without_torchs_compiler() -> None:
    """It takes seconds to import, in each process that trains, at each restart."""
    code = """
import sys
from tests.models.trainers import *
trainer = Trainer(SETTINGS, Store(SETTINGS.store_spec(), MemoryBackend()))
for offset, block in enumerate(stream(2)):
    trainer.train(block, 0, offset)
trainer.commit(START_US)
print("torch._dynamo" in sys.modules, trainer.positions[0])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "2"]
