"""The optimizers of sparse rows and of dense weights, with the hyper-parameters that each knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from monobeam.models.section import Section

# With their defaults; the native table documents the formulas.
SPARSE: Mapping[str, Mapping[str, float]] = {
    "sgd": {},
    "momentum": {"momentum": 0.9},
    "adagrad": {"initial_accumulator": 0.1, "epsilon": 0.0, "weight_decay": 0.0},
    "rowwise_adagrad": {"initial_accumulator": 0.1, "epsilon": 0.0},
    "adam": {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8},
    "ftrl": {"beta": 1.0, "l1": 0.0, "l2": 0.0, "initial_accumulator": 0.1},
    "rmsprop": {"decay": 0.9, "epsilon": 1e-8},
}
DENSE: Mapping[str, Mapping[str, float]] = {
    "sgd": {"momentum": 0.0, "weight_decay": 0.0},
    "adagrad": {"initial_accumulator": 0.0, "epsilon": 1e-10, "weight_decay": 0.0},
    "adam": {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "weight_decay": 0.0},
}
BELOW_ONE = {"momentum", "beta1", "beta2", "decay"}


@dataclass(frozen=True)
class OptimizerConfig:
    """One optimizer with all its hyper-parameters, defaults included."""

    optimizer: str
    learning_rate: float
    hyper: Mapping[str, float]


def sparse(section: Section) -> OptimizerConfig:
    """The optimizer of the table's rows."""
    config = _read(section, SPARSE, "adagrad", 0.05)
    if config.optimizer == "ftrl" and config.learning_rate == 0:
        raise section.error("learning_rate", "ftrl divides by it: must be above 0")
    return config


def dense(section: Section) -> OptimizerConfig:
    """The optimizer of the torch module's weights."""
    return _read(section, DENSE, "adam", 0.001)


def _read(
    section: Section, known: Mapping[str, Mapping[str, float]], default: str, learning_rate: float
) -> OptimizerConfig:
    name = section.choice("optimizer", tuple(known), default)
    rate = section.number("learning_rate", learning_rate, low=0.0)
    hyper = {key: _hyper(section, key, value) for key, value in known[name].items()}
    if hyper.get("epsilon", 1) == 0 == hyper.get("initial_accumulator", 0):
        other = ", or initial_accumulator" if "initial_accumulator" in hyper else ""
        raise section.error("epsilon", f"{name} would divide by 0: must be above 0{other}")
    return OptimizerConfig(name, rate, hyper)


def _hyper(section: Section, key: str, default: float) -> float:
    value = section.number(key, default, low=0.0)
    if key in BELOW_ONE and value >= 1:
        raise section.error(key, "must lie in [0, 1)")
    return value
