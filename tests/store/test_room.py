"""A limit on the memory of all tables: an error that names what and which, and nothing lost."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from monobeam.native import Table
from monobeam.store.backend import Backend
from monobeam.store.lmdb import LmdbBackend
from monobeam.store.memory import MemoryBackend
from monobeam.store.room import TableFullError, TableRoom, in_units
from monobeam.store.spec import SlotPolicy, SpecError, StoreSpec, TableSpec
from monobeam.store.store import Store
from tests.store.test_store import bags, commit, every_row

MEBIBYTE = 2**20
TABLES = (TableSpec("wide", 30, "adagrad", 0.05), TableSpec("narrow", 1, "sgd", 0.1))
_numbers = itertools.count()


def spec(limit: int, shards: int = 1) -> StoreSpec:
    return StoreSpec("m", TABLES, shards, memory_limit=limit)


@pytest.fixture(params=["memory", "lmdb"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Backend]:
    name = f"room-{next(_numbers)}"
    if request.param == "memory":
        return lambda: MemoryBackend(name)
    return lambda: LmdbBackend(tmp_path / name, durable=False)


def train(store: Store, number: int) -> None:
    """A step with 2000 new ids."""
    for table in ("wide", "narrow"):
        pulled = store.pull(table, bags([*range(2000 * number, 2000 * number + 2000)]), number)
        store.push(pulled, np.ones_like(pulled.pooled) + pulled.pooled)


def until_full(store: Store) -> tuple[int, str]:
    """Trains and commits until a table is full; the number of the last commit, and the error."""
    for number in range(1, 1000):
        try:
            train(store, number)
        except TableFullError as error:
            return number - 1, str(error)
        assert store.memory_bytes <= store.spec.memory_limit
        commit(store, number)
    raise AssertionError("there is no limit")


@pytest.mark.parametrize("shards", [1, 2])
def test_what_was_committed_goes_on_with_more(opener: Callable[[], Backend], shards: int) -> None:
    store = Store(spec(24 * MEBIBYTE, shards), opener())
    committed, said = until_full(store)
    assert committed > 3
    assert re.match(r"table '(wide|narrow)' has no room to grow within store.memory_limit = \"24MiB\": it and ", said)
    assert store.memory_bytes > 12 * MEBIBYTE
    store.close()
    # As it is, it opens again, holds all that was committed, and is full at the same step.
    store = Store(spec(24 * MEBIBYTE, shards), opener())
    assert store.positions() == {0: committed}
    with pytest.raises(TableFullError):
        train(store, committed + 1)
    store.close()
    more, free = Store(spec(80 * MEBIBYTE, shards), opener()), Store(spec(0, shards), MemoryBackend())
    for number in range(1, committed + 3):
        train(free, number)
        if number > committed:
            train(more, number)
    assert every_row(more) == every_row(free)
    more.close()


def test_a_store_that_does_not_fit_is_not_opened_and_not_held(opener: Callable[[], Backend]) -> None:
    store = Store(spec(0), opener())
    for number in range(1, 20):
        train(store, number)
    commit(store, 20)
    rows = every_row(store)
    store.close()
    for limit in (12 * MEBIBYTE, 100):  # too little for all rows, and for the first page
        with pytest.raises(
            TableFullError, match=r"table '(wide|narrow)' has no room to grow within store.memory_limit"
        ):
            Store(spec(limit), opener())
    store = Store(spec(64 * MEBIBYTE), opener())  # nobody else has it
    assert every_row(store) == rows
    store.close()


def test_example_keys_are_within_the_limit_too() -> None:
    store = Store(spec(8 * MEBIBYTE), MemoryBackend())
    with pytest.raises(TableFullError, match="table 'example keys' has no room to grow"):
        for start in range(0, 10**7, 10**4):
            store.unseen(np.arange(start, start + 10**4, dtype=np.uint64), 1)
    assert store.memory_bytes <= 8 * MEBIBYTE


def test_expired_rows_make_room() -> None:
    forgetful = replace(TABLES[0], policies={0: SlotPolicy(expire_us=60_000_000)})
    store = Store(StoreSpec("m", (forgetful,), memory_limit=24 * MEBIBYTE), MemoryBackend())
    for number in range(1, 200):  # many times as many ids as there is room for
        store.pull("wide", bags([*range(2000 * number, 2000 * number + 2000)]), 20 * number)
        store.expire(20 * number, 10**6)
        commit(store, number)
    assert store.rows < 10_000


def test_without_a_limit_the_machine_is_named() -> None:
    room = TableRoom(0, "store.memory_limit")
    assert room.shared is None
    with (
        pytest.raises(
            TableFullError, match=r"table 't' has no room to grow within this machine \(store.memory_limit is"
        ),
        room.table("t"),
    ):
        Table(1, "sgd", {}, 0, 0.0).reserve(2**40)
    with pytest.raises(ValueError, match="of something else"), room.table("t"):
        raise ValueError("of something else")
    with pytest.raises(SpecError, match="memory_limit = -1"):
        spec(-1)


def test_bytes_are_written_as_people_do() -> None:
    for text, count in (
        ("8GiB", 8 << 30),
        ("500MB", 5 * 10**8),
        ("1536MiB", 3 << 29),
        ("1500KB", 1_500_000),
        ("7B", 7),
    ):
        assert in_units(count) == text
    assert in_units(10**12) == "1TB"
    assert in_units(1024) == "1KiB"
