"""Which ids get a row."""

from pathlib import Path

import numpy as np
import pytest

from monobeam.native import NONE, Table
from tests.native.hashes import uniform_draw


def one(key: int) -> np.ndarray:
    return np.array([key], np.uint64)


@pytest.mark.parametrize("count", [0, 1, 2, 15, 16, 100, 70_000])
def test_the_count_th_sighting_admits(count: int) -> None:
    table = Table(2, "sgd", {}, 0, 0.1)
    table.set_policy(0, admit_count=count)
    before = max(count, 1) - 1
    assert (table.find_or_insert(np.zeros(before, np.uint64), 0) == NONE).all()
    assert len(table) == 0
    assert table.find_or_insert(one(0), 0)[0] != NONE
    assert len(table) == 1
    table.check()


def test_occurrences_in_one_call_count() -> None:
    table = Table(1, "sgd", {}, 0, 0.1)
    table.set_policy(0, admit_count=3)
    assert (table.find_or_insert(np.array([9, 9, 8, 9, 9], np.uint64), 0) != NONE).tolist() == [False] * 3 + [True] * 2


def test_policies_are_per_slot() -> None:
    table = Table(1, "sgd", {}, 0, 0.1)
    table.set_policy(32767, admit_count=2)
    keys = np.array([32767 << 48 | 1, 32766 << 48 | 1, 1], np.uint64)
    assert (table.find_or_insert(keys, 0) != NONE).tolist() == [False, True, True]
    with_top_bit = keys | np.uint64(1 << 63)
    assert (table.find_or_insert(with_top_bit, 0) != NONE).tolist() == [False, True, True]


def test_pending_keys_are_not_rows() -> None:
    table = Table(1, "sgd", {}, 0, 0.1)
    table.set_policy(0, admit_count=5)
    table.find_or_insert(one(3), 0)
    assert table.find(one(3)).tolist() == [NONE]
    assert table.lookup(one(3))[1].tolist() == [False]
    assert len(table.keys()) == 0
    assert table.stats()["pending"] == 1
    with pytest.raises(ValueError, match="key 3 has no row"):
        table.export_rows(one(3))
    assert table.erase(one(3)) == 0
    assert table.stats()["pending"] == 0
    assert table.expired().tolist() == []


def test_probability_is_a_pure_function_of_key_sighting_and_seed() -> None:
    keys = np.arange(4_000, dtype=np.uint64)
    table = Table(0, "sgd", {}, 77, 0.1)
    table.set_policy(0, admit_probability=0.3)
    admitted = np.zeros(len(keys), bool)
    for sighting in (1, 2, 3):
        admitted |= [uniform_draw(key, sighting, 77) < 0.3 for key in keys.tolist()]
        assert ((table.find_or_insert(keys, 0) != NONE) == admitted).all()
        assert abs(admitted.mean() - (1 - 0.7**sighting)) < 0.04
    reversed_order = Table(0, "sgd", {}, 77, 0.1)
    reversed_order.set_policy(0, admit_probability=0.3)
    for _ in range(3):
        reversed_order.find_or_insert(keys[::-1].copy(), 0)
    assert reversed_order.keys().tolist() == table.keys().tolist()


def test_pending_keys_are_bounded() -> None:
    table = Table(1, "sgd", {}, 0, 0.1, pending_limit=100)
    table.set_policy(0, admit_count=3)
    keys = np.arange(5_000, dtype=np.uint64)
    for start in range(0, len(keys), 100):
        table.find_or_insert(keys[start : start + 100], start)
        table.check()
        assert table.stats()["pending"] <= 100
    assert table.stats()["forgotten"] == 4_900
    # Room again: the newest keys are counted from where they were, or from one.
    assert (table.find_or_insert(np.repeat(keys[-50:], 3), 9_000) != NONE).sum() >= 50


@pytest.mark.parametrize("rows", [0, 3_000, 1_000_000])
def test_who_waits_in_vain_makes_room_for_the_new_however_large_the_table_is(rows: int) -> None:
    """As many as may wait are never seen again; those that are seen three times soon after have all their row."""
    table = Table(0, "sgd", {}, 0, 0.0, pending_limit=1_000)
    table.set_policy(1, admit_count=3)
    table.find_or_insert(np.arange(rows, dtype=np.uint64), 0)
    ids = np.arange(6_000, dtype=np.uint64) | np.uint64(1 << 48)
    table.find_or_insert(ids[:1_000], 0)
    for batch in ids[1_000:].reshape(-1, 100):
        for _ in range(3):
            handles = table.find_or_insert(batch, 0)
        assert (handles != NONE).all()
    assert len(table) == rows + 5_000
    assert table.stats()["pending"] == 0
    assert table.stats()["forgotten"] == 1_000
    table.check()


