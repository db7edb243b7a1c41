"""Snapshots: whole stores, of one moment, that can be kept, opened, restored and dropped."""

from __future__ import annotations

import copy
import signal
from pathlib import Path

import pytest

from monobeam.store import snapshots
from monobeam.store.backend import BackendError, OwnedError
from monobeam.store.check import check
from monobeam.store.lmdb import LmdbBackend
from monobeam.store.memory import MemoryBackend
from monobeam.store.spec import SpecError
from monobeam.store.storage import Storage, open_storage
from tests.store.history import after, rows_of
from tests.store.places import Opener
from tests.store.whole import Whole, process

NOW_US = 77_000_000_000


def filled(backend: Storage, shards: int = 3, commits: int = 20) -> Whole:
    result = Whole()
    for _ in range(commits):
        result.commit(backend, shards)
    return result


def more(content: Whole, backend: Storage, commits: int = 20) -> Whole:
    """The same content, further on; what was stays as it is."""
    further = copy.deepcopy(content)
    for _ in range(commits):
        further.commit(backend)
    return further


def is_there(uri: str) -> bool:
    if not uri.startswith("bigtable:"):
        return open_storage(uri).manifest() is not None
    with pytest.raises(BackendError, match="NOT_FOUND"):
        open_storage(uri).manifest()
    return False


def test_a_snapshot_is_the_whole_store_of_then(place: Opener) -> None:
    backend = place()
    backend.own()
    then = filled(backend)
    manifest = backend.manifest()
    uri = snapshots.keep(place())  # its owner goes on meanwhile
    now = more(then, backend)
    snapshot = open_storage(uri)
    then.check(snapshot, 3)
    assert snapshot.manifest() == manifest
    assert check(snapshot).faults == ()
    now.check(place(), 3)
    snapshot.own()
    more(then, snapshot).check(open_storage(uri), 3)
    now.check(place(), 3)
    snapshot.close()


def test_listing_and_dropping(place: Opener) -> None:
    backend = place()
    backend.own()
    content, uris = filled(backend, commits=3), []
    for _ in range(3):
        uris.append(snapshots.keep(backend))
        assert snapshots.keep(backend) == uris[-1]
        content = more(content, backend, commits=1)
    found = list(snapshots.kept(backend))
    assert [(one.uri, one.epoch, one.shards) for one in found] == [
        (uri, 1000 * number + 2, 3) for number, uri in enumerate(uris, 3)
    ]
    now = snapshots.summary(backend)
    assert now is not None
    assert now.rows == sum(len(table) for table in content.rows.values())
    assert now.nbytes == sum(8 + len(row) for table in content.rows.values() for row in table.values())
    snapshots.drop(backend, 4002)
    assert [one.epoch for one in snapshots.kept(backend)] == [3002, 5002]
    assert not is_there(uris[1])
    with pytest.raises(BackendError, match="there is no snapshot 4002; there are: 3002, 5002"):
        snapshots.drop(backend, 4002)
    in_use = open_storage(uris[0])
    in_use.own()
    with pytest.raises(OwnedError, match="own"):
        snapshots.drop(backend, 3002)
    in_use.close()


@pytest.mark.parametrize("shards", [3, 5, 1])
def test_restoring_brings_everything_back(place: Opener, shards: int) -> None:
    backend = place()
    backend.own()
    then = filled(backend)
    uri = snapshots.keep(backend)
    now = more(then, backend)
    backend.reshard(shards)
    before, have = now.epochs(backend), [rows_of(backend, shard) for shard in range(shards)]
    restored = snapshots.restore(backend, open_storage(uri), NOW_US)
    assert backend.manifest() == restored
    assert restored.epochs == (77_000_000,) * shards
    assert (restored.time_us, restored.dense_version) == (NOW_US, now.number + 1)
    then.check(place(), shards)
    assert check(backend).faults == ()
    for shard, epoch in enumerate(before):
        changed = backend.changed(shard, epoch)
        assert changed is not None
        assert not changed.complete
        assert after(have[shard], changed) == rows_of(backend, shard)
    backend.close()
    then.number += 100_000  # epochs that follow
    again = place()
    again.own()
    then.commit(again)
    then.check(place(), shards)


