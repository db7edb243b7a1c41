"""Example keys are forgotten by the time of the examples, not by the clock of the machine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from monobeam.store.memory import MemoryBackend
from monobeam.store.spec import StoreSpec, TableSpec
from monobeam.store.store import Store

DAY_S = 86_400
SPEC = StoreSpec("m", (TableSpec("t", 2, "sgd", 0.1),), example_retention_us=7 * DAY_S * 1_000_000)
NOW_US = 1_790_000_000 * 1_000_000
LONG_AGO_S = 1_700_000_000
NO_ARRIVALS = np.empty(0, np.int64)


def reopened(*, later_s: int) -> Store:
    """A store that saw key 1 long ago and key 2 some time later, both in a backfill of today."""
    place = f"retention{later_s}"
    store = Store(SPEC, MemoryBackend(place))
    for key, seconds in ((1, LONG_AGO_S), (2, LONG_AGO_S + later_s)):
        assert store.unseen(np.array([key], np.uint64), seconds).all()
        store.commit({0: key}, None, None, NO_ARRIVALS, NOW_US)
    store.close()
    return Store(SPEC, MemoryBackend(place))


def test_a_backfill_of_old_logs_remembers_its_examples() -> None:
    store = reopened(later_s=DAY_S)
    assert not store.unseen(np.array([1, 2], np.uint64), LONG_AGO_S + DAY_S).any()


def test_keys_older_than_the_retention_are_forgotten() -> None:
    store = reopened(later_s=8 * DAY_S)
    assert store.unseen(np.array([1, 2], np.uint64), LONG_AGO_S + 8 * DAY_S).tolist() == [True, False]


@pytest.mark.parametrize("sweeps", [False, True])
def test_example_keys_are_forgotten_by_time_whether_or_not_the_sweep_has_come(sweeps: bool) -> None:
    store = Store(replace(SPEC, example_retention_us=1_000_000_000), MemoryBackend())
    key = np.array([1], np.uint64)
    assert store.unseen(key, 100).all()
    for second in (1099, 1100):  # the first is within the retention; so is the second, seen from the one before
        assert not store.unseen(key, second).any()
        if sweeps:
            store.expire(second)
    assert store.unseen(key, 1101).all()
    assert not store.unseen(key, 1102).any()
