"""What must hold for every optimizer, and the errors of other systems that must not come back here."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from monobeam.native import Table
from tests.native.optimizers import OPTIMIZERS

RATE = 0.1
FTRL = {"ftrl", "group_ftrl"}
DIVIDED = sorted(OPTIMIZERS.keys() - FTRL)  # optimizers that move a weight by something from where it is

Floats = npt.NDArray[np.float32]


def keys(count: int) -> npt.NDArray[np.uint64]:
    return np.arange(count, dtype=np.uint64)


def some(*shape: int, seed: int = 1) -> Floats:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def stepped(table: Table, gradients: Floats, rate: float = RATE) -> Floats:
    """One step of the first rows; their weights."""
    handles = table.find_or_insert(keys(len(gradients)), 0)
    table.apply(handles, gradients, rate)
    return np.asarray(table.gather(handles))


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_rows_outside_the_batch_do_not_decay(optimizer: str) -> None:
    """L2 is lazy: however many batches a row was not in, it decays once when it is in one again."""
    hyper = {"weight_decay": 0.5}
    table, other = Table(4, optimizer, hyper, 0, 0.1), Table(4, optimizer, hyper, 0, 0.1)
    for each in (table, other):
        stepped(each, some(3, 4))
    before = table.export_rows(keys(3))
    for seed in range(20):
        stepped(table, some(1, 4, seed=seed))
    np.testing.assert_array_equal(table.export_rows(keys(3))[1:], before[1:])
    np.testing.assert_array_equal(stepped(table, some(3, 4))[1:], stepped(other, some(3, 4))[1:])


@pytest.mark.parametrize("dim", [1, 7, 8, 9, 16, 17, 33])
@pytest.mark.parametrize("optimizer", DIVIDED)
def test_weight_decay_moves_every_component(optimizer: str, dim: int) -> None:
    """An Adagrad of Monolith forgot it in its vectors of eight, and was tested with weights of 0."""
    table = Table(dim, optimizer, {"weight_decay": 0.5}, 0, 1.0)
    before = table.gather(table.find_or_insert(keys(4), 0))
    after = stepped(table, np.zeros((4, dim), np.float32))
    assert (np.sign(before - after) == np.sign(before)).all()
    assert (before != 0).all()


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_imported_values_begin_with_the_optimizers_first_state(optimizer: str) -> None:
    """With zeros in its place, Adagrad would divide 0 by 0 at the first component without a gradient."""
    values, gradients = some(3, 4, seed=7), some(3, 4)
    gradients[0], gradients[1, ::2] = 0, 0
    trained, fresh = Table(4, optimizer, {}, 0, 0.1), Table(4, optimizer, {}, 1, 0.1)
    for _ in range(5):
        stepped(trained, some(3, 4))
    for table in (trained, fresh):
        table.import_values(keys(3), values)
        np.testing.assert_array_equal(table.lookup(keys(3))[0], values)
    np.testing.assert_array_equal(trained.export_rows(keys(3))[:, :-16], fresh.export_rows(keys(3))[:, :-16])
    for _ in range(3):
        moved = stepped(trained, gradients)
        assert np.isfinite(moved).all()
        np.testing.assert_array_equal(moved, stepped(fresh, gradients))


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "amsgrad"])
@pytest.mark.parametrize("steps", [1, 1000])
def test_adam_goes_on_with_its_own_bias_correction(optimizer: str, steps: int, tmp_path: Path) -> None:
    """Monolith's restored both powers of beta from one: steps ten times too short, or seven times too long."""
    table = Table(4, optimizer, {}, 0, 0.1)
    for _ in range(steps):
        stepped(table, some(2, 4))
    table.save(str(tmp_path / "table"))
    exported = Table(4, optimizer, {}, 0, 0.1)
    exported.import_rows(table.keys(), table.export_rows(table.keys()))
    expected = stepped(table, some(2, 4))
    for restored in (exported, Table.load(str(tmp_path / "table"))):
        np.testing.assert_array_equal(stepped(restored, some(2, 4)), expected)


@pytest.mark.parametrize("optimizer", DIVIDED)
def test_the_learning_rate_of_the_moment_is_the_one_in_force(optimizer: str) -> None:
    """Monolith's RMSProp has one of its own. From equal states, moves are in proportion to the rate."""
    moves = []
    for rate in (RATE, RATE / 4, 0.0):
        table = Table(9, optimizer, {}, 0, 0.1)
        for seed in range(3):
            before = stepped(table, some(2, 9, seed=seed))
        moves.append(stepped(table, some(2, 9), rate) - before)
    np.testing.assert_allclose(moves[0], 4 * moves[1], rtol=1e-3, atol=1e-6)
    assert (moves[0] != 0).all()
    assert (moves[2] == 0).all()


