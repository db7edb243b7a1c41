"""Expiry gives memory back and reuses it."""

import numpy as np
import pytest

from monobeam.native import NONE, Table

ALL = 2**40


def keys_of(slot: int, start: int, count: int) -> np.ndarray:
    return np.arange(start, start + count, dtype=np.uint64) | np.uint64(slot << 48)


def test_the_second_of_expiry() -> None:
    table = Table(1, "sgd", {}, 0, 0.1)
    table.set_policy(1, expire_seconds=10)
    key = keys_of(1, 0, 1)
    table.find_or_insert(key, 100)
    table.find_or_insert(key, 90)  # last seen never goes back
    assert table.expire(109, ALL).tolist() == []
    assert table.expire(110, ALL).tolist() == key.tolist()
    assert table.find(key).tolist() == [NONE]
    assert table.expired().tolist() == key.tolist()
    assert table.update_count_sum == 0


def test_last_second_of_the_clock() -> None:
    table = Table(1, "sgd", {}, 0, 0.1)
    table.set_policy(0, expire_seconds=10)
    table.find_or_insert(keys_of(0, 1, 1), 2**32 - 5)
    assert len(table.expire(2**32 - 1, ALL)) == 0
    with pytest.raises(ValueError, match=r"now=4294967296 must be seconds in \[0, 2\^32 - 1\]"):
        table.find_or_insert(keys_of(0, 1, 1), 2**32)


def test_reading_does_not_keep_alive_and_other_slots_stay() -> None:
    table = Table(1, "sgd", {}, 0, 0.1)
    table.set_policy(1, expire_seconds=10)
    table.find_or_insert(np.concatenate([keys_of(1, 0, 5), keys_of(2, 0, 5)]), 0)
    table.lookup(keys_of(1, 0, 5))
    assert table.expire(1_000, ALL).tolist() == keys_of(1, 0, 5).tolist()
    assert table.keys().tolist() == keys_of(2, 0, 5).tolist()


