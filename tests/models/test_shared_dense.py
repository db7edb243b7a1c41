"""Dense weights in the store: what one trainer learns with them is what it learns with its own; several share them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from monobeam.models import dense_table, optimizers
from monobeam.models.config import Config
from monobeam.models.dense import DenseWeights
from monobeam.models.optimizers import COMMON, OptimizerConfig
from monobeam.models.shared_dense import SharedDense
from monobeam.store.memory import MemoryBackend
from monobeam.store.store import Store
from tests.models.trainers import SETTINGS

OPTIMIZERS: dict[str, dict[str, float]] = {
    "sgd": {},
    "sgd with momentum": {"momentum": 0.9},
    "adagrad": {},
    "adam": {},
    "adam, clipped and decaying": {"clip_value": 0.4, "clip_norm": 1.0, "weight_decay": 0.1},
}


def optimizer(name: str) -> OptimizerConfig:
    kind = name.split(" ")[0].strip(",")
    return OptimizerConfig(kind, 0.05, {**COMMON, **optimizers.DENSE[kind], **OPTIMIZERS[name]})


def shared(config: OptimizerConfig, shards: int = 1) -> Config:
    training = replace(SETTINGS.training, dense=config, parallel=True)
    return replace(SETTINGS, training=training, store=replace(SETTINGS.store, shards=shards))


def module() -> nn.Module:
    """Some 500 weights of all kinds of shapes, and one that is not learnt."""
    torch.manual_seed(7)
    built = nn.Sequential(nn.Linear(13, 33), nn.ReLU(), nn.Linear(33, 1))
    built.register_parameter("bias", nn.Parameter(torch.tensor(0.5), requires_grad=False))
    return built


def gradients(module: nn.Module, step: int) -> None:
    rng = np.random.default_rng(step)
    inputs = torch.from_numpy(rng.normal(size=(20, 13)).astype(np.float32))
    torch.autograd.backward((module(inputs) - step % 3).square().sum())


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_alone_they_learn_what_the_trainers_own_learn(name: str, shards: int) -> None:
    config = optimizer(name)
    theirs, ours = module(), module()
    plain = DenseWeights(theirs, config)
    store = Store(shared(config, shards).store_spec(), MemoryBackend())
    dense = SharedDense(ours, config, store)
    for number in range(40):
        dense.refresh(number)
        for of, weights in ((theirs, plain), (ours, dense)):
            weights.clear()
            gradients(of, number)
            weights.step(0.05 / (1 + number))
    dense.look()
    for label, value in plain.values().items():
        np.testing.assert_allclose(dense.values()[label], value, rtol=2e-4, atol=2e-6, err_msg=label)
    assert plain.values()["bias"] == 0.5


def test_several_see_each_others_steps_and_a_new_one_goes_on() -> None:
    config = optimizer("adam")
    spec = shared(config).store_spec()
    store = Store(spec, MemoryBackend())
    modules = [module(), module()]
    both = [SharedDense(of, config, store) for of in modules]
    first = both[0].values()
    for number in range(6):
        dense, of = both[number % 2], modules[number % 2]
        dense.refresh(number)
        dense.clear()
        gradients(of, number)
        dense.step(0.05)
    alone = DenseWeights(modules[0], config)
    third = SharedDense(module(), config, store)
    for each in (*both, third):
        each.look()
    for label, value in third.values().items():
        np.testing.assert_array_equal(value, both[0].values()[label])
        np.testing.assert_array_equal(value, both[1].values()[label])
        np.testing.assert_array_equal(value, alone.values()[label])
    assert not np.array_equal(third.values()["0.weight"], first["0.weight"])


def test_the_rows_are_of_the_store_and_not_of_replicas() -> None:
    spec = shared(optimizer("adagrad")).store_spec()
    (table,) = (table for table in spec.tables if table.name == dense_table.NAME)
    assert (table.synced, table.init_scale, table.optimizer) == (False, 0.0, "adagrad")
    assert dense_table.NAME not in {table.name for table in SETTINGS.store_spec().tables}
