"""What a table remembers of updates: which rows, and how many."""

import numpy as np

from monobeam.native import Table

RATE = 0.1


def made(count: int) -> tuple[Table, np.ndarray]:
    table, keys = Table(2, "sgd", {}, 0, 0.1), np.arange(count, dtype=np.uint64)
    table.find_or_insert(keys, 0)
    return table, keys


def test_rows_updated_by_handles_that_were_found_without_a_sighting_are_touched() -> None:
    table, keys = made(1000)
    table.clear_touched()
    some = keys[::7].copy()
    table.apply(table.find(some), np.ones((len(some), 2), np.float32), RATE)
    assert table.touched().tolist() == some.tolist()
    table.clear_touched()
    assert table.touched().tolist() == []
    table.apply(table.find_or_insert(keys[:3].copy(), 1), np.ones((3, 2), np.float32), RATE)
    assert table.touched().tolist() == [0, 1, 2]


def test_a_row_that_went_to_another_key_is_not_touched_for_the_first() -> None:
    table, keys = made(10)
    table.apply(table.find_or_insert(keys, 1), np.ones((10, 2), np.float32), RATE)
    table.erase(keys[:1].copy())
    other = np.array([77], np.uint64)
    table.find_or_insert(other, 1)  # takes the lowest free row, which was updated
    assert table.touched().tolist() == keys[1:].tolist()
    table.apply(table.find(other), np.ones((1, 2), np.float32), RATE)
    assert table.touched().tolist() == [*keys[1:].tolist(), 77]


def test_update_counts_go_on_beyond_16_bits(tmp_path) -> None:
    table, keys = made(3)
    many = np.repeat(table.find(keys[:1].copy()), 40_000)
    gradients = np.zeros((len(many), 2), np.float32)
    for _ in range(4):
        table.apply(many, gradients, RATE)
    assert table.update_count_sum == 160_000
    assert counts(table, keys) == [160_000, 0, 0]
    table.check()
    table.save(str(tmp_path / "table"))
    loaded = Table.load(str(tmp_path / "table"))
    assert counts(loaded, keys) == [160_000, 0, 0]
    rows = table.export_rows(keys)
    table.erase(keys[:1].copy())
    assert table.update_count_sum == 0
    table.import_rows(keys, rows)
    assert counts(table, keys) == [160_000, 0, 0]
    table.check()


def counts(table: Table, keys: np.ndarray) -> list[int]:
    return table.export_rows(keys)[:, -8:].copy().view(np.uint64).ravel().tolist()