def test_a_budget_of_buckets_goes_round() -> None:
    table = Table(1, "sgd", {}, 0, 0.1)
    table.set_policy(0, expire_seconds=1)
    table.find_or_insert(keys_of(0, 0, 3_000), 0)
    assert len(table.expire(100, 0)) == 0
    buckets = table.stats()["buckets"]
    gone = []
    for _ in range(-(-buckets // 64)):
        part = table.expire(100, 64)
        assert len(part) <= 64 * 4
        gone += part.tolist()
    assert sorted(gone) == keys_of(0, 0, 3_000).tolist()
    assert len(table) == 0
    table.check()


def test_pending_keys_expire_silently() -> None:
    table = Table(1, "sgd", {}, 0, 0.1)
    table.set_policy(0, admit_count=9, expire_seconds=5)
    table.find_or_insert(keys_of(0, 0, 50), 0)
    assert table.expire(10, ALL).tolist() == []
    assert table.stats()["pending"] == 0
    assert table.expired().tolist() == []


def test_churn_runs_in_constant_memory() -> None:
    """Ten generations of ids through a table that keeps two: rows and buckets are reused, not added."""
    table = Table(16, "adagrad", {}, 0, 0.1)
    table.set_policy(0, expire_seconds=15)
    generation = 20_000
    memory = []
    for g in range(12):
        table.find_or_insert(keys_of(0, g * generation, generation), g * 10)
        table.expire(g * 10, ALL)
        table.clear_touched()
        table.check()
        memory.append(table.memory_bytes)
    assert len(table) == 2 * generation
    assert max(memory[3:]) == memory[3]


def test_memory_goes_back() -> None:
    table = Table(16, "adagrad", {}, 0, 0.1)
    table.set_policy(1, expire_seconds=10)
    table.find_or_insert(keys_of(2, 0, 1_000), 0)
    small = table.memory_bytes
    table.find_or_insert(keys_of(1, 0, 200_000), 0)
    large = table.memory_bytes
    rows = 200_000 * (16 + 16) * 4
    assert large - small > rows
    kept = table.gather(table.find(keys_of(2, 0, 1_000)))
    table.expire(10, ALL)
    table.clear_touched()
    table.check()
    # All but the index (about 21 bytes a key) and a spare chunk.
    assert large - table.memory_bytes > 0.9 * rows
    np.testing.assert_array_equal(table.gather(table.find(keys_of(2, 0, 1_000))), kept)


def test_a_reused_row_starts_anew() -> None:
    table = Table(2, "adagrad", {}, 0, 0.1)
    first, second = keys_of(0, 1, 1), keys_of(0, 2, 1)
    handle = table.find_or_insert(first, 5)
    table.apply(handle, np.ones((1, 2), np.float32), 0.1)
    table.erase(first)
    assert table.gather(handle).tolist() == [[0.0, 0.0]]
    table.apply(handle, np.ones((1, 2), np.float32), 0.1)  # of nobody
    assert table.update_count_sum == 0
    assert table.find_or_insert(second, 6).tolist() == handle.tolist()
    fresh = Table(2, "adagrad", {}, 0, 0.1)
    fresh.find_or_insert(second, 6)
    assert table.export_rows(second).tolist() == fresh.export_rows(second).tolist()
    assert table.touched().tolist() == []
    assert table.expired().tolist() == first.tolist()


def test_erased_and_made_anew_counts_as_touched() -> None:
    """Its durable row is stale, though no gradient has come: a commit must write it."""
    table = Table(2, "adagrad", {}, 0, 0.1)
    key = keys_of(0, 1, 1)
    table.find_or_insert(key, 5)
    table.erase(key)
    table.find_or_insert(key, 6)
    assert table.touched().tolist() == key.tolist()
    assert table.expired().tolist() == []
    table.clear_touched()
    assert table.touched().tolist() == []


def test_what_was_remembered_of_erased_keys_costs_nothing_once_it_is_forgotten() -> None:
    table, empty = Table(4, "sgd", {}, 0, 0.1), Table(4, "sgd", {}, 0, 0.1).memory_bytes
    keys = keys_of(1, 0, 50_000)
    table.find_or_insert(keys, 0)
    full = table.memory_bytes
    table.erase(keys)
    remembered = table.memory_bytes
    table.clear_touched()
    assert remembered - table.memory_bytes == 8 * len(keys)
    table.find_or_insert(keys, 0)
    assert table.memory_bytes == full
    table.erase(keys)
    table.clear()
    assert table.memory_bytes == empty


def test_keys_that_are_expired_one_by_one_are_those_of_a_whole_sweep() -> None:
    table = Table(2, "adagrad", {}, 0, 0.1)
    table.set_policy(1, expire_seconds=10)
    table.set_policy(2, admit_count=3, expire_seconds=50, pending_seconds=10)
    idle, young, pending = keys_of(1, 0, 700), keys_of(1, 700, 5), keys_of(2, 0, 3)
    table.find_or_insert(np.concatenate([idle, pending]), 0)
    table.find_or_insert(young, 5)
    table.clear_touched()
    asked = np.concatenate([idle, idle, young, pending, keys_of(1, 9_000, 4), keys_of(7, 0, 2)])
    assert table.expire_keys(asked, 9) == 0
    assert table.stats()["pending"] == 3
    assert table.expire_keys(asked, 10) == len(idle)
    assert table.keys().tolist() == young.tolist()
    assert table.expired().tolist() == idle.tolist()
    assert table.stats()["pending"] == 0
    assert table.expire(10, ALL).tolist() == []
    table.check()


@pytest.mark.parametrize("budget", [0, 3, ALL])
def test_when_the_sweep_comes_makes_no_difference_to_who_expires_keys_before_sighting_them(budget: int) -> None:
    """Once with a sweep of each budget after every step; all that is alive at the end is as without."""
    tables = [Table(2, "adagrad", {}, 0, 0.1) for _ in range(2)]
    rng = np.random.default_rng(1)
    for table in tables:
        table.set_policy(1, expire_seconds=10)
        table.set_policy(2, admit_count=3, expire_seconds=20, pending_seconds=4)
    for now in range(100):
        keys = np.concatenate([keys_of(slot, 0, 300)[rng.integers(0, 300, 20)] for slot in (1, 2)])
        gradients = rng.normal(size=(40, 2)).astype(np.float32)
        for table in tables:
            table.expire_keys(keys, now)
            table.apply(table.find_or_insert(keys, now), gradients, 0.1)
        tables[0].expire(now, budget)
    for table in tables:
        table.expire(now, ALL)
    assert 0 < len(tables[0]) < 400
    assert tables[0].keys().tolist() == tables[1].keys().tolist()
    assert np.array_equal(*(table.export_rows(table.keys()) for table in tables))
    assert tables[0].stats()["pending"] == tables[1].stats()["pending"] > 0
