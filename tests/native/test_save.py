"""Tables as files: whole, or refused."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monobeam.native import NONE, Table


def trained(rows: int = 3_000) -> Table:
    table = Table(4, "adam", {"beta1": 0.8}, 2**64 - 1, 0.1, pending_limit=200)
    table.set_policy(0, expire_seconds=60)
    table.set_policy(1, admit_count=4, admit_probability=0.5)
    rng = np.random.default_rng(2)
    keys = rng.integers(0, 2**63, rows, dtype=np.uint64) & np.uint64(2**48 - 1)
    table.apply(table.find_or_insert(keys, 5), rng.normal(size=(rows, 4)).astype(np.float32), 0.1)
    table.find_or_insert(keys[:500] | np.uint64(1 << 48), 7)
    table.clear_touched()
    table.apply(table.find(keys[:10]), np.ones((10, 4), np.float32), 0.1)
    table.erase(keys[20:30])
    table.expire(50, 100)
    return table


def live_on(table: Table) -> list[object]:
    """Everything that a table can say over some further calls, handles included."""
    said: list[object] = [table.touched().tolist(), table.expired().tolist(), table.stats()["pending"]]
    numbers = np.arange(2_000, dtype=np.uint64)
    keys = np.concatenate([table.keys()[::3], numbers, numbers[:500] | np.uint64(1 << 48)])
    for now in (10, 30, 66):
        handles = table.find_or_insert(keys, now)
        table.apply(handles, np.full((len(keys), 4), 0.25, np.float32), 0.1)
        said += [handles.tolist(), table.expire(now, 300).tolist(), table.touched().tolist()]
    said += [table.export_rows(table.keys()).tobytes(), table.update_count_sum]
    table.check()
    return said


def test_a_loaded_table_lives_on_alike(tmp_path: Path) -> None:
    table = trained()
    table.save(str(tmp_path / "table"))
    loaded = Table.load(str(tmp_path / "table"))
    assert (loaded.dim, loaded.optimizer, loaded.seed) == (4, "adam", 2**64 - 1)
    assert live_on(loaded) == live_on(table)


def test_saving_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "table"
    path.write_bytes(b"old")
    trained().save(str(path))
    assert len(Table.load(str(path))) == len(trained())
    assert [entry.name for entry in tmp_path.iterdir()] == ["table"]


def test_saves_to_one_path_at_the_same_time_leave_one_of_their_files(tmp_path: Path) -> None:
    path, tables = tmp_path / "table", [trained(), trained(9_000)]
    sizes = {len(table) for table in tables}
    assert len(sizes) == 2
    for first, second in (tables, tables[::-1]):
        inner: list[int] = []

        def between(*_: int, other: Table = second, sizes_seen: list[int] = inner) -> None:
            if not sizes_seen:
                other.save(str(path))
                sizes_seen.append(len(Table.load(str(path))))

        first.save(str(path), between)
        assert inner == [len(second)]
        assert len(Table.load(str(path))) == len(first)
    with ThreadPoolExecutor(2) as pool:
        for _ in range(20):
            for save in [pool.submit(table.save, str(path)) for table in tables]:
                save.result()
            assert len(Table.load(str(path))) in sizes
    assert [entry.name for entry in tmp_path.iterdir()] == ["table"]


@pytest.mark.parametrize("kind", [str, os.fsencode, Path])
def test_a_path_may_be_whatever_open_takes(kind: Callable[[str], Any], tmp_path: Path) -> None:
    path = kind(str(tmp_path / "täble"))
    trained().save(path)
    assert len(Table.load(path)) == len(trained())
    assert [entry.name for entry in tmp_path.iterdir()] == ["täble"]


def test_a_path_that_the_system_would_cut_off_is_refused(tmp_path: Path) -> None:
    """At the NUL: the file of that name would be overwritten in place."""
    (tmp_path / "a").write_bytes(b"precious")
    for call in (trained().save, Table.load):
        with pytest.raises(ValueError, match="embedded null"):
            call(f"{tmp_path}/a\0b")
        with pytest.raises(TypeError, match=r"str, bytes or os.PathLike object, not int"):
            call(7)
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [b"precious"]


def test_equal_histories_make_equal_files(tmp_path: Path) -> None:
    trained().save(str(tmp_path / "one"))
    trained().save(str(tmp_path / "two"))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("dim", [0, 3])
def test_empty_tables(dim: int, tmp_path: Path) -> None:
    Table(dim, "sgd", {}, 0, 0.1).save(str(tmp_path / "table"))
    loaded = Table.load(str(tmp_path / "table"))
    assert len(loaded) == 0
    assert loaded.find_or_insert(np.array([1], np.uint64), 0).tolist() != [NONE]
