"""What is kept of the past in Bigtable: enough, no more, and nothing of what never was."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monobeam.store.backend import BackendError, Commit, OwnedError, SeenKeys, ShardCommit
from monobeam.store.bags import shard_of
from monobeam.store.bigtable import BigtableBackend, wire
from monobeam.store.bigtable.client import Address, Client
from monobeam.store.changes import NO_KEYS, Change
from monobeam.store.chunk import CorruptError
from tests.store.bigtable_proxy import Hold, Proxy
from tests.store.history import SHARDS, Rows, Twin, after, apply, check, commit, ids_of, manifest, rows_of

KEEP = 8
NO_SEEN = SeenKeys(NO_KEYS, np.empty(0, np.uint32))
Opener = Callable[..., BigtableBackend]


@pytest.fixture
def uri(new_table: Callable[[], str]) -> str:
    return new_table()


@pytest.fixture
def open_backend(uri: str) -> Iterator[Opener]:
    opened = []

    def open_it(lease_s: float = 30.0) -> BigtableBackend:
        opened.append(BigtableBackend(uri, keep_epochs=KEEP, lease_s=lease_s))
        return opened[-1]

    yield open_it
    for backend in opened:
        backend.close()


@pytest.fixture
def backend(open_backend: Opener) -> BigtableBackend:
    opened = open_backend()
    opened.own()
    return opened


def cells_per_row(backend: BigtableBackend) -> Counter[tuple[str, int]]:
    return Counter((cell.table, cell.fid) for cell in backend.raw_cells())


def test_a_rows_history_is_bounded(backend: BigtableBackend) -> None:
    """Cells, rows of ids, of example keys and of dense weights: all of them, after any number of commits."""
    sizes = []
    for number in range(1, 121):
        backend.commit(commit(number))
        if number % 40 == 0:
            assert max(cells_per_row(backend).values()) <= KEEP + 2 * 8 + 2
            rows = {cell.key for cell in backend._client.cells(wire.Range(b"", b"\xff"), {"pass_all_filter": True})}
            sizes.append(Counter(key[:1] for key in rows))
    assert sizes[1].keys() == sizes[2].keys() == {b"d", b"k", b"r", b"s", b"t", b"w"}
    for kind in b"dtw":
        assert sizes[2][bytes([kind])] <= sizes[1][bytes([kind])] + 16
    assert sizes[2][b"k"] < 20
    check(backend, Twin().advance(120))


def test_deleted_ids_leave_nothing(backend: BigtableBackend) -> None:
    ids = ids_of(0)[:20]
    row = np.ones((20, 24), np.uint8)

    def step(number: int, items: Change) -> None:
        first, second = manifest(number).epochs
        shards = [ShardCommit(first, {"items": items}), ShardCommit(second, {})]
        backend.commit(Commit(manifest(number), shards, NO_SEEN, 0))

    step(1, Change(ids, row, NO_KEYS))
    step(2, Change(NO_KEYS, row[:0], ids))
    for number in range(3, 40):
        step(number, Change(ids_of(0)[20 + number :][:1], row[:1], NO_KEYS))
    assert not cells_per_row(backend).keys() & {("items", key) for key in ids.tolist()}


def test_a_load_that_takes_too_long_says_so(backend: BigtableBackend) -> None:
    for number in range(1, 11):
        backend.commit(commit(number))
    with backend.last_commit() as last:
        for number in range(11, 60):
            backend.commit(commit(number))
        with pytest.raises(BackendError, match="epoch 10000 of shard 0 was trimmed while it was read: read again"):
            list(last.load(0).blocks)
        assert last.dense() == b"dense 10"
        assert sum(len(block.keys) for block in last.seen()) == 500
    check(backend, Twin().advance(59))


def test_a_commit_is_read_while_others_go_on(backend: BigtableBackend) -> None:
    twin = Twin()
    for number in range(1, 22):
        backend.commit(commit(number))
    with backend.last_commit() as last:
        for number in range(22, 28):
            backend.commit(commit(number))
        assert last.manifest() == commit(21).manifest
        for shard in range(SHARDS):
            assert rows_of(last, shard) == twin.advance(21).rows(shard)  # type: ignore[arg-type]
        assert last.dense() == b"dense 21"
        assert last.dense_values() == (2, b"values 20")


def test_damage_is_named(uri: str, backend: BigtableBackend) -> None:
    for number in range(1, 4):
        backend.commit(commit(number))
    assert not list(backend.faults())
    client = Client(Address.parse(uri))
    victim = next(iter(backend.raw_cells()))
    (entry,) = wire.set_rows(victim.table, np.array([victim.fid], np.uint64), np.zeros((1, 24), np.uint8), victim.epoch)
    assert entry.count(b"\0" * 24) == 1
    client.mutate([entry.replace(b"\0" * 24, b"\0" * 23 + b"\1")])
    shard = int(shard_of(np.array([victim.fid], np.uint64), SHARDS)[0])
    with pytest.raises(CorruptError, match="checksum of its 28 bytes is wrong; restore the store from a copy"):
        rows_of(backend, shard)
    assert [fault for fault in backend.faults() if "checksum" in fault]
    client.mutate(wire.set_rows("items", ids_of(0)[:1], np.ones((1, 24), np.uint8), 9999))
    assert any("a cell of stamp 9999, where 3001 is the newest" in fault for fault in backend.faults())


@pytest.mark.parametrize(("kind", "said"), [(b"t", "dense weights"), (b"k", "rows of example keys")])
def test_rows_that_are_missing_are_missed(backend: BigtableBackend, kind: bytes, said: str) -> None:
    for number in range(1, 4):
        backend.commit(commit(number))
    rows = list(backend._client.cells(wire.Range(kind, bytes([kind[0] + 1])), {"pass_all_filter": True}))
    backend._client.mutate(wire.delete_row(cell.key) for cell in rows)
    with pytest.raises(BackendError, match=said):
        _ = backend.dense(), list(backend.seen())


@pytest.mark.parametrize(("after_calls", "commits"), [(0, 1), (1, 1), (1, 28)])
def test_late_writes_of_who_lost_the_lease_are_never_seen(
    emulator: str, open_backend: Opener, monkeypatch: pytest.MonkeyPatch, after_calls: int, commits: int
) -> None:
    """Its bulk writes and its publication arrive after others have committed; also when history is long trimmed."""
    proxy = Proxy(emulator)
    monkeypatch.setenv("BIGTABLE_EMULATOR_HOST", proxy.address)
    zombie = open_backend(lease_s=0.5)
    monkeypatch.setenv("BIGTABLE_EMULATOR_HOST", emulator)
    zombie.own()
    for number in range(1, 4):
        zombie.commit(commit(number))
    writes, leases = Hold(after_calls), Hold()
    proxy.hooks["MutateRows"] = writes
    errors: list[BaseException] = []

    def die() -> None:
        try:
            zombie.commit(commit(5))
        except BackendError as error:
            errors.append(error)

    thread = threading.Thread(target=die)
    thread.start()
    assert writes.held.wait(60)
    proxy.hooks["CheckAndMutateRow"] = leases
    owner = open_backend()
    owner.own()
    twin = Twin().advance(3)
    check(owner, twin)
    others = [number for number in range(6, 50) if number % 4]
    for place, number in enumerate(others):
        if place == commits:
            writes.release()
            leases.release()
            thread.join(60)
            assert len(errors) == 1
            assert isinstance(errors[0], OwnedError)
            assert any(cell.epoch == 5000 for cell in owner.raw_cells()) == bool(after_calls)
        owner.commit(commit(number))
        for shard, made in enumerate(commit(number).shards):
            apply(twin.shards[shard], made.tables)
        for shard in range(SHARDS):
            assert rows_of(owner, shard) == twin.rows(shard)
    for shard in range(SHARDS):
        changed = owner.changed(shard, manifest(others[-4]).epochs[shard])
        assert changed is not None
        assert not changed.complete
        for table, change in changed.tables.items():
            now = twin.rows(shard)[table]
            assert [now[key] for key in change.keys.tolist()] == [row.tobytes() for row in change.rows]
            assert not now.keys() & set(change.deletes.tolist())
    owner.compact()
    assert all(cell.epoch != 5000 for cell in owner.raw_cells())
    proxy.close()


def test_compact_leaves_one_cell_per_row(backend: BigtableBackend) -> None:
    for number in range(1, 30):
        backend.commit(commit(number))
    progress: list[float] = []
    backend.compact(progress.append)
    twin = Twin().advance(29)
    check(backend, twin)
    assert cells_per_row(backend).total() == sum(len(t) for shard in twin.shards for t in shard.values())
    assert progress == sorted(progress)
    assert progress[-1] == 1.0
    backend.commit(commit(30))
    check(backend, twin.advance(30))


def test_reshard_changes_the_manifest_alone(open_backend: Opener) -> None:
    backend = open_backend()
    backend.own()
    for number in range(1, 12):
        backend.commit(commit(number))
    backend.prepare(dict(enumerate(commit(12).shards)))  # torn
    twin = Twin().advance(11)
    rows: Rows = {}
    for shard in twin.shards:
        apply_all(rows, shard)
    epoch = 11001
    for shards in (3, 1, 7, 7):
        epoch += shards != len(backend.manifest().epochs)  # type: ignore[union-attr]
        backend.reshard(shards)
        now = backend.manifest()
        assert now is not None
        assert now.epochs == (epoch,) * shards
        assert now.fingerprint["shards"] == shards
        found: Rows = {}
        for shard in range(shards):
            here = rows_of(backend, shard)
            assert all((shard_of(np.array(list(t), np.uint64), shards) == shard).all() for t in here.values())
            apply_all(found, here)
        assert found == rows
        assert backend.dense() == b"dense 11"
    backend.close()
    again = open_backend()
    again.own()
    assert set(again._leases.rows) == set(range(7))
    assert not list(again.faults())
    key = ids_of(0)[:1]
    shard = int(shard_of(key, 7)[0])
    change = {"items": Change(key, np.full((1, 24), 5, np.uint8), NO_KEYS)}
    next_manifest = type(now)(**{**vars(now), "epochs": tuple(e + 1 for e in now.epochs)})
    shards_ = [ShardCommit(epoch + 1, change if number == shard else {}) for number in range(7)]
    again.commit(Commit(next_manifest, shards_, NO_SEEN, 0))
    changed = again.changed(shard, epoch)
    assert changed is not None
    assert not changed.complete
    assert changed.tables["items"].keys.tolist() == key.tolist()
    behind = again.changed(shard, 5000)
    assert behind is not None
    assert behind.complete


def apply_all(rows: Rows, more: Rows) -> None:
    for table, of_table in more.items():
        assert not rows.setdefault(table, {}).keys() & of_table.keys()
        rows[table].update(of_table)


steps = st.lists(st.sampled_from(["commit", "torn", "reopen", "reshard", "compact"]), max_size=14)


@settings(max_examples=15, deadline=None)
@given(script=steps)
def test_any_script_of_owners(new_table: Callable[[], str], script: list[str]) -> None:
    """Commits, torn ones, restarts and upkeep in any order: the rows are those of the whole commits."""
    uri = new_table()
    backend = owned(uri)
    twin, states = Twin(), {0: [{}, {}]}  # type: ignore[var-annotated]
    for number, step in enumerate(script, 1):
        if step == "reopen":
            backend.close()
            backend = owned(uri)
        elif step == "torn":
            backend.prepare(dict(enumerate(commit(number).shards)))
        elif step == "commit":
            backend.commit(commit(number))
            for shard, made in enumerate(commit(number).shards):
                apply(twin.shards[shard], made.tables)
            states[number] = [twin.rows(shard) for shard in range(SHARDS)]
        elif len(states) > 1:
            if step == "compact":
                backend.compact()
            elif step == "reshard":
                backend.reshard(3)
                backend.reshard(SHARDS)
    for shard in range(SHARDS):
        assert rows_of(backend, shard) == twin.rows(shard)
        for past, before in states.items():
            changed = backend.changed(shard, manifest(past).epochs[shard] if past else 0)
            if len(states) > 1:
                assert changed is not None
                assert after(before[shard], changed) == twin.rows(shard)
    backend.close()


def owned(uri: str) -> BigtableBackend:
    backend = BigtableBackend(uri, keep_epochs=2, lease_s=30.0)
    backend.own(None if backend.manifest() else range(SHARDS))
    return backend
