"""A save is of the moment when it began. Its callback runs between its parts: here it changes the table."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from monobeam.native import Table

ROWS = 40_000  # enough for several parts of the index and of the rows
PART = 2**18
KEYS = np.arange(ROWS, dtype=np.uint64) | (np.arange(ROWS, dtype=np.uint64) % np.uint64(3) << np.uint64(48))
NEW = np.arange(30_000, dtype=np.uint64) + np.uint64(1 << 40)


def made(row_format: str = "fp32", dim: int = 8) -> Table:
    table = Table(dim, "adam", {}, 3, 0.1, row_format=row_format)
    table.set_policy(0, expire_seconds=50)
    table.set_policy(2, admit_count=2)
    table.find_or_insert(KEYS, 10)
    table.find_or_insert(KEYS[::5].copy(), 40)
    table.apply(table.find(KEYS[::3].copy()), np.ones((len(KEYS[::3]), dim), np.float32), 0.1)
    table.erase(KEYS[3:3000:7].copy())
    return table


def rows_of(table: Table, keys: np.ndarray) -> np.ndarray:
    return np.tile(np.arange(table.row_bytes, dtype=np.uint8), (len(keys), 1)) * (
        np.arange(table.row_bytes) < table.row_bytes - 16
    ).astype(np.uint8)


def some(turn: int, step: int = 11) -> np.ndarray:
    return KEYS[turn::step].copy()


CHANGES: dict[str, Callable[[Table, int], object]] = {
    "learn": lambda t, n: t.apply(t.find(some(n)), np.ones((len(some(n)), t.dim), np.float32), 0.1),
    "sight": lambda t, n: t.find_or_insert(some(n), 60 + n),
    "grow": lambda t, n: t.find_or_insert(NEW + np.uint64(n << 32), 60),
    "erase": lambda t, n: t.erase(some(n)),
    "expire": lambda t, n: t.expire(70, 5_000),
    "import_rows": lambda t, n: t.import_rows(some(n), rows_of(t, some(n))),
    "import_values": lambda t, n: t.import_values(some(n), np.full((len(some(n)), t.dim), n, np.float32)),
    "import new": lambda t, n: t.import_values(NEW + np.uint64(n << 32), np.ones((len(NEW), t.dim), np.float32)),
    "clear_touched": lambda t, n: t.clear_touched(),
    "set_policy": lambda t, n: t.set_policy(n, admit_count=9 + n, expire_seconds=1),
}
ORDERS = {
    **{name: [name] for name in CHANGES},
    "all": list(CHANGES),
    "all backwards": list(CHANGES)[::-1],
    "reuse rows": ["erase", "grow", "learn", "erase", "import new"],
    "touch anew": ["clear_touched", "learn", "erase", "clear_touched", "learn"],
}


@pytest.mark.parametrize("row_format", ["fp32", "bf16"])
@pytest.mark.parametrize("order", ORDERS)
def test_changes_meanwhile_are_not_in_the_file(order: str, row_format: str, tmp_path: Path) -> None:
    table, beside = made(row_format), made(row_format)
    quiet, busy = tmp_path / "quiet", tmp_path / "busy"
    table.save(str(quiet))
    turns = []

    def change(done: int, all_bytes: int) -> None:
        for name in ORDERS[order]:
            CHANGES[name](table, len(turns))
            CHANGES[name](beside, len(turns))
        turns.append(done)

    table.save(str(busy), change)
    assert len(turns) >= 3
    assert busy.read_bytes() == quiet.read_bytes()
    # The changes are as if nobody had saved, and the next save has them.
    table.check()
    table.save(str(busy))
    beside.save(str(quiet))
    assert busy.read_bytes() == quiet.read_bytes()


@pytest.mark.parametrize(("dim", "rows"), [(0, 200_000), (1, 200_000), (64, 30_000), (8192, 200)])
def test_others_wait_for_no_more_than_a_part(dim: int, rows: int, tmp_path: Path) -> None:
    """The bound is on bytes copied while others wait; benchmarks measure the time."""
    table = Table(dim, "adam", {}, 0, 0.1)
    table.find_or_insert(np.arange(rows, dtype=np.uint64), 0)
    assert table.stats()["most_saved"] == 0
    table.save(str(tmp_path / "table"))
    assert PART // 4 <= table.stats()["most_saved"] <= 2 * PART


def test_nor_for_all_that_was_erased(tmp_path: Path) -> None:
    table, keys = Table(0, "sgd", {}, 0, 0.0), np.arange(200_000, dtype=np.uint64)
    table.find_or_insert(keys, 0)
    table.erase(keys)
    table.clear_touched()
    few = keys[:100_000].copy()  # in 800 kB; the index of the others is a part of it
    table.find_or_insert(few, 0)
    table.erase(few)
    table.save(str(tmp_path / "table"))
    assert PART // 4 <= table.stats()["most_saved"] <= 2 * PART


def test_a_callback_that_would_wait_for_its_own_save_is_refused(tmp_path: Path) -> None:
    table, path = made(), str(tmp_path / "table")
    for forbidden in (table.clear, lambda: table.save(path)):
        with pytest.raises(ValueError, match="the progress callback of save"):
            table.save(path, lambda *_, forbidden=forbidden: forbidden())
    assert list(tmp_path.iterdir()) == []
    table.save(path)
    table.clear()
    assert len(table) == 0


def test_reading_and_saving_another_table_meanwhile(tmp_path: Path) -> None:
    table, other = made(), made("fp16")
    seen = []

    def look(done: int, all_bytes: int) -> None:
        table.check()
        seen.append((table.lookup(KEYS)[1].sum(), len(table.touched()), len(table.expired())))
        other.save(str(tmp_path / "other"))

    table.save(str(tmp_path / "table"), look)
    assert len(set(seen)) == 1
    loaded = Table.load(str(tmp_path / "table"))
    assert (loaded.lookup(KEYS)[1].sum(), len(loaded.touched()), len(loaded.expired())) == seen[0]
