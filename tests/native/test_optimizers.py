"""Every optimizer over many steps: the bits of float32, the truth of float64, across a restart."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from monobeam.native import Table
from tests.native.hashes import initial_row
from tests.native.optimizers import OPTIMIZERS, make_rule

DIM = 21  # a vector of 16, one of 4 and a single one; or two of 8
STEPS = 300
RATE = 0.05
SEED = 11
COMMON = {"clip_value": 1.5, "clip_norm": 4.0, "weight_decay": 0.02}
SETTINGS: list[tuple[str, dict[str, float]]] = [
    ("sgd", {}),
    ("sgd", COMMON),
    ("momentum", {}),
    ("momentum", {"momentum": 0.5, "nesterov": 1.0}),
    ("momentum", COMMON),
    ("adagrad", {}),
    ("adagrad", {"initial_accumulator": 0.0, "epsilon": 1e-6, "weight_decay": 0.01}),
    ("adagrad", COMMON),
    ("rowwise_adagrad", {}),
    ("rowwise_adagrad", {"initial_accumulator": 1.0, "weight_decay": 0.1}),
    ("rowwise_adagrad", COMMON),
    ("adam", {}),
    ("adam", {"beta1": 0.5, "beta2": 0.99, "epsilon": 0.01}),
    ("adam", COMMON),
    ("adamw", {}),
    ("adamw", {"beta1": 0.5, **COMMON}),
    ("amsgrad", {}),
    ("amsgrad", {"beta1": 0.5, "beta2": 0.9, "epsilon": 0.01}),
    ("amsgrad", COMMON),
    ("adadelta", {}),
    ("adadelta", {"rho": 0.5, "epsilon": 0.01}),
    ("adadelta", COMMON),
    ("rmsprop", {}),
    ("rmsprop", {"decay": 0.5, "epsilon": 1e-3}),
    ("rmsprop", COMMON),
    ("ftrl", {}),
    ("ftrl", {"beta": 0.5, "l1": 0.3, "l2": 0.2, "initial_accumulator": 0.0}),
    ("ftrl", COMMON),
    ("group_ftrl", {}),
    ("group_ftrl", {"beta": 0.5, "l1": 0.3, "l2": 0.2, "l21": 0.1}),
    ("group_ftrl", {"l21": 0.2, **COMMON}),
]
every = pytest.mark.parametrize(("optimizer", "hyper"), SETTINGS, ids=lambda value: str(value))


def rate(step: int) -> float:
    """Up, then down, and never twice the same."""
    return RATE * min(1.0, (step + 1) / 50) * 0.998**step


def batches() -> list[tuple[npt.NDArray[np.uint64], npt.NDArray[np.float32]]]:
    """Distinct keys per step from a range that widens, so that new rows arrive all along."""
    rng = np.random.default_rng(5)
    result = []
    for step in range(STEPS):
        keys = rng.choice(8 + step // 10, size=6, replace=False).astype(np.uint64)
        result.append((keys, rng.normal(size=(6, DIM)).astype(np.float32)))
    return result


def train(table: Table, first: int = 0, end: int = STEPS) -> None:
    for now, (keys, gradients) in list(enumerate(batches()))[first:end]:
        table.apply(table.find_or_insert(keys, now), gradients, rate(now))


def reference(optimizer: str, hyper: dict[str, float], kind: Any) -> dict[int, Any]:
    rule = make_rule(optimizer, kind, hyper)
    rows: dict[int, tuple[Any, Any]] = {}
    for now, (keys, gradients) in enumerate(batches()):
        for key, gradient in zip(keys.tolist(), gradients, strict=True):
            if key not in rows:
                rows[key] = initial_row(key, SEED, DIM, 0.1).astype(kind), rule.initial_state(DIM)
            rule.step(*rows[key], gradient.astype(kind), kind(rate(now)))
    return {key: row[0] for key, row in rows.items()}


def test_every_optimizer_is_here() -> None:
    assert {optimizer for optimizer, _ in SETTINGS} == OPTIMIZERS.keys()
    with pytest.raises(ValueError, match=f"allowed: {', '.join(sorted(OPTIMIZERS))}$"):
        Table(1, "lion", {}, 0, 0.1)


@every
def test_bits_of_float32(optimizer: str, hyper: dict[str, float]) -> None:
    table = Table(DIM, optimizer, hyper, SEED, 0.1)
    train(table)
    expected = reference(optimizer, hyper, np.float32)
    rows, found = table.lookup(np.array(sorted(expected), np.uint64))
    assert found.all()
    np.testing.assert_array_equal(rows, [expected[key] for key in sorted(expected)])


@every
def test_truth_of_float64(optimizer: str, hyper: dict[str, float]) -> None:
    table = Table(DIM, optimizer, hyper, SEED, 0.1)
    train(table)
    expected = reference(optimizer, hyper, np.float64)
    rows, _ = table.lookup(np.array(sorted(expected), np.uint64))
    np.testing.assert_allclose(rows, [expected[key] for key in sorted(expected)], rtol=2e-4, atol=2e-5)


@every
@pytest.mark.parametrize("how", ["export", "save"])
def test_restored_in_mid_course(optimizer: str, hyper: dict[str, float], how: str, tmp_path: Path) -> None:
    whole = Table(DIM, optimizer, hyper, SEED, 0.1)
    train(whole)
    half = Table(DIM, optimizer, hyper, SEED, 0.1)
    train(half, end=STEPS // 2)
    if how == "export":
        restored = Table(DIM, optimizer, hyper, SEED, 0.1)
        restored.import_rows(half.keys(), half.export_rows(half.keys()))
    else:
        half.save(str(tmp_path / "table"))
        restored = Table.load(str(tmp_path / "table"))
    train(restored, first=STEPS // 2)
    assert len(half) < len(whole), "new rows come in the second half as well"
    keys = whole.keys()
    np.testing.assert_array_equal(restored.export_rows(keys), whole.export_rows(keys))
    assert restored.update_count_sum == whole.update_count_sum == STEPS * 6


Rows = Sequence[torch.Tensor]
TORCH: list[tuple[str, dict[str, float], Callable[[Rows], torch.optim.Optimizer]]] = [
    ("sgd", {}, lambda rows: torch.optim.SGD(rows)),
    ("sgd", {"weight_decay": 0.1}, lambda rows: torch.optim.SGD(rows, weight_decay=0.1)),
    ("momentum", {}, lambda rows: torch.optim.SGD(rows, momentum=0.9)),
    ("momentum", {"nesterov": 1}, lambda rows: torch.optim.SGD(rows, momentum=0.9, nesterov=True)),
    ("adagrad", {}, lambda rows: torch.optim.Adagrad(rows, initial_accumulator_value=0.1, eps=0.0)),
    (
        "adagrad",
        {"weight_decay": 0.1, "epsilon": 0.01, "initial_accumulator": 0},
        lambda rows: torch.optim.Adagrad(rows, weight_decay=0.1, eps=0.01),
    ),
    ("adam", {}, lambda rows: torch.optim.Adam(rows)),
    ("adam", {"weight_decay": 0.1}, lambda rows: torch.optim.Adam(rows, weight_decay=0.1)),
    ("adamw", {}, lambda rows: torch.optim.AdamW(rows)),
    ("amsgrad", {}, lambda rows: torch.optim.Adam(rows, amsgrad=True)),
    (
        "amsgrad",
        {"weight_decay": 0.1, "beta2": 0.9},
        lambda rows: torch.optim.Adam(rows, betas=(0.9, 0.9), weight_decay=0.1, amsgrad=True),
    ),
    ("adadelta", {}, lambda rows: torch.optim.Adadelta(rows)),
    ("adadelta", {"weight_decay": 0.1}, lambda rows: torch.optim.Adadelta(rows, weight_decay=0.1)),
    ("rmsprop", {}, lambda rows: torch.optim.RMSprop(rows, alpha=0.9)),
    ("rmsprop", {"weight_decay": 0.1}, lambda rows: torch.optim.RMSprop(rows, alpha=0.9, weight_decay=0.1)),
]


@pytest.mark.parametrize(("optimizer", "hyper", "of_torch"), TORCH, ids=[f"{name}-{hyper}" for name, hyper, _ in TORCH])
def test_truth_of_torch(
    optimizer: str, hyper: dict[str, float], of_torch: Callable[[Rows], torch.optim.Optimizer]
) -> None:
    """All rows are in every batch: torch counts steps for all of them together."""
    table, keys, rng = Table(DIM, optimizer, hyper, SEED, 0.1), np.arange(5, dtype=np.uint64), np.random.default_rng(3)
    handles = table.find_or_insert(keys, 0)
    rows = torch.from_numpy(table.gather(handles)).double().requires_grad_()
    torchs = of_torch([rows])
    for step in range(STEPS):
        gradients = rng.normal(size=(len(keys), DIM)).astype(np.float32)
        table.apply(handles, gradients, rate(step))
        rows.grad = torch.from_numpy(gradients).double()
        torchs.param_groups[0]["lr"] = rate(step)
        torchs.step()
    np.testing.assert_allclose(table.gather(handles), rows.detach().numpy(), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad"])
def test_bits_of_torch(optimizer: str) -> None:
    table = Table(DIM, optimizer, {}, SEED, 0.1)
    weights: dict[int, torch.Tensor] = {}
    sums: dict[int, torch.Tensor] = {}
    for keys, gradients in batches():
        table.apply(table.find_or_insert(keys, 0), gradients, RATE)
        for key, gradient in zip(keys.tolist(), torch.from_numpy(gradients), strict=True):
            w = weights.setdefault(key, torch.from_numpy(initial_row(key, SEED, DIM, 0.1)))
            n = sums.setdefault(key, torch.full((DIM,), 0.1))
            if optimizer == "sgd":
                w -= RATE * gradient
            else:
                n += gradient * gradient
                root = torch.from_numpy(np.sqrt(n.numpy()))  # torch's own is not correctly rounded (MKL)
                w -= RATE * gradient / root
    rows, _ = table.lookup(np.array(sorted(weights), np.uint64))
    np.testing.assert_array_equal(rows, torch.stack([weights[key] for key in sorted(weights)]).numpy())


def test_duplicates_are_one_step_with_the_sum() -> None:
    once, twice = Table(1, "adagrad", {}, 0, 0.0), Table(1, "adagrad", {}, 0, 0.0)
    key = np.array([5], np.uint64)
    once.apply(once.find_or_insert(key, 0), np.array([[3.0]], np.float32), RATE)
    handles = twice.find_or_insert(np.repeat(key, 2), 0)
    twice.apply(handles, np.array([[1.0], [2.0]], np.float32), RATE)
    assert once.lookup(key)[0] == twice.lookup(key)[0]
    assert (once.update_count_sum, twice.update_count_sum) == (1, 2)


@pytest.mark.parametrize(
    ("optimizer", "hyper", "message"),
    [
        ("lion", {}, "unknown optimizer 'lion'; allowed: adadelta, adagrad, adam, adamw, amsgrad, ftrl, group_ftrl"),
        ("sgd", {"momentum": 0.9}, "no hyper-parameter 'momentum'; allowed: clip_norm, clip_value, weight_decay$"),
        ("adam", {"beta3": 0.9}, "adam has no hyper-parameter 'beta3'; allowed: beta1, beta2, clip_norm, clip_value"),
        ("momentum", {"nesterov": 0.5}, "nesterov=0.5 of optimizer momentum must be 0 or 1"),
        ("sgd", {"clip_norm": -1.0}, "clip_norm=-1 of optimizer sgd must be finite and >= 0"),
        ("adadelta", {"epsilon": 0.0}, "epsilon=0 of optimizer adadelta must be finite and > 0"),
        ("adam", {"beta1": 1.0}, r"beta1=1 of optimizer adam must be in \[0, 1\)"),
        ("adagrad", {"epsilon": float("nan")}, "epsilon=nan of optimizer adagrad must be finite and >= 0"),
        ("adagrad", {"initial_accumulator": 0.0}, "divides by 0"),
        ("rowwise_adagrad", {"initial_accumulator": 0.0}, "divides by 0"),
        ("ftrl", {"initial_accumulator": 0.0, "beta": 0.0}, "divides by 0"),
        ("group_ftrl", {"initial_accumulator": 0.0, "beta": 0.0}, "group_ftrl divides by 0"),
        ("rmsprop", {"epsilon": 0.0}, "epsilon=0 of optimizer rmsprop must be finite and > 0"),
        # What is finite, or not 0, as float64 alone.
        ("adam", {"epsilon": 1e-50}, "epsilon=1e-50 of optimizer adam must be finite and > 0 as a float32"),
        ("sgd", {"clip_norm": 1e-50}, "clip_norm=1e-50 of optimizer sgd must be finite and >= 0 as a float32"),
        ("sgd", {"weight_decay": 1e300}, r"weight_decay=1e\+300 of optimizer sgd must be finite and >= 0"),
        ("momentum", {"momentum": 1 - 1e-9}, r"momentum=0.999999999 of optimizer momentum must be in \[0, 1\)"),
        ("adagrad", {"initial_accumulator": 1e-50}, "initial_accumulator=1e-50 of optimizer adagrad must be"),
    ],
)
def test_refused_settings(optimizer: str, hyper: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Table(4, optimizer, hyper, 0, 0.1)


@pytest.mark.parametrize(
    ("optimizer", "rate", "shown"),
    [
        ("sgd", -0.25, "-0.25 must be finite and >= 0"),
        ("sgd", float("nan"), "nan must be"),
        ("sgd", 1e39, "inf must be"),
        ("ftrl", 0.0, "0 must be finite and > 0, and so must be 1 / it"),
        ("group_ftrl", 0.0, "0 must be"),
        ("ftrl", 2.0**-130, "7.34683969e-40 must be"),
    ],
)
def test_refused_rates(optimizer: str, rate: float, shown: str) -> None:
    table = Table(1, optimizer, {}, 0, 0.1)
    handles = table.find_or_insert(np.array([1], np.uint64), 0)
    with pytest.raises(ValueError, match=f"learning_rate {shown}"):
        table.apply(handles, np.ones((1, 1), np.float32), rate)
    assert table.update_count_sum == 0
