"""Every optimizer over many steps: the bits of float32, the truth of float64, across a restart."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from monobeam.native import Table
from tests.native.optimizers import OPTIMIZERS
from tests.native.twin import initial_row

DIM = 6
STEPS = 300
RATE = 0.05
SEED = 11
SETTINGS: list[tuple[str, dict[str, float]]] = [
    ("sgd", {}),
    ("momentum", {}),
    ("momentum", {"momentum": 0.5}),
    ("adagrad", {}),
    ("adagrad", {"initial_accumulator": 0.0, "epsilon": 1e-6, "weight_decay": 0.01}),
    ("rowwise_adagrad", {}),
    ("rowwise_adagrad", {"initial_accumulator": 1.0, "weight_decay": 0.1}),
    ("adam", {}),
    ("adam", {"beta1": 0.5, "beta2": 0.99, "epsilon": 0.01}),
    ("ftrl", {}),
    ("ftrl", {"beta": 0.5, "l1": 0.3, "l2": 0.2, "initial_accumulator": 0.0}),
    ("rmsprop", {}),
    ("rmsprop", {"decay": 0.5, "epsilon": 1e-3}),
]
every = pytest.mark.parametrize(("optimizer", "hyper"), SETTINGS, ids=lambda value: str(value))


def batches() -> list[tuple[npt.NDArray[np.uint64], npt.NDArray[np.float32]]]:
    """Distinct keys per step from a range that widens, so that new rows arrive all along."""
    rng = np.random.default_rng(5)
    result = []
    for step in range(STEPS):
        keys = rng.choice(8 + step // 10, size=6, replace=False).astype(np.uint64)
        result.append((keys, rng.normal(size=(6, DIM)).astype(np.float32)))
    return result


def train(table: Table, steps: list[tuple[npt.NDArray[np.uint64], npt.NDArray[np.float32]]]) -> None:
    for now, (keys, gradients) in enumerate(steps):
        table.apply(table.find_or_insert(keys, now), gradients, RATE)


def reference(optimizer: str, hyper: dict[str, float], kind: Any) -> dict[int, Any]:
    rule = OPTIMIZERS[optimizer](kind, **hyper)
    rows: dict[int, tuple[Any, Any]] = {}
    for keys, gradients in batches():
        for key, gradient in zip(keys.tolist(), gradients, strict=True):
            if key not in rows:
                rows[key] = initial_row(key, SEED, DIM, 0.1).astype(kind), rule.initial_state(DIM)
            rule.step(*rows[key], gradient.astype(kind), kind(RATE))
    return {key: row[0] for key, row in rows.items()}


@every
def test_bits_of_float32(optimizer: str, hyper: dict[str, float]) -> None:
    table = Table(DIM, optimizer, hyper, SEED, 0.1)
    train(table, batches())
    expected = reference(optimizer, hyper, np.float32)
    rows, found = table.lookup(np.array(sorted(expected), np.uint64))
    assert found.all()
    np.testing.assert_array_equal(rows, [expected[key] for key in sorted(expected)])


@every
def test_truth_of_float64(optimizer: str, hyper: dict[str, float]) -> None:
    table = Table(DIM, optimizer, hyper, SEED, 0.1)
    train(table, batches())
    expected = reference(optimizer, hyper, np.float64)
    rows, _ = table.lookup(np.array(sorted(expected), np.uint64))
    np.testing.assert_allclose(rows, [expected[key] for key in sorted(expected)], rtol=2e-4, atol=2e-5)


@every
@pytest.mark.parametrize("how", ["export", "save"])
def test_restored_in_mid_course(optimizer: str, hyper: dict[str, float], how: str, tmp_path: Path) -> None:
    whole = Table(DIM, optimizer, hyper, SEED, 0.1)
    train(whole, batches())
    half = Table(DIM, optimizer, hyper, SEED, 0.1)
    train(half, batches()[: STEPS // 2])
    if how == "export":
        restored = Table(DIM, optimizer, hyper, SEED, 0.1)
        restored.import_rows(half.keys(), half.export_rows(half.keys()))
    else:
        half.save(str(tmp_path / "table"))
        restored = Table.load(str(tmp_path / "table"))
    for now, (keys, gradients) in list(enumerate(batches()))[STEPS // 2 :]:
        restored.apply(restored.find_or_insert(keys, now), gradients, RATE)
    # Those seen in both halves have the later time either way: the second half stamps with the same clock.
    keys = whole.keys()
    expected, actual = whole.export_rows(keys), restored.export_rows(keys)
    np.testing.assert_array_equal(actual[:, :-16], expected[:, :-16])
    np.testing.assert_array_equal(actual[:, -8:], expected[:, -8:])
    assert restored.update_count_sum == whole.update_count_sum == STEPS * 6


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


def test_ftrl_l1_makes_zeros_of_both_signs() -> None:
    """With the wrong sign of z, weights of one sign would grow instead of shrink."""
    keys = np.arange(2, dtype=np.uint64)
    gradient = np.array([[0.2], [-0.2]], np.float32)
    weights = {}
    for l1 in (0.0, 0.1, 1.0):
        table = Table(1, "ftrl", {"l1": l1}, 0, 0.0)
        handles = table.find_or_insert(keys, 0)
        table.apply(handles, gradient, RATE)
        weights[l1] = table.gather(handles)[:, 0]
    assert (weights[1.0] == 0).all()
    assert (np.abs(weights[0.1]) < np.abs(weights[0.0])).all()
    assert weights[0.1][0] == -weights[0.1][1] < 0


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
        ("adamw", {}, "unknown optimizer 'adamw'; allowed: adagrad, adam, ftrl, momentum"),
        ("sgd", {"momentum": 0.9}, "sgd has no hyper-parameter 'momentum'; allowed: none"),
        ("adam", {"beta3": 0.9}, "adam has no hyper-parameter 'beta3'; allowed: beta1, beta2, epsilon"),
        ("adam", {"beta1": 1.0}, r"beta1=1.000000 of optimizer adam must be in \[0, 1\)"),
        ("adagrad", {"epsilon": float("nan")}, "epsilon=nan of optimizer adagrad must be finite and >= 0"),
        ("adagrad", {"initial_accumulator": 0.0}, "divides by 0"),
        ("rowwise_adagrad", {"initial_accumulator": 0.0}, "divides by 0"),
        ("ftrl", {"initial_accumulator": 0.0, "beta": 0.0}, "divides by 0"),
        ("rmsprop", {"epsilon": 0.0}, "epsilon=0.000000 of optimizer rmsprop must be finite and > 0"),
    ],
)
def test_refused_settings(optimizer: str, hyper: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Table(4, optimizer, hyper, 0, 0.1)


@pytest.mark.parametrize(("optimizer", "rate"), [("sgd", -0.1), ("sgd", float("nan")), ("ftrl", 0.0)])
def test_refused_rates(optimizer: str, rate: float) -> None:
    table = Table(1, optimizer, {}, 0, 0.1)
    handles = table.find_or_insert(np.array([1], np.uint64), 0)
    with pytest.raises(ValueError, match="learning_rate"):
        table.apply(handles, np.ones((1, 1), np.float32), rate)
    assert table.update_count_sum == 0
