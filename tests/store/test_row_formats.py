"""Rows that learn in fp16 and bf16: the store keeps float32, and no restart is seen in them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from monobeam.store.backend import Backend
from monobeam.store.lmdb import LmdbBackend
from monobeam.store.memory import MemoryBackend
from monobeam.store.spec import SpecError, StoreSpec, TableSpec
from monobeam.store.store import Store
from tests.native.formats import nearest
from tests.store.test_store import bags, commit, every_row, step

FORMATS = ("fp32", "fp16", "bf16")
WIDE = TableSpec("wide", 3, "adam", 0.05, seed=1)
NARROW = TableSpec("narrow", 1, "sgd", 0.1, seed=2)
_numbers = itertools.count()


def spec(row_format: str, shards: int = 1) -> StoreSpec:
    tables = tuple(replace(table, row_format=row_format) for table in (WIDE, NARROW))
    return StoreSpec("m", tables, shards, example_retention_us=1_000_000_000)


def both_steps(store: Store, number: int) -> None:
    step(store, number)
    step(store, number, table="narrow")


def embeddings(rows: Mapping[str, Mapping[int, bytes]], table: str, dim: int) -> np.ndarray:
    """In the order of the ids."""
    return np.array([np.frombuffer(row[: 4 * dim], "<f4") for _, row in sorted(rows[table].items())])


def besides(rows: Mapping[str, Mapping[int, bytes]], table: str, dim: int) -> dict[int, bytes]:
    """Optimizer state, time and update count of every row."""
    return {key: row[4 * dim :] for key, row in rows[table].items()}


@pytest.mark.parametrize("row_format", FORMATS)
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("kind", ["memory", "lmdb"])
def test_restarts_change_no_bit(row_format: str, shards: int, kind: str, tmp_path: Path) -> None:
    name = f"formats-{next(_numbers)}"

    def backend() -> Backend:
        return MemoryBackend(name) if kind == "memory" else LmdbBackend(tmp_path / name, durable=False)

    undisturbed, stopped = Store(spec(row_format), MemoryBackend()), Store(spec(row_format, shards), backend())
    for number in range(1, 13):
        both_steps(undisturbed, number)
        both_steps(stopped, number)
        if number % 3 == 0:
            commit(stopped, number)
            if number % 2:  # what is not committed is trained again
                both_steps(stopped, 100 + number)
            stopped.close()
            stopped = Store(spec(row_format, shards), backend())
    assert every_row(stopped) == every_row(undisturbed)
    stopped.close()


def test_formats_differ_and_are_what_rows_can_hold() -> None:
    found = {}
    for row_format in FORMATS:
        store = Store(spec(row_format), MemoryBackend())
        for number in range(1, 10):
            both_steps(store, number)
        found[row_format] = embeddings(every_row(store), "wide", 3)
        np.testing.assert_array_equal(nearest(row_format, found[row_format]), found[row_format])
    assert len(found["fp32"]) == len(found["bf16"]) > 100
    for row_format, apart in (("fp16", 2e-3), ("bf16", 2e-2)):
        difference = np.abs(found[row_format] - found["fp32"])
        assert 0 < difference.mean() < apart


@pytest.mark.parametrize("before", FORMATS)
@pytest.mark.parametrize("after", FORMATS)
def test_a_store_opens_in_another_format(before: str, after: str) -> None:
    name = f"formats-{next(_numbers)}"
    store = Store(spec(before), MemoryBackend(name))
    for number in range(1, 6):
        both_steps(store, number)
    commit(store, 6)
    written = every_row(store)
    store.close()
    opened = Store(spec(after), MemoryBackend(name))
    found = every_row(opened)
    for table, dim in (("wide", 3), ("narrow", 1)):
        assert besides(found, table, dim) == besides(written, table, dim)
        np.testing.assert_array_equal(
            embeddings(found, table, dim), nearest(after, embeddings(written, table, dim)), strict=True
        )
    both_steps(opened, 7)
    commit(opened, 8)
    went_on = every_row(opened)
    opened.close()
    again = Store(spec(after), MemoryBackend(name))  # rows that were not touched are rounded as before
    assert every_row(again) == went_on
    again.close()


def test_half_as_wide_rows_take_less_memory() -> None:
    used = {}
    for row_format in FORMATS:
        table = TableSpec("t", 64, "sgd", 0.1, row_format=row_format)
        store = Store(StoreSpec("m", (table,)), MemoryBackend())
        store.pull("t", bags(list(range(100_000))), 0)
        used[row_format] = store.memory_bytes
    assert used["fp16"] == used["bf16"] < 0.65 * used["fp32"]


def test_rows_for_serving_cannot_learn() -> None:
    with pytest.raises(SpecError, match=r"table 'wide': row_format = 'int8': must be one of .*bf16"):
        spec("int8")