@pytest.mark.parametrize("optimizer", sorted(FTRL))
def test_ftrl_without_penalties_is_adagrad_at_every_learning_rate(optimizer: str) -> None:
    """With 1/rate of today in all that was, as in Monolith and TensorFlow, half a rate would halve all weights."""
    table = Table(5, optimizer, {"beta": 0.5, "initial_accumulator": 0.2}, 0, 0.0)
    w, n = np.zeros((3, 5)), np.full((3, 5), 0.2)
    for step, rate in enumerate((0.1, 0.2, 0.2, 0.05, 0.1, 0.001)):
        gradients = some(3, 5, seed=step)
        n += gradients.astype(np.float64) ** 2
        w -= rate * gradients / (0.5 + np.sqrt(n))
        np.testing.assert_allclose(stepped(table, gradients, rate), w, rtol=1e-4, atol=1e-6)


def test_ftrl_l1_makes_zeros_of_both_signs() -> None:
    """With the sign bit of z in place of its sign, as in Monolith, weights of one sign would grow instead of shrink."""
    gradient = np.array([[0.2], [-0.2]], np.float32)
    weights = {l1: stepped(Table(1, "ftrl", {"l1": l1}, 0, 0.0), gradient)[:, 0] for l1 in (0.0, 0.1, 1.0)}
    assert (weights[1.0] == 0).all()
    assert (np.abs(weights[0.1]) < np.abs(weights[0.0])).all()
    assert weights[0.1][0] == -weights[0.1][1] < 0


@pytest.mark.parametrize("optimizer", sorted(FTRL))
def test_more_l2_is_less_weight(optimizer: str) -> None:
    """Monolith's group FTRL has -l2 in the denominator."""
    norms = [np.linalg.norm(stepped(Table(8, optimizer, {"l2": l2}, 0, 0.0), some(1, 8))) for l2 in (0, 1, 10, 100)]
    assert norms == sorted(norms, reverse=True)
    assert norms[3] < norms[0] / 2


def test_group_lasso_makes_whole_rows_zero_and_lets_them_return() -> None:
    table = Table(4, "group_ftrl", {"l21": 0.05}, 0, 0.0)
    weak, strong = 0.02 * some(1, 4), some(1, 4)
    weights = stepped(table, np.concatenate([weak, strong]))
    assert (weights[0] == 0).all()
    assert (weights[1] != 0).all()
    for _ in range(100):
        weights = stepped(table, np.concatenate([weak, strong]))
    assert (weights[0] != 0).all()


def test_group_ftrl_without_group_penalty_is_ftrl() -> None:
    hyper = {"l1": 0.1, "l2": 0.3, "beta": 0.5}
    one, other = Table(9, "ftrl", hyper, 0, 0.1), Table(9, "group_ftrl", hyper, 0, 0.1)
    for seed in range(10):
        gradients = some(3, 9, seed=seed)
        np.testing.assert_array_equal(stepped(one, gradients), stepped(other, gradients))


class Loss(NamedTuple):
    """Of weights x [..., dim]: linear x + x A x + l1 |x| + l21 sqrt(dim) ||A^(1/2) x||."""

    linear: Any
    a: Any
    l1: float
    l21: float

    def __call__(self, x: Any) -> Any:
        square = self.a * x * x
        group = np.sqrt(x.shape[-1] * square.sum(-1))
        return (self.linear * x + square + self.l1 * np.abs(x)).sum(-1) + self.l21 * group


