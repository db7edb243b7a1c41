"""The proxy fails calls, or makes less or later of them, and what tries again gets everything written all the same."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from benchmarks._faults.clock import Clock
from benchmarks._faults.nursery import Child, Nursery, Program
from benchmarks._faults.proxy import control
from benchmarks._faults.schedule import SUFFER, Schedule
from examples.emulators import BIGTABLE_HOST
from examples.ports import free_ports
from monobeam.store.bigtable import BigtableBackend
from tests.store import history

SEEDS = itertools.count()


@pytest.fixture(scope="module")
def proxy(nursery: Nursery, emulator: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("proxy")
    (port,) = free_ports(1)
    arguments = [f"--port={port}", f"--emulator={emulator}"]
    program = Program("benchmarks._faults.proxy", arguments, folder, Clock(folder / "clock").path)
    child: Child = nursery.start(program, folder / "out")
    try:
        yield f"127.0.0.1:{port}"
    finally:
        child.kill()


@pytest.mark.parametrize("kind", SUFFER)
def test_a_store_behind_it_is_whole(
    kind: str, proxy: str, new_table: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, twin = new_table(), history.Twin()
    monkeypatch.setenv(BIGTABLE_HOST, proxy)
    backend = BigtableBackend(uri)
    backend.own(range(history.SHARDS))
    before = control(proxy).get(kind, 0)
    control(proxy, {"kind": kind, "calls": 6, "seed": next(SEEDS)})
    number = 0
    deadline = time.monotonic() + 60
    while control(proxy).get(kind, 0) < before + 6:
        number += 1
        backend.commit(history.commit(number))
        history.check(backend, twin.advance(number))
        assert time.monotonic() < deadline
    backend.close()
    history.check(BigtableBackend(uri), twin.advance(number))
    assert np.all([history.rows_of(BigtableBackend(uri), shard) for shard in range(history.SHARDS)])


def test_some_calls_come_through_and_the_rest_have_one_fate() -> None:
    schedule = Schedule()
    schedule.disturb("half", 5, 3)
    fates = [schedule.fate("MutateRows")[0] for _ in range(100)]
    assert fates.count("half") == 5 == schedule.done["half"]
    assert "" in fates[: max(place for place, fate in enumerate(fates) if fate)]
    again = Schedule()
    again.disturb("half", 5, 3)
    assert [again.fate("MutateRows")[0] for _ in range(100)] == fates


def test_reads_are_not_applied_by_halves() -> None:
    schedule = Schedule()
    schedule.disturb("half", 5, 3)
    assert {schedule.fate("ReadRows")[0] for _ in range(20)} == {""}


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="kind 'sleep': must be one of fail, delay"):
        Schedule().disturb("sleep", 1, 0)
