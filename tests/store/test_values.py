"""The small values that the store is made of: specifications, bags, changes, dense arrays."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from monobeam.store import dense
from monobeam.store.bags import Bags, pool, prefix_of, shard_of
from monobeam.store.changes import Change, merge, values_of
from monobeam.store.spec import SlotPolicy, SpecError, StoreSpec, TableSpec

TABLE = TableSpec("t", 2, "sgd", 0.1)
MASK = 2**64 - 1


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: replace(TABLE, dim=0), "dim = 0: must be at least 1"),
        (lambda: replace(TABLE, name=""), "name '': must not be empty"),
        (lambda: replace(TABLE, policies={32768: SlotPolicy()}), "slot 32768: slots are 0..32767"),
        (lambda: StoreSpec("m", ()), r"tables \[\]"),
        (lambda: StoreSpec("m", (TABLE, TABLE)), "names must differ"),
        (lambda: StoreSpec("m", (TABLE,), shards=0), "shards = 0: must be 1..65536"),
        (lambda: StoreSpec("m", (TABLE,), sync_dtype="fp8"), "sync_dtype = 'fp8': must be one of"),
        (lambda: StoreSpec("m", (TABLE,), example_retention_us=5), "example_retention_us = 5"),
    ],
)
def test_specifications_that_cannot_be(make, said: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SpecError, match=said):
        make()


def test_bags_that_cannot_be() -> None:
    with pytest.raises(TypeError, match="keys int64"):
        Bags(np.zeros(1, np.int64), np.array([0, 1]))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must go from 0 to 1"):
        Bags(np.zeros(1, np.uint64), np.array([0, 2]))


def test_shards_are_ranges_of_splitmix64() -> None:
    keys = np.array([0, 1, 2, 2**63, MASK, 123456789], np.uint64)
    prefixes = [_splitmix64(int(key)) >> 48 for key in keys]
    assert prefix_of(keys).tolist() == shard_of(keys, 65536).tolist() == prefixes
    assert shard_of(keys, 7).tolist() == [prefix * 7 // 65536 for prefix in prefixes]


def _splitmix64(x: int) -> int:
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
    return x ^ (x >> 31)


def test_shards_are_even() -> None:
    keys = np.arange(100_000, dtype=np.uint64) | np.uint64(3 << 48)
    counts = np.bincount(shard_of(keys, 16).astype(np.int64), minlength=16)
    assert abs(counts - 100_000 / 16).max() < 5 * (100_000 / 16) ** 0.5


@given(lengths=st.lists(st.integers(0, 40), max_size=12), dim=st.integers(1, 5), seed=st.integers(0, 99))
def test_pooling_adds_in_order(lengths: list[int], dim: int, seed: int) -> None:
    offsets = np.cumsum([0, *lengths], dtype=np.int64)
    rows = np.random.default_rng(seed).normal(size=(offsets[-1], dim)).astype(np.float32)
    expected = np.zeros((len(lengths), dim), np.float32)
    for bag, (start, end) in enumerate(itertools.pairwise(offsets)):
        for row in rows[start:end]:
            expected[bag] += row
    np.testing.assert_array_equal(pool(rows, offsets), expected)


@given(lengths=st.lists(st.integers(0, 6), max_size=12), shards=st.integers(1, 4))
def test_parts_of_bags_are_bags(lengths: list[int], shards: int) -> None:
    offsets = np.cumsum([0, *lengths], dtype=np.int64)
    bags = Bags(np.arange(offsets[-1]).astype(np.uint64), offsets)
    owners = shard_of(bags.keys, shards)
    for shard in range(shards):
        part = bags.at(np.flatnonzero(owners == shard))
        assert len(part) == len(bags)
        for bag in range(len(bags)):
            whole = bags.keys[offsets[bag] : offsets[bag + 1]]
            mine = part.keys[part.offsets[bag] : part.offsets[bag + 1]]
            assert mine.tolist() == whole[shard_of(whole, shards) == shard].tolist()


keys = st.lists(st.integers(0, 8), unique=True, max_size=6)


@given(history=st.lists(st.tuples(keys, keys), min_size=1, max_size=6))
def test_merged_changes_do_what_they_do_one_by_one(history: list[tuple[list[int], list[int]]]) -> None:
    changes, rows, gone = [], {}, set()
    for number, (written, deleted) in enumerate(history):
        deleted = [key for key in deleted if key not in written]
        values = np.full((len(written), 3), number, np.uint8)
        changes.append(Change(np.array(written, np.uint64), values, np.array(deleted, np.uint64)))
        rows |= dict.fromkeys(written, number)
        rows = {key: value for key, value in rows.items() if key not in deleted}
        gone = (gone | set(deleted)) - set(written)
    merged = merge(changes)
    assert dict(zip(merged.keys.tolist(), merged.rows[:, 0].tolist(), strict=True)) == rows
    assert merged.keys.tolist() == sorted(rows)
    assert merged.deletes.tolist() == sorted(gone)


def test_rows_must_belong_to_keys() -> None:
    with pytest.raises(ValueError, match=r"rows \(1, 4\) for 2 keys"):
        Change(np.zeros(2, np.uint64), np.zeros((1, 4), np.uint8), np.zeros(0, np.uint64))


def test_values_are_the_front_of_rows() -> None:
    rows = np.zeros((3, 40), np.uint8)
    embeddings = np.arange(6, dtype="<f4").reshape(3, 2)
    rows[:, :8] = embeddings.view(np.uint8)
    np.testing.assert_array_equal(values_of(rows, 2), embeddings)
    assert np.shares_memory(values_of(rows, 2), rows)


arrays = hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))


@given(weights=st.dictionaries(st.text(max_size=5), arrays, max_size=4))
def test_dense_arrays_survive(weights: dict[str, np.ndarray]) -> None:  # type: ignore[type-arg]
    got = dense.decode(dense.encode(weights))
    assert list(got) == list(weights)
    for name, array in weights.items():
        assert got[name].shape == array.shape
        assert got[name].tobytes() == array.tobytes()
    assert dense.encode(got) == dense.encode(weights)


def test_what_are_no_dense_arrays() -> None:
    with pytest.raises(TypeError, match="dense array 'w' is float64"):
        dense.encode({"w": np.zeros(1)})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="3 bytes that are not an Arrow stream"):
        dense.decode(b"xyz")
    with pytest.raises(ValueError, match="not an Arrow stream"):
        dense.decode(dense.encode({"w": np.zeros(100, np.float32)})[:-200])
