"""Wrong input is refused with the bad value, and harms nothing."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

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
        (lambda t: t.find(KEYS.astype(np.int32)), TypeError, r"keys must be uint64\[N\], got int32\[3\]"),
        (lambda t: t.find(KEYS.astype(np.int64)[::2]), ValueError, "keys must be contiguous"),
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
    assert table.expire_keys(nothing, 1) == 0


def test_a_batch_of_more_than_can_be_numbered_is_refused(tmp_path: Path) -> None:
    count = 2**31
    with (tmp_path / "holes").open("wb") as file:
        file.truncate(4 * count)
    handles, table = np.asarray(np.memmap(tmp_path / "holes", np.uint32, "r")), Table(0, "sgd", {}, 0, 0.0)
    with pytest.raises(ValueError, match="2147483648 handles are too many for one batch"):
        table.apply(handles, np.zeros((count, 0), np.float32), 0.1)
    with pytest.raises(ValueError, match="2147483648 handles are too many for one batch"):
        table.apply_pooled(handles, np.array([0, count]), np.zeros((1, 0), np.float32), 0.1)


def test_a_set_of_keys() -> None:
    table = Table(0, "sgd", {}, 0, 0.0)
    table.find_or_insert(KEYS, 5)
    assert table.row_bytes == 16
    assert table.lookup(KEYS)[0].shape == (3, 0)
    table.apply(table.find(KEYS), np.zeros((3, 0), np.float32), 0.1)
    copy = Table(0, "sgd", {}, 0, 0.0)
    copy.import_rows(KEYS, table.export_rows(KEYS))
    assert copy.update_count_sum == 3


ANY = np.array([0, -1, 1, -(2**63), 2**63 - 1, 2**32, -(2**32)], np.int64)


def test_int64_keys_are_the_same_64_bits() -> None:
    """In every method that takes keys."""
    signed, unsigned = Table(2, "sgd", {}, 0, 0.1), Table(2, "sgd", {}, 0, 0.1)
    same, count = ANY.view(np.uint64), len(ANY)
    assert signed.find_or_insert(ANY, 0).tolist() == unsigned.find_or_insert(same, 0).tolist()
    assert signed.keys().tolist() == sorted(same.tolist())
    offsets = np.array([0, 2, count])
    for table in (signed, unsigned):
        assert table.find(ANY).tolist() == table.find(same).tolist() == list(range(count))
        assert table.lookup(ANY)[1].all()
        np.testing.assert_array_equal(table.lookup_pooled(ANY, offsets), table.lookup_pooled(same, offsets))
        rows = table.export_rows(ANY)
        np.testing.assert_array_equal(rows, table.export_rows(same))
        table.import_rows(ANY, rows)
        table.import_values(ANY, np.ones((count, 2), np.float32))
        assert len(table) == count
    assert signed.erase(ANY[:3]) == 3
    assert signed.keys().tolist() == sorted(same[3:].tolist())
    with pytest.raises(ValueError, match=f"key {2**64 - 1} has no row"):
        signed.export_rows(ANY[1:2])


def test_results_go_where_the_caller_wants_them(table: Table) -> None:
    offsets, handles = np.array([0, 1, 3]), table.find(KEYS)
    calls: list[tuple[Callable[..., object], tuple[np.ndarray, ...], int]] = [
        (lambda *given, out=None: table.lookup(*given, out=out)[0], (KEYS,), 3),
        (table.gather, (handles,), 3),
        (table.lookup_pooled, (KEYS, offsets), 2),
        (table.gather_pooled, (handles, offsets), 2),
    ]
    for call, given, rows in calls:
        expected = call(*given)
        room = np.full((rows + 2, 4), 7, np.float32)
        out = room[1:-1]
        assert call(*given, out=out) is out
        np.testing.assert_array_equal(out, expected)
        assert (room[[0, -1]] == 7).all()
        tensor = torch.full((rows, 4), 7.0)
        assert call(*given, out=tensor) is tensor
        np.testing.assert_array_equal(tensor.numpy(), expected)


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        (np.zeros((3, 5), np.float32), ValueError, r"out must be float32\[3, 4\], got float32\[3, 5\]"),
        (np.zeros((2, 4), np.float32), ValueError, r"out must be float32\[3, 4\]"),
        (np.zeros((3, 4)), TypeError, "out must be float32"),
        (np.zeros(12, np.float32), TypeError, r"out must be float32\[N, width\], got float32\[12\]"),
        (np.zeros((4, 3), np.float32).T, ValueError, "out must be C-contiguous"),
        (np.broadcast_to(np.zeros(4, np.float32), (3, 4)), ValueError, "out"),
        (np.frombuffer(bytes(48), np.float32).reshape(3, 4), ValueError, "out is read-only"),
    ],
)
def test_refused_places_for_results(table: Table, out: np.ndarray, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        table.lookup(KEYS, out=out)
    with pytest.raises(error, match=message):
        table.gather(table.find(KEYS), out=out)
    assert (out == 0).all()


def test_the_extremes_of_width() -> None:
    for dim in (1, 15, 16, 17, 63, 64, 65, 8192):
        table = Table(dim, "adam", {}, 0, 0.1)
        keys = np.arange(200, dtype=np.uint64) - np.uint64(100)  # and beyond slices of some wide rows
        handles = table.find_or_insert(keys, 0)
        before = table.gather(handles)
        table.apply(handles, np.ones((200, dim), np.float32), 0.1)
        after, found = table.lookup(keys)
        assert found.all()
        np.testing.assert_allclose(before - after, 0.1, rtol=1e-3)
        assert table.lookup(keys + np.uint64(200))[0].any() == np.False_
        table.check()
