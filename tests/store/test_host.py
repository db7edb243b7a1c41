"""Shards in one process: what a commit changed is told of that commit, whatever the next one is at."""

from __future__ import annotations

import numpy as np

from monobeam.store.bags import Bags
from monobeam.store.host import ShardHost
from monobeam.store.room import TableRoom
from monobeam.store.spec import StoreSpec, TableSpec

SPEC = StoreSpec("m", (TableSpec("t", 2, "sgd", 0.5),), shards=2)


def touch(host: ShardHost, key: int) -> None:
    _, pulls = host.pull("t", Bags(np.array([key], np.uint64), np.array([0, 1], np.int64)), 0, True)()
    host.push(pulls, np.ones((1, 2), np.float32), 0.5)


def told(host: ShardHost, *epochs: int) -> list[int]:
    """Ids in the events of a commit."""
    return [int(key) for tables in host.events(epochs)().values() for change in tables.values() for key in change.keys]


def test_events_are_those_of_the_commit_that_they_are_asked_of() -> None:
    """Of two trainers, the one that committed first asks when the other's commit is half done."""
    host = ShardHost(SPEC, range(2), TableRoom(0, "room"))
    touch(host, 1)
    host.changes((1, 1))
    host.committed((1, 1))
    touch(host, 2)
    host.changes((2, 2))
    assert told(host, 1, 1) == [1]
    assert told(host, 1, 1) == []
    host.committed((2, 2))
    assert told(host, 1, 1) == []
    assert told(host, 2, 2) == [2]
