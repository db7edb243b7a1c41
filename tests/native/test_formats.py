"""Rows in fp16 and bf16 learn with stochastic rounding; rows in int8 serve."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from monobeam.native import Table
from tests.native.formats import int8, nearest, neighbours, stochastic
from tests.native.optimizers import OPTIMIZERS

Floats = npt.NDArray[np.float32]
HALVES = np.arange(1 << 16, dtype=np.uint16)
learning = pytest.mark.parametrize("row_format", ["fp16", "bf16"])


def stored(values: Floats, row_format: str) -> Floats:
    """What is read after float32[n, dim] was imported."""
    table = Table(values.shape[1], "sgd", {}, 0, 0.0, row_format=row_format)
    keys = np.arange(len(values), dtype=np.uint64)
    table.import_values(keys, values)
    table.check()
    return table.lookup(keys)[0]


def stepped_to(values: Floats, row_format: str, seed: int) -> Floats:
    """What is read after one update took rows of zeros to float32[n, dim]."""
    table = Table(values.shape[1], "sgd", {}, seed, 0.0, row_format=row_format)
    handles = table.find_or_insert(np.arange(len(values), dtype=np.uint64), 0)
    table.apply(handles, -values, 1.0)
    return table.gather(handles)


def of_bits(bits: npt.NDArray[np.uint32]) -> Floats:
    return bits.astype(np.uint32).view(np.float32)


def every_value(row_format: str) -> Floats:
    if row_format == "fp16":
        return HALVES.view(np.float16).astype(np.float32)
    return of_bits(HALVES.astype(np.uint32) << np.uint32(16))


@learning
@pytest.mark.parametrize("how", ["nearest", "stochastic"])
def test_every_value_of_a_format_comes_back(row_format: str, how: str) -> None:
    values = every_value(row_format)
    limit = np.float32(65504) if row_format == "fp16" else np.float32(np.inf)
    expected = values.clip(-limit, limit).reshape(-1, 256)
    given = values.reshape(-1, 256)
    if how == "nearest":
        rows = stored(given, row_format)
    else:
        rows = stepped_to(given, row_format, 3)
    assert (np.isnan(rows) == np.isnan(expected)).all()
    np.testing.assert_array_equal(rows, expected)


def near_and_between(values: Floats) -> Floats:
    """The numbers, what lies half-way to the next, and the float32s beside all of them."""
    finite = np.unique(values[np.isfinite(values)])
    middles = (finite[:-1].astype(np.float64) + finite[1:].astype(np.float64)) / 2
    points = np.concatenate([finite, middles.astype(np.float32)])
    up, down = np.nextafter(points, np.float32(np.inf)), np.nextafter(points, np.float32(-np.inf))
    return np.concatenate([points, up, down])


def as_rows(values: Floats, dim: int = 64) -> Floats:
    return np.resize(values, (-(-len(values) // dim), dim))


def test_nearest_halves_are_those_of_numpy() -> None:
    rng = np.random.default_rng(1)
    anything = of_bits(rng.integers(0, 2**32, 300_000, dtype=np.uint32))
    edges = np.array([65504, 65519.996, 65520, 1e30, np.inf, -np.inf, -70000, 0.0, -0.0, 2**-25, 2**-24], np.float32)
    values = as_rows(np.concatenate([anything, near_and_between(every_value("fp16")), edges]))
    rows, expected = stored(values, "fp16"), nearest("fp16", values)
    np.testing.assert_array_equal(rows, expected)
    numbers = ~np.isnan(values)
    assert (np.signbit(rows) == np.signbit(values))[numbers].all()


def test_nearest_bfloats_are_the_nearer_neighbours() -> None:
    rng = np.random.default_rng(1)
    anything = of_bits(rng.integers(0, 2**32, 20_000, dtype=np.uint32))
    some = of_bits(rng.integers(0, 2**16, 2_000, dtype=np.uint32) << np.uint32(16))
    edges = np.array([3.4e38, -3.4e38, np.inf, -np.inf, 1e-45, -1e-40, 0.0, -0.0], np.float32)
    values = as_rows(np.concatenate([anything, near_and_between(some)[::3], edges]))
    np.testing.assert_array_equal(stored(values, "bf16"), nearest("bf16", values))


@learning
def test_draws_are_those_of_the_twin(row_format: str) -> None:
    """Of every exponent, so that halves below 2**-14 and numbers beyond the largest are among them."""
    rng = np.random.default_rng(4)
    exponents = rng.integers(-30, 20, (300, 8)) if row_format == "fp16" else rng.integers(-140, 127, (300, 8))
    values = np.ldexp(rng.uniform(-1, 1, (300, 8)), exponents).astype(np.float32)
    expected = [stochastic(row_format, row, 1, 77) for row in values]
    np.testing.assert_array_equal(stepped_to(values, row_format, 77), expected)


@learning
@pytest.mark.parametrize("value", [1.001, -0.3, 1000.3, 3.1e-5, 1.7e-6, 1e-8, 2.0**-25, -(2.0**-15 + 2.0**-26)])
def test_the_mean_of_many_roundings_is_the_value(row_format: str, value: float) -> None:
    """Of n draws between neighbours a gap apart, the mean is within five standard errors."""
    values = np.full((1, 8192), value, np.float32)
    drawn = np.concatenate([stepped_to(values, row_format, seed) for seed in range(8)]).astype(np.float64)
    low, high = (float(number) for number in neighbours(row_format, np.float32(value)))
    assert set(np.unique(drawn)) <= {low, high}
    part = (float(values[0, 0]) - low) / (high - low) if high != low else 0.0
    error = abs(high - low) * np.sqrt(part * (1 - part) / drawn.size)
    assert abs(drawn.mean() - float(values[0, 0])) <= 5 * error


@learning
def test_steps_too_small_for_the_format_are_not_lost(row_format: str) -> None:
    """From 1, a thousand steps of a thousandth of the gap to the next number: to the nearest, none would move it."""
    dim, steps = 512, 1000
    gap = 2.0**-10 if row_format == "fp16" else 2.0**-7
    table, key = Table(dim, "sgd", {}, 5, 0.0, row_format=row_format), np.array([9], np.uint64)
    table.import_values(key, np.ones((1, dim), np.float32))
    handle, gradient = table.find(key), np.full((1, dim), -gap / 1000, np.float32)
    assert (stored(np.ones((1, dim), np.float32) - gradient, row_format) == 1).all()
    for _ in range(steps):
        table.apply(handle, gradient, 1.0)
    assert abs(table.gather(handle).mean() - (1 + gap)) < 5 * gap / np.sqrt(dim)


def test_rows_of_equal_numbers_do_not_round_alike_from_step_to_step() -> None:
    table = Table(4, "sgd", {}, 1, 0.0, row_format="bf16")
    handle = table.find_or_insert(np.array([1], np.uint64), 0)
    seen = set()
    for _ in range(40):
        table.import_values(np.array([1], np.uint64), np.ones((1, 4), np.float32))
        table.apply(handle, np.full((1, 4), -(2.0**-8), np.float32), 1.0)
        seen.add(tuple(table.gather(handle)[0].tolist()))
    assert len(seen) > 8


@learning
@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_optimizers_learn_as_in_fp32(optimizer: str, row_format: str, tmp_path: Path) -> None:
    """Near the run in fp32; the same bits again, and after a restart in mid-course of either kind."""
    rng = np.random.default_rng(6)
    dim, steps = 16, 60
    keys = np.arange(40, dtype=np.uint64)
    target = rng.normal(size=(40, dim)).astype(np.float32)

    def made(row_format: str) -> Table:
        return Table(dim, optimizer, {}, 3, 0.1, row_format=row_format)

    def train(table: Table, first: int, end: int) -> Table:
        for now in range(first, end):
            handles = table.find_or_insert(keys, now)
            table.apply(handles, table.gather(handles) - target, 0.05)
        return table

    whole = train(made(row_format), 0, steps)
    exact = train(made("fp32"), 0, steps)
    assert np.abs(whole.lookup(keys)[0] - exact.lookup(keys)[0]).mean() < 0.02
    half = train(made(row_format), 0, steps // 2)
    half.save(str(tmp_path / "half"))
    imported = made(row_format)
    imported.import_rows(keys, half.export_rows(keys))
    for restored in (Table.load(str(tmp_path / "half")), imported, half):
        rows = train(restored, steps // 2, steps).export_rows(keys)
        np.testing.assert_array_equal(rows, whole.export_rows(keys))


@pytest.mark.parametrize("dim", [1, 3, 64])
def test_int8_errs_by_half_a_step(dim: int) -> None:
    rng = np.random.default_rng(2)
    scales = np.ldexp(1.0, rng.integers(-60, 60, (500, 1)))
    values = (rng.normal(size=(500, dim)) * scales).astype(np.float32)
    rows = stored(values, "int8")
    most = np.abs(values).max(axis=1, keepdims=True).astype(np.float64)
    assert (np.abs(rows.astype(np.float64) - values) <= most / 127 / 2 * (1 + 1e-5)).all()
    np.testing.assert_array_equal(rows, int8(values))
    np.testing.assert_allclose(stored(rows, "int8"), rows, rtol=1e-6, atol=0)


def test_int8_of_odd_rows() -> None:
    values = np.array([[0, 0, 0], [1, np.inf, 2], [np.nan, 1, 1], [3e38, -3e38, 1], [1e-45, 0, -1e-45]], np.float32)
    rows = stored(values, "int8")
    assert rows[0].tolist() == [0, 0, 0]
    assert np.isnan(rows[1:3]).all()
    np.testing.assert_allclose(rows[3], values[3], rtol=1e-6, atol=3e38 / 250)
    assert np.abs(rows[4]).max() <= 1e-44


def test_int8_does_not_learn() -> None:
    table = Table(4, "adagrad", {}, 0, 0.1, row_format="int8")
    handles = table.find_or_insert(np.array([1, 2], np.uint64), 0)
    before = table.gather(handles)
    with pytest.raises(ValueError, match="rows in int8 are for serving and cannot learn; train in fp32, fp16 or bf16"):
        table.apply(handles, np.ones((2, 4), np.float32), 0.1)
    np.testing.assert_array_equal(table.gather(handles), before)
    assert table.update_count_sum == 0


@pytest.mark.parametrize(("row_format", "share"), [("fp16", 0.5), ("bf16", 0.5), ("int8", 0.26)])
def test_shorter_rows_take_less_memory_and_pool_and_save_alike(row_format: str, share: float, tmp_path: Path) -> None:
    dim, keys = 129, np.arange(50_000, dtype=np.uint64)  # an odd number: rows are padded
    tables = [Table(dim, "sgd", {}, 0, 0.1, row_format=name) for name in ("fp32", row_format)]
    for table in tables:
        table.find_or_insert(keys, 0)
    index = 64 * tables[0].stats()["buckets"]
    assert tables[1].memory_bytes - index < (share + 0.06) * (tables[0].memory_bytes - index)
    table, rows = tables[1], tables[1].lookup(keys)[0]
    assert table.row_format == row_format
    offsets = np.array([0, 3, 3, 50_000])
    pooled = table.lookup_pooled(keys, offsets)
    np.testing.assert_array_equal(pooled[0], rows[0] + rows[1] + rows[2])
    np.testing.assert_array_equal(pooled, table.gather_pooled(table.find(keys), offsets))
    table.save(str(tmp_path / "table"))
    loaded = Table.load(str(tmp_path / "table"))
    assert loaded.row_format == row_format
    np.testing.assert_array_equal(loaded.export_rows(keys), table.export_rows(keys))


def test_an_unknown_format_is_named() -> None:
    with pytest.raises(ValueError, match="unknown row format 'fp8'; allowed: fp32, fp16, bf16, int8"):
        Table(4, "sgd", {}, 0, 0.1, row_format="fp8")
