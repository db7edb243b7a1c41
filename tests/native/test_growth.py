"""Growth never pauses. Work is counted, not time."""

import numpy as np

from monobeam.native import NONE, Table
from tests.native.hashes import GOLDEN, WORD, unmix


def test_one_split_per_insert_at_most() -> None:
    table = Table(0, "sgd", {}, 0, 0.0)
    rng = np.random.default_rng(1)
    keys = rng.integers(0, 2**64, 300_000, dtype=np.uint64)
    for start in range(0, len(keys), 4096):
        table.find_or_insert(keys[start : start + 4096], 0)
    stats = table.stats()
    assert len(table) == len(np.unique(keys))
    assert stats["most_splits"] == 1
    assert stats["most_moves"] <= 5
    assert stats["most_searched"] <= 128
    assert stats["overflowing"] == 0
    assert stats["moves"] < len(keys)
    assert len(keys) / (4 * stats["buckets"]) > 0.74
    assert (table.find(keys) != NONE).all()
    table.check()


def test_every_size_on_the_way() -> None:
    table = Table(1, "sgd", {}, 3, 0.1)
    for key in range(600):
        table.find_or_insert(np.array([key], np.uint64), 0)
        table.check()
        assert len(table) == key + 1
        assert (table.find(np.arange(key + 1, dtype=np.uint64)) != NONE).all()


def test_handles_survive_growth() -> None:
    table = Table(2, "sgd", {}, 3, 0.1)
    first = np.arange(100, dtype=np.uint64)
    handles = table.find_or_insert(first, 0)
    rows = table.gather(handles)
    table.find_or_insert(np.arange(100, 50_000, dtype=np.uint64), 0)
    assert table.find(first).tolist() == handles.tolist()
    np.testing.assert_array_equal(table.gather(handles), rows)


def test_keys_made_to_share_two_buckets() -> None:
    """Their two hashes agree in the low 20 bits: no table of less than a million buckets can tell them apart."""
    hashes = [(i << 52 | 5 << 32 | i << 20 | 9) & WORD for i in range(300)]
    keys = np.array([unmix(h) - GOLDEN & WORD for h in hashes], np.uint64)
    table = Table(1, "adagrad", {}, 0, 0.1)
    table.set_policy(0, expire_seconds=10)
    others = np.arange(5_000, dtype=np.uint64)
    table.find_or_insert(keys, 0)
    assert table.stats()["overflowing"] >= 300 - 8
    table.check()
    table.find_or_insert(others, 0)
    table.check()
    stats = table.stats()
    assert stats["most_splits"] == 1
    assert stats["most_searched"] <= 128
    assert (table.find(np.concatenate([keys, others])) != NONE).all()
    table.apply(table.find(keys), np.ones((300, 1), np.float32), 0.1)
    assert table.touched().tolist() == sorted(keys.tolist())
    assert table.erase(keys) == 300
    assert table.stats()["overflowing"] == 0
    table.check()


def test_overflowing_keys_come_back_as_buckets_split() -> None:
    """Agreement in the low 4 bits only: 16 buckets cannot tell them apart, 64 can."""
    hashes = [(i << 40 | 5 << 32 | i << 4 | 9) & WORD for i in range(20)]
    keys = np.array([unmix(h) - GOLDEN & WORD for h in hashes], np.uint64)
    table = Table(0, "sgd", {}, 0, 0.0)
    table.find_or_insert(keys, 0)
    assert table.stats()["overflowing"] > 0
    table.find_or_insert(np.arange(3_000, dtype=np.uint64), 0)
    assert table.stats()["overflowing"] == 0
    assert (table.find(keys) != NONE).all()
    table.check()
