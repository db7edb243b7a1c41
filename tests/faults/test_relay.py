"""The relay loses, repeats and reorders what it is told to, and passes on everything else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks._faults.relay import Relay
from monobeam.logs.log import Appender, open_log, records
from monobeam.store.sync import SYNC, SyncEvent


def event(epoch: int) -> dict[str, Any]:
    return SyncEvent("m", 0, epoch, epoch - 1, epoch, {}, 0, None, np.empty(0, np.int64)).to_record()


class Wire:
    def __init__(self, folder: Path) -> None:
        self.source: Appender = open_log(f"file:{folder / 'sync'}", partitions=1).appender(0, SYNC)
        self.relay = Relay(f"file:{folder / 'sync'}", f"file:{folder / 'relayed'}", 1)
        self._target = open_log(f"file:{folder / 'relayed'}")

    def send(self, *epochs: int) -> None:
        self.source.append([event(epoch) for epoch in epochs])

    def came(self) -> list[int]:
        return [record["epoch"] for record in records(self._target.read(0, 0, 1000))]

    def wait(self, *epochs: int) -> None:
        deadline = time.monotonic() + 20
        while self.came() != list(epochs):
            assert time.monotonic() < deadline, self.came()
            time.sleep(0.01)


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    wire = Wire(tmp_path)
    wire.send(1, 2)
    wire.wait(1, 2)
    yield wire
    wire.relay.close()
    wire.source.close()


def test_lost(wire: Wire) -> None:
    wire.relay.disturb("lose", 2)
    wire.send(3, 4, 5)
    wire.wait(1, 2, 5)
    assert wire.relay.done == {"lose": 2}


def test_repeated_at_once_and_later(wire: Wire) -> None:
    wire.relay.disturb("repeat", 2)
    wire.send(3, 4, 5)
    wire.wait(1, 2, 3, 3, 4, 4, 3, 4, 5)


def test_reordered(wire: Wire) -> None:
    wire.relay.disturb("reorder", 3)
    wire.send(3, 4, 5, 6)
    wire.wait(1, 2, 5, 4, 3, 6)


def test_what_is_held_back_comes_when_it_settles(wire: Wire) -> None:
    wire.relay.disturb("reorder", 5)
    wire.send(3, 4)
    deadline = time.monotonic() + 20
    while wire.relay.done["reorder"] < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert wire.came() == [1, 2]
    wire.relay.settle()
    wire.send(5)
    wire.wait(1, 2, 4, 3, 5)
