"""Several tables in one room: what they use together is bounded, and what one gives back is there for the others."""

import gc
import threading
from pathlib import Path

import numpy as np
import pytest

from monobeam.native import Room, Table

MEGABYTE = 2**20


def keys_from(start: int, count: int) -> np.ndarray:
    return np.arange(start, start + count, dtype=np.uint64)


def table(room: Room, dim: int = 20, row_format: str = "fp32", memory_limit: int = 0) -> Table:
    return Table(dim, "sgd", {}, 3, 0.1, row_format=row_format, memory_limit=memory_limit, room=room)


def fill(*tables: Table) -> None:
    """Inserts into one after the other until there is no room."""
    start = 0
    with pytest.raises(MemoryError, match=r"it and others use \d+ bytes, and the limit of their room is"):
        while True:
            for each in tables:
                each.find_or_insert(keys_from(start, 1000), 0)
            start += 1000


def test_tables_grow_up_to_the_limit_together_and_stay_whole() -> None:
    room = Room(30 * MEGABYTE)
    wide, narrow = table(room), table(room, 3, "int8")
    fill(wide, narrow)
    assert 25 * MEGABYTE < room.used <= room.limit == 30 * MEGABYTE
    assert abs(wide.memory_bytes + narrow.memory_bytes - room.used) < MEGABYTE / 2
    free = Table(20, "sgd", {}, 3, 0.1)
    free.find_or_insert(wide.keys(), 0)
    np.testing.assert_array_equal(wide.export_rows(wide.keys()), free.export_rows(wide.keys()))
    for each in (wide, narrow):
        each.check()
        with pytest.raises(MemoryError):
            each.import_values(keys_from(1 << 40, 200_000), np.zeros((200_000, each.dim), np.float32))
        each.check()


@pytest.mark.parametrize("how", ["clear", "erase", "drop"])
def test_what_one_table_gives_back_the_other_can_have(how: str) -> None:
    room = Room(30 * MEGABYTE)
    one, other = table(room), table(room)
    fill(one, other)
    before, used = len(other), room.used
    if how == "clear":
        one.clear()
    elif how == "erase":
        one.erase(one.keys())
    else:
        del one
        gc.collect()
    assert room.used < 0.7 * used
    fill(other)
    assert len(other) > 1.5 * before
    other.check()


def test_all_is_given_back_in_the_end() -> None:
    room = Room(30 * MEGABYTE)
    for _ in range(3):
        with pytest.raises(MemoryError):
            table(room).find_or_insert(keys_from(0, 1_000_000), 0)
    gc.collect()
    assert room.used == 0


def test_a_limit_of_its_own_holds_as_well() -> None:
    room = Room(30 * MEGABYTE)
    bounded = table(room, memory_limit=8 * MEGABYTE)
    with pytest.raises(MemoryError, match="memory_limit is 8388608"):
        bounded.find_or_insert(keys_from(0, 1_000_000), 0)
    assert room.used <= 8 * MEGABYTE


def test_no_room_makes_no_table_and_takes_nothing() -> None:
    room = Room(100)
    with pytest.raises(MemoryError, match="the limit of their room is 100"):
        table(room)
    assert room.used == 0
    with pytest.raises(ValueError, match="limit 0 must be at least 1"):
        Room(0)


def test_more_than_the_room_is_not_reserved() -> None:
    with pytest.raises(MemoryError, match="the limit of its room, which is 31457280"):
        table(Room(30 * MEGABYTE)).reserve(1_000_000)


def test_a_saved_table_is_loaded_without_its_room(tmp_path: Path) -> None:
    room = Room(30 * MEGABYTE)
    saved = table(room)
    saved.find_or_insert(keys_from(0, 1000), 0)
    saved.save(f"{tmp_path}/table")
    used = room.used
    loaded = Table.load(f"{tmp_path}/table")
    loaded.find_or_insert(keys_from(0, 500_000), 0)
    assert room.used == used
    assert loaded.memory_bytes > room.limit


def test_threads_that_grow_tables_stay_within_it() -> None:
    room = Room(30 * MEGABYTE)
    tables = [table(room) for _ in range(4)]

    def grow(one: Table) -> None:
        with pytest.raises(MemoryError):
            one.find_or_insert(keys_from(0, 1_000_000), 0)

    threads = [threading.Thread(target=grow, args=(one,)) for one in tables]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert room.used <= room.limit
    for one in tables:
        one.check()
        one.clear()
    assert room.used < 64 << 10


def test_a_table_that_only_serves_forgets_what_it_erased() -> None:
    served = table(Room(300 * MEGABYTE))
    served.import_values(keys_from(0, 100_000), np.ones((100_000, 20), np.float32))
    before = served.memory_bytes
    for _ in range(3):
        served.erase(keys_from(0, 100_000))
        served.clear_touched()
        served.import_values(keys_from(0, 100_000), np.ones((100_000, 20), np.float32))
        assert served.memory_bytes == before
    assert served.touched().tolist() == served.expired().tolist() == []
