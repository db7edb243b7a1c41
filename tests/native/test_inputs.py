"""Wrong input is refused with the bad value, and harms nothing."""

from collections.abc import Callable

import numpy as np
import pytest

from monobeam.native import NONE, Table

KEYS = np.array([1, 2, 3], np.uint64)
HANDLES = np.array([0, 1, NONE], np.uint32)
OFFSETS = np.array([0, 1, 3])
GRADIENTS = np.ones((2, 4), np.float32)


@pytest.fixture
def table() -> Table:
    result = Table(4, "adagrad", {}, 0, 0.1)
    result.apply(result.find_or_insert(KEYS, 9), np.ones((3, 4), np.float32), 0.1)
    return result


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda t: t.find(KEYS.astype(np.int64)), TypeError, r"keys must be uint64\[N\], got int64\[3\]"),
        (lambda t: t.find(KEYS.astype(np.float64)), TypeError, r"got float64\[3\]"),
        (lambda t: t.find(KEYS.reshape(1, 3)), TypeError, r"got uint64\[1, 3\]"),
        (lambda t: t.find(KEYS[::2]), ValueError, "keys must be contiguous"),
        (lambda t: t.find([1, 2]), TypeError, "incompatible function arguments"),
        (lambda t: t.find_or_insert(KEYS, -1), ValueError, "now=-1"),
        (lambda t: t.find_or_insert(KEYS, 1.5), TypeError, "incompatible function arguments"),
        (lambda t: t.gather(KEYS), TypeError, r"handles must be uint32\[N\]"),
        (lambda t: t.gather(np.array([10**6], np.uint32)), ValueError, "handle 1000000 was never given out"),
        (lambda t: t.gather_pooled(HANDLES, np.array([0, 2])), ValueError, "last offset must be .* 3, got 2"),
        (lambda t: t.gather_pooled(HANDLES, np.array([1, 3])), ValueError, r"offsets\[0\] must be 0, got 1"),
        (lambda t: t.gather_pooled(HANDLES, np.array([0, 2, 1, 3])), ValueError, r"offsets\[1\] = 2 is followed by 1"),
        (lambda t: t.gather_pooled(HANDLES, np.array([], np.int64)), ValueError, "at least one element"),
        (lambda t: t.gather_pooled(HANDLES, np.array([0, 3], np.int32)), TypeError, r"offsets must be int64"),
        (lambda t: t.lookup_pooled(KEYS, np.array([0, 9])), ValueError, "last offset"),
        (
            lambda t: t.apply_pooled(HANDLES, OFFSETS, GRADIENTS[:1], 0.1),
            ValueError,
            r"float32\[2, 4\], got float32\[1, 4\]",
        ),
        (lambda t: t.apply_pooled(HANDLES, OFFSETS, GRADIENTS[:, :3].copy(), 0.1), ValueError, r"got float32\[2, 3\]"),
        (lambda t: t.apply_pooled(HANDLES, OFFSETS, GRADIENTS.astype(float), 0.1), TypeError, "got float64"),
        (lambda t: t.apply_pooled(HANDLES, OFFSETS, np.asfortranarray(GRADIENTS), 0.1), ValueError, "C-contiguous"),
        (lambda t: t.apply(np.array([0, 999_999_999], np.uint32), GRADIENTS, 0.1), ValueError, "handle 999999999"),
        (lambda t: t.export_rows(np.array([1, 77], np.uint64)), ValueError, "key 77 has no row to export"),
        (lambda t: t.import_rows(KEYS, np.zeros((3, 7), np.uint8)), ValueError, r"uint8\[3, 48\], got uint8\[3, 7\]"),
        (lambda t: t.import_rows(KEYS, np.full((3, 48), 1, np.uint8)), ValueError, "row of key 1 is not a row"),
        (lambda t: t.import_values(KEYS, GRADIENTS), ValueError, r"values must be float32\[3, 4\]"),
        (lambda t: t.expire(0, -1), ValueError, "budget -1"),
    ],
)
def test_refused_calls(table: Table, call: Callable[[Table], object], error: type[Exception], message: str) -> None:
    before = table.export_rows(KEYS).tobytes()
    with pytest.raises(error, match=message):
        call(table)
    assert table.export_rows(KEYS).tobytes() == before
    assert len(table) == 3
    table.check()


@pytest.mark.parametrize(
    ("dim", "scale", "message"),
    [
        (-1, 0.1, "dim -1"),
        (10_000, 0.1, "dim 10000 must be at most 8192"),
        (4, -1.0, "init_scale -1"),
        (4, float("inf"), "init_scale inf"),
    ],
)
def test_refused_tables(dim: int, scale: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Table(dim, "sgd", {}, 0, scale)


def test_read_only_input_and_fresh_output(table: Table) -> None:
    keys = KEYS.copy()
    keys.flags.writeable = False
    rows = table.lookup(keys)[0]
    rows[:] = 7
    assert (table.lookup(keys)[0] != 7).all()


def test_empty_calls(table: Table) -> None:
    nothing = np.array([], np.uint64)
    assert table.find_or_insert(nothing, 0).shape == (0,)
    assert table.lookup(nothing)[0].shape == (0, 4)
    assert table.lookup_pooled(nothing, np.array([0])).shape == (0, 4)
    assert table.lookup_pooled(nothing, np.array([0, 0, 0])).tolist() == [[0.0] * 4] * 2
    assert table.export_rows(nothing).shape == (0, 48)
    table.import_rows(nothing, np.zeros((0, 48), np.uint8))
    table.apply(table.find(nothing), np.zeros((0, 4), np.float32), 0.1)
    assert table.erase(nothing) == 0


def test_a_set_of_keys() -> None:
    table = Table(0, "sgd", {}, 0, 0.0)
    table.find_or_insert(KEYS, 5)
    assert table.row_bytes == 16
    assert table.lookup(KEYS)[0].shape == (3, 0)
    table.apply(table.find(KEYS), np.zeros((3, 0), np.float32), 0.1)
    copy = Table(0, "sgd", {}, 0, 0.0)
    copy.import_rows(KEYS, table.export_rows(KEYS))
    assert copy.update_count_sum == 3
