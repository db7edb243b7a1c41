"""Memory: given back, reused, limited by the user or by the system."""

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest

from monobeam.native import NONE, Table


def keys_from(start: int, count: int) -> np.ndarray:
    return np.arange(start, start + count, dtype=np.uint64)


def run(program: str, *arguments: object) -> str:
    """A process of its own; what it prints."""
    command = [sys.executable, "-c", dedent(program), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout


CHURN = """
    import sys
    import numpy as np
    from monobeam.native import Table

    def resident():
        return int(open("/proc/self/statm").read().split()[1]) * 4096

    alive, how = 100_000, sys.argv[1]
    table = Table(32, "adagrad", {}, 0, 0.1, row_format=sys.argv[2])
    table.set_policy(0, expire_seconds=10)
    for generation in range(16):
        keys = np.arange(generation * alive, (generation + 1) * alive, dtype=np.uint64)
        for part in np.array_split(keys, 10):
            handles = table.find_or_insert(part, 10 * generation)
            table.apply(handles, np.ones((len(part), 32), np.float32), 0.1)
            if how == "expire":  # in slices, as a trainer does it
                table.expire(10 * generation, table.stats()["buckets"] // 10 + 1)
            elif generation > 0:
                table.erase(part - np.uint64(alive))
            table.clear_touched()
        if generation > 2:
            print(len(table), table.memory_bytes, resident())
    table.check()
"""


@pytest.mark.parametrize(("how", "row_format"), [("expire", "fp32"), ("erase", "fp32"), ("expire", "bf16")])
def test_memory_is_flat_while_ten_times_as_many_ids_pass_as_are_alive(how: str, row_format: str) -> None:
    figures = np.array([[int(word) for word in line.split()] for line in run(CHURN, how, row_format).splitlines()])
    rows, memory, resident = figures.T
    assert len(figures) == 13
    assert rows.max() <= 210_000
    assert memory.max() <= memory[0] * 1.05
    assert resident.max() <= resident[0] + 4 * 2**20


RELEASE = """
    import numpy as np
    from monobeam.native import Table

    def resident():
        return int(open("/proc/self/statm").read().split()[1]) * 4096

    table = Table(64, "adagrad", {}, 0, 0.1)
    table.set_policy(1, expire_seconds=10)
    keys = np.arange(200_000, dtype=np.uint64) | np.uint64(1 << 48)
    table.find_or_insert(keys, 0)
    full = resident()
    table.expire(10, table.stats()["buckets"])
    table.clear_touched()
    empty = resident()
    table.find_or_insert(keys, 20)
    print(full, empty, resident())
    table.clear()
    print(resident())
"""


def test_the_system_gets_memory_back() -> None:
    full, empty, again, cleared = (int(word) for word in run(RELEASE).split())
    rows = 200_000 * 64 * 4 * 2
    assert full - empty > 0.95 * rows
    assert abs(again - full) < 0.05 * rows
    assert again - cleared > rows


RESERVE = """
    import numpy as np
    from monobeam.native import Table

    def resident():
        return int(open("/proc/self/statm").read().split()[1]) * 4096

    table = Table(64, "sgd", {}, 0, 0.1)
    before = resident(), table.memory_bytes
    table.reserve(100_000)
    assert table.memory_bytes == before[1] and len(table) == 0
    ready = resident()
    table.find_or_insert(np.arange(100_000, dtype=np.uint64), 0)
    print(before[0], ready, resident())
"""


def test_reserved_memory_is_there_and_changes_nothing(tmp_path: Path) -> None:
    before, ready, filled = (int(word) for word in run(RESERVE).split())
    rows = 100_000 * 64 * 4
    if tuple(int(part) for part in os.uname().release.split(".")[:2]) >= (5, 14):  # Linux before cannot
        assert ready - before > rows
        assert filled - ready < rows / 4
    one, other = Table(4, "sgd", {}, 0, 0.1), Table(4, "sgd", {}, 0, 0.1)
    one.reserve(10_000)
    for table, name in ((one, "one"), (other, "other")):
        table.find_or_insert(keys_from(0, 20_000), 0)
        table.reserve(30_000)
        table.check()
        table.save(str(tmp_path / name))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_more_than_there_can_be_is_not_reserved() -> None:
    table = Table(64, "sgd", {}, 0, 0.1, memory_limit=2**20 * 100)
    table.reserve(300_000)
    with pytest.raises(MemoryError, match="memory_limit, which is 104857600"):
        table.reserve(400_000)
    if os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE") < 2**39:
        with pytest.raises(MemoryError, match="bytes are more than there is for this process"):
            Table(1024, "sgd", {}, 0, 0.1).reserve(2**28 - 1)
    with pytest.raises(MemoryError, match="it holds at most"):
        Table(1, "sgd", {}, 0, 0.1).reserve(2**40)


def fill(table: Table, step: int = 1000) -> int:
    """Inserts until there is no room; returns how many keys were asked for."""
    asked = 0
    with pytest.raises(MemoryError, match=r"the table is full: it uses \d+ bytes, and memory_limit is"):
        while True:
            asked += step
            table.find_or_insert(keys_from(asked - step, step), 0)
    return asked


@pytest.mark.parametrize(("dim", "row_format"), [(0, "fp32"), (1, "fp32"), (40, "fp16"), (3000, "fp32")])
@pytest.mark.parametrize("megabytes", [7, 30])
def test_a_limit_is_an_error_and_harms_nothing(dim: int, row_format: str, megabytes: int, tmp_path: Path) -> None:
    limit = megabytes * 2**20
    table = Table(dim, "sgd", {}, 3, 0.1, memory_limit=limit, row_format=row_format, pending_limit=10)
    asked = fill(table)
    table.check()
    assert limit / 2 - 2**21 < table.memory_bytes <= limit
    assert table.stats()["pending"] == 0
    keys, count = table.keys(), len(table)
    assert keys.tolist() == list(range(count))  # all up to the one that found no room
    assert asked - 1000 <= count < asked
    free = Table(dim, "sgd", {}, 3, 0.1, row_format=row_format)
    free.find_or_insert(keys, 0)
    sample = keys[:: max(1, count // 500)].copy()
    np.testing.assert_array_equal(table.export_rows(sample), free.export_rows(sample))
    # Again and again: no change. What is there goes on.
    for _ in range(20):
        with pytest.raises(MemoryError):
            table.find_or_insert(keys_from(1 << 40, 50), 0)
        with pytest.raises(MemoryError):
            table.import_values(keys_from(1 << 41, 50), np.zeros((50, dim), np.float32))
    assert len(table) == count
    table.check()
    table.apply(table.find_or_insert(sample, 1), np.ones((len(sample), dim), np.float32), 0.1)
    table.save(f"{tmp_path}/table")
    assert Table.load(f"{tmp_path}/table").keys().tolist() == keys.tolist()
    # Room again.
    assert table.erase(keys[:100].copy()) == 100
    assert (table.find_or_insert(keys_from(1 << 40, 100), 0) != NONE).all()
    table.check()


def test_the_limit_bounds_all_but_what_is_remembered() -> None:
    """Also the notes of chunks that were given back."""
    limit = 7 * 2**20
    table = Table(1, "sgd", {}, 0, 0.1, memory_limit=limit)
    for start in range(0, 2_000_000, 50_000):
        keys = keys_from(start, 50_000)
        table.find_or_insert(keys, 0)
        table.check()
        assert table.memory_bytes <= limit
        table.erase(keys)
        assert table.memory_bytes <= limit + 8 * len(keys)
        table.clear_touched()
        table.check()


def test_a_limit_below_the_first_page_makes_no_table() -> None:
    with pytest.raises(MemoryError, match="memory_limit is 100"):
        Table(4, "sgd", {}, 0, 0.1, memory_limit=100)


def test_keys_that_wait_are_not_left_behind_where_there_is_no_row_for_them() -> None:
    table = Table(3000, "sgd", {}, 0, 0.1, memory_limit=7 * 2**20, pending_limit=5)
    fill(table)
    table.set_policy(1, admit_count=3)
    waiting = np.arange(5, dtype=np.uint64) | np.uint64(1 << 48)
    assert (table.find_or_insert(np.repeat(waiting, 2), 0) == NONE).all()
    with pytest.raises(MemoryError):
        table.find_or_insert(waiting, 0)
    assert table.stats()["pending"] == 5  # they go on waiting
    table.check()
    table.erase(table.keys()[:5].copy())
    assert (table.find_or_insert(waiting, 0) != NONE).all()
    assert table.stats()["pending"] == 0
    table.check()


SYSTEM_LIMIT = """
    import resource, sys
    import numpy as np
    from monobeam.native import Table

    limit, extra = getattr(resource, sys.argv[1]), int(sys.argv[2]) << 20
    dim, row_format = int(sys.argv[3]), sys.argv[4]
    used = int(open("/proc/self/statm").read().split()[0 if limit == resource.RLIMIT_AS else 5]) * 4096
    resource.setrlimit(limit, (used + extra, used + extra))
    table = Table(dim, "adagrad", {}, 0, 0.1, row_format=row_format)
    keys = np.arange(200_000_000 // 500, dtype=np.uint64)
    try:
        for part in np.array_split(keys, 200):
            for again in range(500):
                table.find_or_insert(part + np.uint64(again << 40), 0)
    except MemoryError:
        pass
    else:
        sys.exit("all of it found room")
    count, some = len(table), keys[:1000].copy()
    table.check()
    table.apply(table.find(some), np.ones((1000, dim), np.float32), 0.1)
    assert table.erase(some) == 1000
    table.find_or_insert(some, 1)
    assert len(table) == count
    table.check()
    print(count)
"""


@pytest.mark.parametrize("limit", ["RLIMIT_AS", "RLIMIT_DATA"])
@pytest.mark.parametrize(
    ("extra", "dim", "row_format"), [(300, 0, "fp32"), (200, 2, "bf16"), (330, 2, "fp32"), (400, 64, "fp32")]
)
def test_a_limit_of_the_system_is_an_error_and_harms_nothing(limit: str, extra: int, dim: int, row_format: str) -> None:
    assert int(run(SYSTEM_LIMIT, limit, extra, dim, row_format)) > 50_000
