"""What every backend must do: the same tests over all of them, knowing none of them from inside."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monobeam.store.backend import (
    FORGET_ALL,
    Backend,
    BackendError,
    Commit,
    OwnedError,
    SeenKeys,
    ShardCommit,
    open_backend,
)
from monobeam.store.changes import NO_KEYS, Change
from monobeam.store.spec import SpecError
from tests.store.history import (
    FINGERPRINT,
    SHARDS,
    Rows,
    Twin,
    after,
    apply,
    check,
    commit,
    ids_of,
    manifest,
    rows_of,
    seen_of,
)
from tests.store.places import Opener

NO_SEEN = SeenKeys(NO_KEYS, np.empty(0, np.uint32))


def test_nothing_before_the_first_commit(place: Opener) -> None:
    backend = place()
    assert backend.manifest() is None
    assert backend.load(0).manifest is None
    assert list(backend.load(0).blocks) == []
    assert backend.changed(0, 0) is None
    assert list(backend.seen()) == []
    assert backend.dense() is None
    assert backend.dense_values() is None


def test_every_commit_is_there_when_opened_again(place: Opener) -> None:
    twin = Twin()
    for number in range(1, 60):
        backend = place()
        backend.own()
        backend.commit(commit(number))
        check(backend, twin.advance(number))
        backend.close()
        check(place(), twin)


def test_folding_keeps_every_row(backend: Backend) -> None:
    twin = Twin()
    for number in range(1, 100):
        backend.commit(commit(number))
        assert rows_of(backend, 1) == twin.advance(number).rows(1)


def test_changed_from_every_epoch_is_the_difference(backend: Backend) -> None:
    twin = Twin()
    states = [[twin.rows(shard) for shard in range(SHARDS)]]
    incremental = 0
    for number in range(1, 80):
        backend.commit(commit(number))
        twin.advance(number)
        states.append([twin.rows(shard) for shard in range(SHARDS)])
    for number, before in enumerate(states):
        for shard in range(SHARDS):
            changed = backend.changed(shard, manifest(number).epochs[shard] if number else 0)
            assert changed is not None
            assert changed.epoch == manifest(79).epochs[shard]
            assert after(before[shard], changed) == twin.rows(shard)
            incremental += not changed.complete
    assert incremental >= 8 * SHARDS


def test_a_replica_that_is_up_to_date_or_from_elsewhere(backend: Backend) -> None:
    backend.commit(commit(1))
    current = backend.changed(0, manifest(1).epochs[0])
    assert current is not None
    assert not current.complete
    assert not any(current.tables.values())
    ahead = backend.changed(0, manifest(2).epochs[0])
    assert ahead is not None
    assert ahead.complete


def test_a_commit_without_changes_moves_positions(backend: Backend) -> None:
    backend.commit(commit(1))
    rows = rows_of(backend, 0)
    shards = [ShardCommit(epoch, {}) for epoch in manifest(2).epochs]
    backend.commit(Commit(manifest(2, positions={0: 99}), shards, NO_SEEN, 0))
    assert backend.manifest() == manifest(2, positions={0: 99})
    assert rows_of(backend, 0) == rows
    assert backend.dense() == b"dense 1"


def test_deleted_ids_stay_away_until_written_again(backend: Backend) -> None:
    def step(number: int, written: list[int], deleted: list[int]) -> None:
        rows = np.full((len(written), 24), number, np.uint8)
        items = Change(np.array(written, np.uint64), rows, np.array(deleted, np.uint64))
        first, second = manifest(number).epochs
        shards = [ShardCommit(first, {"items": items}), ShardCommit(second, {})]
        backend.commit(Commit(manifest(number), shards, NO_SEEN, 0))

    one, two, three, other = ids_of(0)[:4].tolist()
    step(1, [one, two, three], [])
    step(2, [], [one, two, other])
    assert rows_of(backend, 0)["items"] == {three: bytes([1]) * 24}
    step(3, [two], [three])
    assert rows_of(backend, 0)["items"] == {two: bytes([3]) * 24}
    changed = backend.changed(0, manifest(1).epochs[0])
    assert changed is not None
    if not changed.complete:
        assert changed.tables["items"].deletes.tolist() == [one, three, other]


def test_old_example_keys_are_forgotten_and_young_ones_kept(backend: Backend) -> None:
    count = 2000
    for number in range(1, 41):
        keys = np.arange(number * count, (number + 1) * count, dtype=np.uint64)
        seen = SeenKeys(keys, np.full(count, number, np.uint32))
        shards = [ShardCommit(epoch, {}) for epoch in manifest(number).epochs]
        backend.commit(Commit(manifest(number), shards, seen, number - 10))
        stored = seen_of(backend)
        young = {key: second for second in range(max(1, number - 9), number + 1)
                 for key in range(second * count, (second + 1) * count)}  # fmt: skip
        assert young.items() <= stored.items()
        assert len(stored) <= len(young) + 3 * count


def test_all_example_keys_can_be_replaced_at_once(backend: Backend) -> None:
    for number in range(1, 4):
        backend.commit(commit(number))
    keys = SeenKeys(np.arange(7, dtype=np.uint64), np.full(7, 5, np.uint32))
    shards = [ShardCommit(epoch, {}) for epoch in manifest(4).epochs]
    backend.commit(Commit(manifest(4), shards, keys, FORGET_ALL))
    assert seen_of(backend) == dict.fromkeys(range(7), 5)


def test_dense_bytes_of_any_size(backend: Backend) -> None:
    for number, size in enumerate([5 << 20, 3, 0, 1 << 20], 1):
        shards = [ShardCommit(epoch, {}) for epoch in manifest(number).epochs]
        dense = np.random.default_rng(number).bytes(size)
        backend.commit(
            Commit(manifest(number, dense_version=number), shards, NO_SEEN, 0, dense=dense, dense_values=dense[::-1])
        )
        assert backend.dense() == dense
        assert backend.dense_values() == (number, dense[::-1])


def test_dense_values_keep_their_version_until_published_again(backend: Backend) -> None:
    for number in range(1, 25):
        backend.commit(commit(number))
    assert backend.dense_values() == (2, b"values 20")


def test_one_owner_at_a_time(place: Opener) -> None:
    first, second = place(), place()
    first.own()
    first.own()
    first.commit(commit(1))
    with pytest.raises(OwnedError, match="own"):
        second.own()
    with pytest.raises(OwnedError, match="own"):
        second.commit(commit(2))
    check(second, Twin().advance(1))
    first.close()
    third = place()
    third.own()
    third.commit(commit(2))
    check(second, Twin().advance(2))


def test_a_refused_commit_changes_nothing(backend: Backend) -> None:
    for number in range(1, 30):
        backend.commit(commit(number))
    twin = Twin().advance(29)
    with pytest.raises(BackendError, match="epoch 29000 of shard 0 after 29000"):
        backend.commit(commit(29))
    other = {**FINGERPRINT, "tables": {**FINGERPRINT["tables"], "users": {"dim": 3}}}
    stranger = replace(commit(30), manifest=manifest(30, fingerprint=other))
    with pytest.raises(SpecError, match=r"tables\.users\.dim is 2 there and 3 here"):
        backend.commit(stranger)
    check(backend, twin)
    backend.commit(commit(30))
    check(backend, twin.advance(30))


def test_loading_shows_one_moment(backend: Backend) -> None:
    twin = Twin()
    for number in range(1, 31):
        backend.commit(commit(number))
    loaded = backend.load(0)
    first = next(loaded.blocks)
    for number in range(31, 60):
        backend.commit(commit(number))
    rows: Rows = {}
    for block in itertools.chain([first], loaded.blocks):
        apply(rows, {block.table: Change(block.keys, block.rows, NO_KEYS)})
    assert loaded.manifest == commit(30).manifest
    assert rows == twin.advance(30).rows(0)


ids = st.lists(st.integers(0, 9), unique=True, max_size=6)
tables = st.dictionaries(st.sampled_from(["items", "users"]), st.tuples(ids, ids))
histories = st.lists(st.tuples(tables, tables, st.booleans()), max_size=12)


@settings(max_examples=60, deadline=None)
@given(history=histories, since=st.integers(0, 12))
def test_any_history(new_place: Callable[[], Opener], history: list, since: int) -> None:  # type: ignore[type-arg]
    place = new_place()
    backend = place()
    backend.own()
    shards: list[Rows] = [{} for _ in range(SHARDS)]
    states: list[list[Rows]] = [[{}, {}]]
    for number, (*per_shard, reopen) in enumerate(history, 1):
        commits = []
        for shard, (rows, changes) in enumerate(zip(shards, per_shard, strict=True)):
            tables = {name: _change(shard, number, *parts) for name, parts in changes.items()}
            commits.append(ShardCommit(manifest(number).epochs[shard], tables))
            apply(rows, tables)
        backend.commit(Commit(manifest(number), commits, NO_SEEN, 0))
        states.append([{name: dict(table) for name, table in rows.items() if table} for rows in shards])
        if reopen:
            backend.close()
            backend = place()
            backend.own()
    for shard in range(SHARDS):
        assert rows_of(backend, shard) == states[-1][shard]
        if history:
            past = min(since, len(history))
            changed = backend.changed(shard, manifest(past).epochs[shard] if past else 0)
            assert changed is not None
            assert after(states[past][shard], changed) == states[-1][shard]
    backend.close()


def _change(shard: int, number: int, written: list[int], deleted: list[int]) -> Change:
    gone = [place for place in deleted if place not in written]
    rows = np.full((len(written), 24), number, np.uint8)
    return Change(ids_of(shard)[written], rows, ids_of(shard)[gone])


@pytest.mark.parametrize(
    "uri", ["", "lmdb:", "redis:x", "store", "bigtable://p/i", "bigtable://p/i/t/x", "bigtable://p/i/t?lease_s=0"]
)
def test_unknown_places(uri: str) -> None:
    with pytest.raises(ValueError, match=r"must be .*bigtable://PROJECT/INSTANCE/TABLE"):
        open_backend(uri)


def test_places_by_name(tmp_path: Path) -> None:
    named = open_backend("memory:somewhere")
    named.own()
    named.commit(commit(1))
    check(open_backend("memory:somewhere"), Twin().advance(1))
    assert open_backend("memory:").manifest() is None
    assert open_backend(f"lmdb:{tmp_path / 'store'}").manifest() is None
    assert not (tmp_path / "store").exists()