@pytest.mark.parametrize(
    "hyper", [{"l21": 0.05}, {"l21": 0.02, "l2": 0.4}, {"l21": 0.05, "l1": 0.05, "l2": 0.1, "beta": 0.2}], ids=str
)
def test_no_weights_are_better_than_those_of_group_ftrl(hyper: dict[str, float]) -> None:
    """The definition: w is where what FTRL minimises (Yue et al. 2021, equation 3) is least."""
    dim, rng = 6, np.random.default_rng(4)
    beta, l1, l2, l21 = (hyper.get(key, default) for key, default in (("beta", 1.0), ("l1", 0), ("l2", 0), ("l21", 0)))
    table = Table(dim, "group_ftrl", hyper, 0, 0.0)
    linear, n, w = np.zeros(dim), np.full(dim, 0.1), np.zeros(dim)
    quadratic = (beta + np.sqrt(n)) / RATE
    kinds = set()
    for step in range(30):
        rate = RATE / (1 + step % 3)
        gradient = 0.1 * some(1, dim, seed=step)
        n += gradient[0].astype(np.float64) ** 2
        grown = (beta + np.sqrt(n)) / rate - quadratic
        linear += gradient[0] - grown * w  # of grown / 2 (x - w)^2
        quadratic += grown
        loss = Loss(linear.copy(), (quadratic + l2) / 2, l1, l21)
        w = stepped(table, gradient, rate)[0].astype(np.float64)
        kinds.add(bool(w.any()))
        for scale in (1e-1, 1e-2, 1e-3):
            tried = w + scale * rng.normal(size=(200, dim)) * rng.integers(0, 2, (200, dim))
            assert (loss(tried) >= loss(w) - 1e-7).all()
        assert loss(np.zeros(dim)) >= loss(w) - 1e-7
    assert kinds == {False, True}


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_the_sum_of_a_rows_gradients_is_clipped(optimizer: str) -> None:
    """To a norm of 1: of its occurrences together, and only of the row whose sum is longer."""
    clipping, plain = Table(2, optimizer, {"clip_norm": 1.0}, 0, 0.1), Table(2, optimizer, {}, 0, 0.1)
    handles = clipping.find_or_insert(np.array([0, 1, 0], np.uint64), 0)
    clipping.apply(handles, np.array([[1, 0], [0.5, 0.5], [2, 4]], np.float32), RATE)
    expected = stepped(plain, np.array([[3 * np.float32(1 / 5), 4 * np.float32(1 / 5)], [0.5, 0.5]], np.float32))
    np.testing.assert_array_equal(clipping.gather(handles)[:2], expected)


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_components_are_clipped_first_and_weights_decay_last(optimizer: str) -> None:
    clipping = Table(3, optimizer, {"clip_value": 2.0, "clip_norm": 2.0, "weight_decay": 0.5}, 0, 1.0)
    plain = Table(3, optimizer, {"weight_decay": 0.5}, 0, 1.0)
    clipped = np.array([[2, -2, 1]], np.float32) * np.float32(2 / 3)
    np.testing.assert_array_equal(stepped(clipping, np.array([[9, -4, 1]], np.float32)), stepped(plain, clipped))


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_what_is_off_changes_nothing(optimizer: str) -> None:
    off = {"clip_value": 0.0, "clip_norm": 0.0} | ({} if optimizer == "adamw" else {"weight_decay": 0.0})
    one, other = Table(9, optimizer, off, 0, 0.1), Table(9, optimizer, {}, 0, 0.1)
    high = Table(9, optimizer, {"clip_value": 1e6, "clip_norm": 1e6}, 0, 0.1)
    for seed in range(5):
        gradients = some(3, 9, seed=seed)
        expected = stepped(other, gradients)
        np.testing.assert_array_equal(stepped(one, gradients), expected)
        np.testing.assert_array_equal(stepped(high, gradients), expected)


@pytest.mark.parametrize("size", [1e-30, 1e19, 1e38])
def test_a_gradient_of_any_size_is_clipped_to_its_norm(size: float) -> None:
    """In float32 the sum of the squares would be infinite, and the gradient clipped to 0; or 0, and not clipped."""
    table = Table(4, "sgd", {"clip_norm": size / 10}, 0, 0.0)
    weights = stepped(table, np.array([[size, size, -size, size]], np.float32), 1.0)
    np.testing.assert_allclose(weights, np.array([[-1, -1, 1, -1]]) * size / 20, rtol=1e-6)


def test_an_infinite_gradient_is_clipped_by_value_and_shows_when_clipped_by_norm() -> None:
    gradients = np.array([[np.inf, 1.0], [-np.inf, 1.0]], np.float32)
    by_value = stepped(Table(2, "sgd", {"clip_value": 2.0}, 0, 0.0), gradients, 1.0)
    np.testing.assert_array_equal(by_value, [[-2, -1], [2, -1]])
    by_norm = stepped(Table(2, "sgd", {"clip_norm": 2.0}, 0, 0.0), gradients, 1.0)
    assert np.isnan(by_norm[:, 0]).all()
    assert (by_norm[:, 1] == 0).all()


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
@pytest.mark.parametrize("hyper", [{"clip_value": 1.0}, {"clip_norm": 1.0}], ids=str)
def test_clipping_hides_no_gradient_that_is_not_a_number(optimizer: str, hyper: dict[str, float]) -> None:
    gradients = np.array([[np.nan, 1.0], [1.0, 1.0]], np.float32)
    weights = stepped(Table(2, optimizer, hyper, 0, 0.1), gradients)
    assert np.isnan(weights[0, 0])
    assert np.isfinite(weights[1]).all()