def test_a_key_is_forgotten_when_the_limit_of_others_came_after_it(tmp_path: Path) -> None:
    table = Table(0, "sgd", {}, 0, 0.0, pending_limit=700)
    table.set_policy(0, admit_count=2)
    ids = np.arange(2_000, dtype=np.uint64)
    table.find_or_insert(ids[:1_000], 0)
    table.save(str(tmp_path / "table"))
    for each in (Table.load(str(tmp_path / "table")), table):
        each.check()
        each.find_or_insert(ids[1_000:1_500], 0)
        handles = each.find_or_insert(ids[700:1_500][::-1].copy(), 0)[::-1]
        assert (handles != NONE).tolist() == [False] * 100 + [True] * 700
        assert each.stats()["forgotten"] == 800
        assert each.stats()["pending"] == 100


def test_ids_that_are_seen_once_take_bounded_memory() -> None:
    table = Table(8, "adagrad", {}, 0, 0.1, pending_limit=10_000)
    table.set_policy(0, admit_count=2)
    memory = []
    for start in range(0, 600_000, 20_000):
        table.find_or_insert(np.arange(start, start + 20_000, dtype=np.uint64), start)
        memory.append(table.memory_bytes)
    assert len(table) == 0
    assert table.stats()["pending"] == 10_000
    assert table.stats()["forgotten"] == 590_000
    assert max(memory) <= 10_001 * (64 / 3 * 1.1 + 8) + 2 * 4096
    table.check()


def test_sightings_without_a_row_lapse_by_their_own_clock() -> None:
    """Whether or not expire() came by in between."""
    for swept in (False, True):
        table = Table(1, "sgd", {}, 0, 0.1)
        table.set_policy(0, admit_count=3, expire_seconds=1000, pending_seconds=10)
        assert table.find_or_insert(np.repeat(one(5), 2), 100)[1] == NONE
        if swept:
            assert table.expire(109, 1 << 40).tolist() == []
            assert table.stats()["pending"] == 1
            table.expire(110, 1 << 40)
            assert table.stats()["pending"] == 0
        assert (table.find_or_insert(np.repeat(one(5), 3), 110) == NONE).tolist() == [True, True, False]
        assert table.find_or_insert(one(6), 110)[0] == NONE
        assert (table.find_or_insert(np.repeat(one(6), 2), 119) == NONE).tolist() == [True, False]
        # With a row, the other clock counts.
        assert table.expire(1118, 1 << 40).tolist() == [5]
        assert table.expire(1119, 1 << 40).tolist() == [6]


def test_a_time_that_goes_back_takes_nothing_away() -> None:
    table = Table(1, "sgd", {}, 0, 0.1)
    table.set_policy(0, admit_count=2, pending_seconds=10)
    table.find_or_insert(one(1), 100)
    assert table.find_or_insert(one(1), 50)[0] != NONE
    assert table.export_rows(one(1))[0, -16:-12].copy().view(np.uint32).tolist() == [100]


def test_nobody_waits_where_the_limit_is_zero() -> None:
    table = Table(1, "sgd", {}, 0, 0.1, pending_limit=0)
    table.set_policy(0, admit_count=2)
    assert table.find_or_insert(one(1), 0)[0] == NONE
    assert table.find_or_insert(one(1 << 48), 0)[0] != NONE
    assert table.stats()["pending"] == 0
    table.check()


def test_import_asks_nobody() -> None:
    source, table = Table(2, "adagrad", {}, 0, 0.1), Table(2, "adagrad", {}, 5, 0.1)
    source.find_or_insert(one(4), 17)
    table.set_policy(0, admit_count=10)
    table.find_or_insert(one(4), 0)
    table.import_rows(one(4), source.export_rows(one(4)))
    assert table.export_rows(one(4)).tolist() == source.export_rows(one(4)).tolist()
    assert table.stats()["pending"] == 0
    assert table.touched().tolist() == []
    table.check()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"slot": -1}, "slot=-1"),
        ({"slot": 32768}, r"slot=32768 must be in \[0, 32767\]"),
        ({"slot": 0, "admit_count": -1}, "admit_count=-1"),
        ({"slot": 0, "admit_count": 2**31 - 1}, r"admit_count=2147483647 must be in \[0, 2147483646\]"),
        ({"slot": 0, "admit_count": 2**40}, "admit_count=1099511627776"),
        ({"slot": 0, "admit_probability": 1.5}, "admit_probability=1.5"),
        ({"slot": 0, "admit_probability": float("nan")}, "admit_probability=nan"),
        ({"slot": 0, "expire_seconds": -5}, "expire_seconds=-5"),
    ],
)
def test_refused_policies(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Table(1, "sgd", {}, 0, 0.1).set_policy(**wrong)  # type: ignore[arg-type]