def test_restoring_writes_what_differs_alone(place: Opener) -> None:
    backend = place()
    backend.own()
    content = filled(backend, 1, commits=2)
    uri = snapshots.keep(backend)
    more(content, backend, commits=1)
    (epoch,) = content.epochs(backend)
    snapshots.restore(backend, open_storage(uri), NOW_US)
    changed = backend.changed(0, epoch)
    assert changed is not None
    assert 0 < len(changed.tables["items"].keys) <= 60 + 8


def test_a_lost_store_comes_back_from_a_copy(place: Opener, new_place: object, tmp_path: Path) -> None:
    backend = place()
    backend.own()
    content = filled(backend)
    uri = snapshots.keep(backend, f"lmdb:{tmp_path / 'copies' / 'first'}")
    assert uri == f"lmdb:{tmp_path / 'copies' / 'first'}"
    content.check(open_storage(uri), 3)
    lost = new_place()()  # type: ignore[operator]
    lost.own()
    manifest = snapshots.restore(lost, open_storage(uri), NOW_US)
    assert min(manifest.epochs) > max(content.epochs(backend))
    content.check(lost, 3)
    lost.close()


def test_only_an_empty_place_takes_a_copy(place: Opener, tmp_path: Path) -> None:
    backend = place()
    with pytest.raises(BackendError, match="holds no commit yet"):
        snapshots.keep(backend)
    backend.own()
    filled(backend, commits=1)
    uri = f"lmdb:{tmp_path / 'copy'}"
    snapshots.keep(backend, uri)
    with pytest.raises(BackendError, match="holds a store already"):
        snapshots.keep(backend, uri)
    (tmp_path / "file").write_text("x")
    with pytest.raises(BackendError, match=r"cannot be (copied|written)"):
        snapshots.keep(backend, f"lmdb:{tmp_path / 'file' / 'copy'}")


def test_what_cannot_be_restored_is_refused(place: Opener) -> None:
    backend, other = place(), MemoryBackend()
    backend.own()
    other.own()
    content = filled(backend, 2)
    filled(other, 2, commits=2)
    with pytest.raises(OwnedError, match="own"):
        snapshots.restore(place(), other, NOW_US)
    assert other._contents.manifest is not None
    other._contents.manifest.fingerprint["tables"]["items"]["dim"] = 3  # type: ignore[index]
    with pytest.raises(SpecError, match=r"tables\.items\.dim is 2 there and 3 here"):
        snapshots.restore(backend, other, NOW_US)
    with pytest.raises(BackendError, match="holds no commit yet"):
        snapshots.restore(backend, MemoryBackend(), NOW_US)
    content.check(place(), 2)


def test_copies_of_a_store_that_another_process_commits_to(tmp_path: Path) -> None:
    reader = LmdbBackend(tmp_path / "store")
    with process("write", tmp_path / "store") as child:
        content, seen = Whole(), set()
        while len(seen) < 5:
            assert child.poll() is None
            if reader.manifest() is None:
                continue
            snapshot = open_storage(snapshots.keep(reader))
            stored = snapshot.manifest()
            assert stored is not None
            content.advance(stored.positions[0])
            if content.number == stored.positions[0]:
                content.check(snapshot, 3)
                assert check(snapshot).faults == ()
            seen.add(stored.positions[0])
    assert {one.epoch for one in snapshots.kept(reader)} == {1000 * number + 2 for number in seen}


def test_a_copy_that_was_killed_is_no_snapshot_and_goes_with_the_next(tmp_path: Path) -> None:
    backend = LmdbBackend(tmp_path)
    backend.own()
    filled(backend, commits=1)
    with process("draft", tmp_path) as child:
        assert child.stdout is not None
        draft = Path(child.stdout.readline().strip())
        assert LmdbBackend(draft).manifest() is not None
        assert list(snapshots.kept(backend)) == []
        snapshots.keep(backend)
        assert draft.exists()  # it is being written
        child.send_signal(signal.SIGKILL)
        child.wait()
    snapshots.keep(backend)
    assert not draft.exists()
    assert [one.epoch for one in snapshots.kept(backend)] == [1002]


def test_a_store_moves_from_a_directory_to_bigtable(tmp_path: Path, emulator: str) -> None:
    store = LmdbBackend(tmp_path)
    store.own()
    content = filled(store)
    uri = snapshots.keep(store, "bigtable://project/instance/moved")
    moved = open_storage(uri)
    content.check(moved, 3)
    assert moved.manifest() == store.manifest()
    moved.own()
    content.commit(moved)
    content.check(open_storage(uri), 3)
    assert check(moved).faults == ()
    moved.close()
