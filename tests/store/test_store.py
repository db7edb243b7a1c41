"""The store over its backends: what is pulled, pushed, committed and found again."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monobeam.store import dense
from monobeam.store.backend import Backend, BackendError, Commit, OwnedError
from monobeam.store.bags import Bags
from monobeam.store.lmdb import LmdbBackend
from monobeam.store.memory import MemoryBackend
from monobeam.store.spec import SlotPolicy, SpecError, StoreSpec, TableSpec
from monobeam.store.store import Store
from monobeam.store.sync import SyncEvent
from tests.store.counts import update_count_sum

NO_ARRIVALS = np.empty(0, np.int64)
_numbers = itertools.count()

WIDE = TableSpec(
    "wide", 3, "adagrad", 0.05, {"initial_accumulator": 0.1}, seed=1, policies={7: SlotPolicy(expire_us=60_000_000)}
)
NARROW = TableSpec("narrow", 1, "sgd", 0.1, seed=2)
SPEC = StoreSpec("m", (WIDE, NARROW), example_retention_us=1_000_000_000)


@pytest.fixture(params=["memory", "lmdb", "bigtable"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Backend]:
    if request.param == "bigtable":
        opened: Callable[[], Backend] = request.getfixturevalue("bigtable_place")()
        return opened
    name = f"store-{next(_numbers)}"
    if request.param == "memory":
        return lambda: MemoryBackend(name, keep_epochs=4, fold_bytes=1 << 12)
    return lambda: LmdbBackend(tmp_path / name, keep_epochs=4, fold_bytes=1 << 12, durable=False)


def bags(*lists: list[int]) -> Bags:
    return Bags(
        np.array([*itertools.chain(*lists)], np.uint64), np.cumsum([0] + [len(keys) for keys in lists], dtype=np.int64)
    )


def step(store: Store, number: int, ids: int = 200, table: str = "wide") -> None:
    """A reproducible train step: bags of 0 to 20 ids, repeats in and between them."""
    rng = np.random.default_rng(number)
    lengths = rng.integers(0, 20, 15)
    keys = rng.integers(0, ids, lengths.sum()).astype(np.uint64) | np.uint64(5 << 48)
    pulled = store.pull(table, Bags(keys, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)), number)
    gradients = rng.normal(size=pulled.pooled.shape).astype(np.float32)
    store.push(pulled, gradients * (1 + pulled.pooled))


def commit(store: Store, number: int, **fields: Any) -> list[SyncEvent]:
    values = {"positions": {0: number}, "dense": None, "dense_values": None, "arrivals": NO_ARRIVALS}
    return store.commit(**{**values, "now_us": 1_000_000 * number, **fields})


def every_row(store: Store) -> dict[str, dict[int, bytes]]:
    rows: dict[str, dict[int, bytes]] = {name: {} for name in ("wide", "narrow")}
    for shard in store.host.shards.values():
        for name, table in shard.tables.items():
            keys = table.keys()
            rows[name].update(zip(keys.tolist(), map(bytes, table.export_rows(keys)), strict=True))
    return rows


def test_a_store_opened_again_is_as_of_its_last_commit(opener: Callable[[], Backend]) -> None:
    store = Store(SPEC, opener())
    assert store.positions() == {}
    assert store.dense() is None
    committed: dict[str, dict[int, bytes]] = {"wide": {}, "narrow": {}}
    for number in range(1, 40):
        step(store, number)
        step(store, number, table="narrow")
        if number % 3 == 0:
            commit(store, number, dense=b"dense %d" % number, meta={"number": number})
            committed = every_row(store)
        if number % 5 == 0:
            updates = update_count_sum(store)
            store.close()
            store = Store(SPEC, opener())
            assert every_row(store) == committed
            assert store.positions() == ({0: number - number % 3} if number >= 3 else {})
            assert store.dense() == (b"dense %d" % (number - number % 3) if number >= 3 else None)
            assert update_count_sum(store) <= updates
    assert store.meta() == {"number": 39}
    assert store.rows == sum(map(len, committed.values()))


def test_crashes_and_replays_end_in_the_same_bits(opener: Callable[[], Backend]) -> None:
    straight = Store(SPEC, MemoryBackend())
    for number in range(1, 31):
        step(straight, number)
        if number % 4 == 0:
            commit(straight, number)
    store = Store(SPEC, opener())
    for crash_after in (3, 5, 6, 17, 30):
        for number in range(store.positions().get(0, 0) + 1, crash_after + 1):
            step(store, number)
            if number % 4 == 0:
                commit(store, number)
        if crash_after < 30:
            store.close()
            store = Store(SPEC, opener())
    assert every_row(store) == every_row(straight)
    assert update_count_sum(store) == update_count_sum(straight)


@pytest.mark.parametrize("shards", [2, 3, 7])
def test_several_shards_equal_one_bit_for_bit(opener: Callable[[], Backend], shards: int) -> None:
    one, several = Store(SPEC, MemoryBackend()), Store(replace(SPEC, shards=shards), opener())
    for number in range(1, 25):
        for store in (one, several):
            step(store, number)
            if number % 4 == 0:
                commit(store, number)
    assert every_row(several) == every_row(one)
    rng = np.random.default_rng(0)
    asked = Bags(
        rng.integers(0, 300, 500).astype(np.uint64) | np.uint64(5 << 48), np.arange(0, 501, 20, dtype=np.int64)
    )
    expected = one.lookup("wide", asked)
    np.testing.assert_array_equal(several.lookup("wide", asked), expected)
    np.testing.assert_array_equal(several.pull("wide", asked, 99).pooled, one.pull("wide", asked, 99).pooled)
    several.close()
    again = Store(replace(SPEC, shards=shards), opener())
    np.testing.assert_array_equal(again.lookup("wide", asked), expected)


def test_events_say_what_changed(opener: Callable[[], Backend]) -> None:
    store = Store(replace(SPEC, shards=2), opener())
    step(store, 1)
    weights = {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}
    events = commit(store, 1, dense_values=weights, arrivals=np.array([5, 6]))
    assert [(event.shard, event.epoch, event.previous_epoch) for event in events] == [(0, 1000, 0), (1, 1000, 0)]
    assert {event.dense_version for event in events} == {1}
    np.testing.assert_array_equal(dense.decode(events[1].dense or b"")["w"], weights["w"])
    assert events[0].arrivals.tolist() == [5, 6]
    asked = np.concatenate([event.tables["wide"].keys for event in events])
    assert len(asked) == store.rows
    values = np.concatenate([event.tables["wide"].values for event in events])
    found = store.lookup("wide", Bags(asked, np.arange(len(asked) + 1, dtype=np.int64)))
    np.testing.assert_array_equal(values, found)
    quiet = commit(store, 1)
    assert [(event.epoch, event.previous_epoch, event.dense, event.dense_version) for event in quiet] == [
        (1001, 1000, None, 1)
    ] * 2
    assert not any(len(table.keys) + len(table.deletes) for event in quiet for table in event.tables.values())


def test_epochs_rise_though_the_clock_does_not(opener: Callable[[], Backend]) -> None:
    store = Store(SPEC, opener())
    epochs = [commit(store, number)[0].epoch for number in (5, 5, 3, 6)]
    assert epochs == [5000, 5001, 5002, 6000]
    store.close()
    assert commit(Store(SPEC, opener()), 1)[0].epoch == 6001


def test_a_commit_is_readable_by_its_backend_alone(opener: Callable[[], Backend]) -> None:
    store = Store(SPEC, opener())
    step(store, 1)
    events = commit(store, 1, dense_values={"w": np.ones(2, np.float32)})
    reader = opener()
    changed = reader.changed(0, events[0].previous_epoch)
    assert changed is not None
    assert changed.epoch == 1000
    assert changed.tables["wide"].keys.tolist() == events[0].tables["wide"].keys.tolist()
    published = reader.dense_values()
    assert published is not None
    assert published.version == 1
    assert dense.decode(published.values)["w"].tolist() == [1, 1]


def test_expired_rows_are_deleted_everywhere(opener: Callable[[], Backend]) -> None:
    short, long = 7 << 48 | 1, 5 << 48 | 1
    store = Store(SPEC, opener())
    store.push(store.pull("wide", bags([short], [long]), 10), np.ones((2, 3), np.float32))
    commit(store, 10)
    assert store.expire(69, 1000) == 0
    assert store.expire(70, 1000) == 1
    (event,) = commit(store, 70)
    assert event.tables["wide"].deletes.tolist() == [short]
    store.close()
    store = Store(SPEC, opener())
    assert every_row(store)["wide"].keys() == {long}


def test_a_row_made_anew_after_it_expired_is_written(opener: Callable[[], Backend]) -> None:
    short = 7 << 48 | 1
    store = Store(SPEC, opener())
    store.push(store.pull("wide", bags([short]), 10), np.ones((1, 3), np.float32))
    commit(store, 10)
    store.expire(70, 1000)
    fresh = store.pull("wide", bags([short]), 71).pooled
    (event,) = commit(store, 71)
    assert event.tables["wide"].deletes.tolist() == []
    np.testing.assert_array_equal(event.tables["wide"].values, fresh)
    store.close()
    np.testing.assert_array_equal(Store(SPEC, opener()).lookup("wide", bags([short])), fresh)


def test_examples_are_unseen_once(opener: Callable[[], Backend]) -> None:
    store = Store(SPEC, opener())
    keys = np.array([3, 2**64 - 1, 3, 0], np.uint64)
    assert store.unseen(keys, 100).tolist() == [True, True, False, True]
    assert store.unseen(keys[:2], 101).tolist() == [False, False]
    commit(store, 101)
    assert store.unseen(np.array([4], np.uint64), 102).tolist() == [True]
    store.close()
    store = Store(SPEC, opener())
    assert store.unseen(np.array([0, 4, 3, 2**64 - 1], np.uint64), 103).tolist() == [False, True, False, False]


def test_examples_are_forgotten_after_the_retention_from_first_sight(opener: Callable[[], Backend]) -> None:
    store = Store(SPEC, opener())
    old, young = np.array([1], np.uint64), np.array([2], np.uint64)
    store.unseen(old, 100)
    commit(store, 100)
    store.unseen(young, 600)
    assert not store.unseen(old, 600).any()
    commit(store, 600)
    store.expire(1099, 1 << 20)
    assert not store.unseen(old, 1099).any()
    store.expire(1100, 1 << 20)
    commit(store, 1100)
    assert not store.unseen(young, 1100).any()
    assert store.unseen(old, 1100).all()


def test_policies_bind(opener: Callable[[], Backend]) -> None:
    table = replace(WIDE, policies={5: SlotPolicy(admit_count=3)})
    store = Store(replace(SPEC, tables=(table,)), opener())
    asked = bags([5 << 48 | 1])
    rows = []
    for second in range(3):
        store.pull("wide", asked, second)
        rows.append(store.rows)
    assert rows == [0, 0, 1]


def test_lookup_makes_nothing(opener: Callable[[], Backend]) -> None:
    store = Store(replace(SPEC, shards=2), opener())
    np.testing.assert_array_equal(store.lookup("wide", bags([1, 2], [], [3])), np.zeros((3, 3), np.float32))
    assert store.rows == 0


class _Failing(MemoryBackend):
    fail = False

    def commit(self, commit: Commit) -> None:
        if self.fail:
            raise BackendError("no room")
        super().commit(commit)


def test_a_failed_commit_can_be_made_again() -> None:
    backend = _Failing("failing")
    store = Store(SPEC, backend)
    step(store, 1)
    store.unseen(np.array([1], np.uint64), 1)
    backend.fail = True
    with pytest.raises(BackendError, match="no room"):
        commit(store, 1)
    assert store.positions() == {}
    backend.fail = False
    commit(store, 2)
    expected = every_row(store)
    store.close()
    again = Store(SPEC, MemoryBackend("failing"))
    assert every_row(again) == expected
    assert again.positions() == {0: 2}
    assert not again.unseen(np.array([1], np.uint64), 2).any()


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (replace(SPEC, shards=2), "shards is 1 there and 2 here"),
        (replace(SPEC, model="n"), "model is 'm' there and 'n' here"),
        (replace(SPEC, tables=(replace(WIDE, dim=4), NARROW)), "tables.wide.dim is 3 there and 4 here"),
        (replace(SPEC, tables=(replace(WIDE, seed=9), NARROW)), "tables.wide.seed is 1 there and 9 here"),
        (replace(SPEC, tables=(WIDE,)), "tables.narrow is there, and not here"),
        (
            replace(SPEC, tables=(replace(WIDE, optimizer="adam", hyper={}), NARROW)),
            "tables.wide.optimizer is 'adagrad' there and 'adam' here",
        ),
    ],
)
def test_another_specification_is_refused(opener: Callable[[], Backend], spec: StoreSpec, said: str) -> None:
    store = Store(SPEC, opener())
    step(store, 1)
    commit(store, 1)
    store.close()
    with pytest.raises(SpecError) as refused:
        Store(spec, opener())
    assert said in str(refused.value)
    assert Store(SPEC, opener()).rows > 0


def test_rates_hyper_parameters_and_policies_may_change(opener: Callable[[], Backend]) -> None:
    store = Store(SPEC, opener())
    commit(store, 1)
    store.close()
    wide = replace(WIDE, learning_rate=1.0, hyper={"initial_accumulator": 0.2}, policies={})
    assert Store(replace(SPEC, tables=(NARROW, wide)), opener()).positions() == {0: 1}


def test_one_store_at_a_time(opener: Callable[[], Backend]) -> None:
    store = Store(SPEC, opener())
    with pytest.raises(OwnedError):
        Store(SPEC, opener())
    store.close()
    Store(SPEC, opener())


def test_gradients_must_fit() -> None:
    store = Store(SPEC, MemoryBackend())
    pulled = store.pull("wide", bags([1], [2]), 1)
    with pytest.raises(ValueError, match=r"gradients \(1, 3\) for pooled rows \(2, 3\)"):
        store.push(pulled, np.zeros((1, 3), np.float32))


actions = st.one_of(
    st.tuples(st.just("train"), st.lists(st.lists(st.integers(0, 12), max_size=4), min_size=1, max_size=4)),
    st.tuples(st.just("commit"), st.none()),
    st.tuples(st.just("crash"), st.none()),
    st.tuples(st.just("see"), st.lists(st.integers(0, 8), max_size=5)),
)


@settings(max_examples=50, deadline=None)
@given(script=st.lists(actions, max_size=15), shards=st.integers(1, 3), kind=st.sampled_from(["memory", "lmdb"]))
def test_any_script_against_dicts(
    script: list[tuple[str, Any]], shards: int, kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A store of one-float rows that start at zero, trained by SGD, against a dict that does the same in float32."""
    spec = StoreSpec("m", (TableSpec("t", 1, "sgd", 0.5, init_scale=0.0),), shards)
    place = f"script-{next(_numbers)}"
    directory = tmp_path_factory.getbasetemp() / place

    def opened() -> Store:
        backend = MemoryBackend(place) if kind == "memory" else LmdbBackend(directory, durable=False)
        return Store(spec, backend)

    store = opened()
    live: tuple[dict[int, np.float32], set[int], int] = ({}, set(), 0)
    saved = ({}, set(), 0)  # type: tuple[Mapping[int, np.float32], set[int], int]
    for number, (action, argument) in enumerate(script, 1):
        rows, seen, position = live
        if action == "train":
            asked = bags(*argument)
            pulled = store.pull("t", asked, number)
            np.testing.assert_array_equal(pulled.pooled[:, 0], [_sum(rows, keys) for keys in argument])
            gradients = np.arange(1, len(argument) + 1, dtype=np.float32)[:, None] / np.float32(3)
            store.push(pulled, gradients)
            _descend(rows, argument, gradients[:, 0])
            live = (rows, seen, number)
        elif action == "commit":
            commit(store, number, positions={0: position})
            saved = (dict(rows), set(seen), position)
        elif action == "crash":
            store.close()
            store = opened()
            live = (dict(saved[0]), set(saved[1]), saved[2])
            assert store.positions().get(0, 0) == saved[2]
        else:
            unseen = store.unseen(np.array(argument, np.uint64), number)
            for key, new in zip(argument, unseen.tolist(), strict=True):
                assert new == (key not in seen)
                seen.add(key)
    expected = [live[0].get(key, np.float32(0)) for key in range(13)]
    np.testing.assert_array_equal(store.lookup("t", bags(*([key] for key in range(13))))[:, 0], expected)
    store.close()


def _sum(rows: Mapping[int, np.float32], keys: list[int]) -> np.float32:
    total = np.float32(0)
    for key in keys:
        total += rows.get(key, np.float32(0))
    return total


def _descend(rows: dict[int, np.float32], lists: list[list[int]], gradients: np.ndarray) -> None:  # type: ignore[type-arg]
    sums: dict[int, np.float32] = {}
    for keys, gradient in zip(lists, gradients, strict=True):
        for key in keys:
            sums[key] = sums[key] + gradient if key in sums else gradient
    for key, gradient in sums.items():
        rows[key] = rows.get(key, np.float32(0)) - np.float32(0.5) * gradient
