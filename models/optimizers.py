"""The optimizers of sparse rows and of dense weights, with the hyper-parameters that each knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from monobeam.models import schedules
from monobeam.models.schedules import CONSTANT, Schedule
from monobeam.models.section import Section
from monobeam.store.spec import DTYPES

# With their defaults; the native table documents the formulas.
SPARSE: Mapping[str, Mapping[str, float]] = {
    "sgd": {},
    "momentum": {"momentum": 0.9, "nesterov": False},
    "adagrad": {"initial_accumulator": 0.1, "epsilon": 0.0},
    "rowwise_adagrad": {"initial_accumulator": 0.1, "epsilon": 0.0},
    "rmsprop": {"decay": 0.9, "epsilon": 1e-8},
    "adadelta": {"rho": 0.9, "epsilon": 1e-6},
    "adam": {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8},
    "adamw": {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "weight_decay": 0.01},
    "amsgrad": {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8},
    "ftrl": {"beta": 1.0, "l1": 0.0, "l2": 0.0, "initial_accumulator": 0.1},
    "group_ftrl": {"beta": 1.0, "l1": 0.0, "l2": 0.0, "l21": 0.0, "initial_accumulator": 0.1},
}
DENSE: Mapping[str, Mapping[str, float]] = {
    "sgd": {"momentum": 0.0},
    "adagrad": {"initial_accumulator": 0.0, "epsilon": 1e-10},
    "adam": {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8},
}
# What all of them know as well, unless they have their own; 0 is off.
COMMON: Mapping[str, float] = {"clip_value": 0.0, "clip_norm": 0.0, "weight_decay": 0.0}
BELOW_ONE = {"momentum", "beta1", "beta2", "decay", "rho"}


@dataclass(frozen=True)
class OptimizerConfig:
    """One optimizer with all its hyper-parameters, defaults included."""

    optimizer: str
    learning_rate: float
    hyper: Mapping[str, float]
    schedule: Schedule = CONSTANT

    def rate(self, trained: int) -> float:
        """The learning rate of a step, by the number of examples that will have been trained after it."""
        return self.schedule.rate(self.learning_rate, trained)


@dataclass(frozen=True)
class SparseConfig(OptimizerConfig):
    """The optimizer of the tables' rows; ``rows`` is the format of their embeddings in memory, one of
    ``store.spec.DTYPES``."""

    rows: str = "fp32"


def sparse(section: Section) -> SparseConfig:
    """The optimizer of the table's rows."""
    config = _read(section, SPARSE, "adagrad", 0.05)
    if "l1" in config.hyper:
        _check_ftrl(section, config)
    rows = section.choice("rows", DTYPES, SparseConfig.rows)
    return SparseConfig(config.optimizer, config.learning_rate, config.hyper, config.schedule, rows)


def dense(section: Section) -> OptimizerConfig:
    """The optimizer of the torch module's weights."""
    return _read(section, DENSE, "adam", 0.001)


def _read(
    section: Section, known: Mapping[str, Mapping[str, float]], default: str, learning_rate: float
) -> OptimizerConfig:
    name = section.choice("optimizer", tuple(known), default)
    rate = section.number("learning_rate", learning_rate, low=0.0)
    hyper = {key: _hyper(section, key, value) for key, value in {**COMMON, **known[name]}.items()}
    if hyper.get("epsilon", 1) == 0 == hyper.get("initial_accumulator", 0):
        other = ", or initial_accumulator" if "initial_accumulator" in hyper else ""
        raise section.error("epsilon", f"{name} would divide by 0: must be above 0{other}")
    return OptimizerConfig(name, rate, hyper, schedules.read(section.table("schedule"), rate))


def _hyper(section: Section, key: str, default: float) -> float:
    if isinstance(default, bool):
        return float(section.boolean(key, default))
    value = section.number(key, default, low=0.0)
    if key in BELOW_ONE and np.float32(value) >= 1:
        raise section.error(key, "must lie in [0, 1)")
    return value


def _check_ftrl(section: Section, config: OptimizerConfig) -> None:
    """It divides by the learning rate, and by what three of its hyper-parameters have in common."""
    name, hyper = config.optimizer, config.hyper
    if config.learning_rate == 0:
        raise section.error("learning_rate", f"{name} divides by it: must be above 0")
    if config.schedule.end_rate == 0 and config.schedule.kind in schedules.TO_END_RATE:
        raise section.error("schedule", f"{name} divides by the learning rate: end_rate must be above 0")
    if hyper["beta"] + hyper["l2"] + hyper["initial_accumulator"] == 0:
        raise section.error("beta", f"{name} would divide by 0: must be above 0, or l2, or initial_accumulator")
