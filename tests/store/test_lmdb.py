"""What only the embedded backend can show: other processes, kill -9, a full disk, growth, folding in pieces."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from monobeam.store import chunk
from monobeam.store.backend import BackendError, Commit, OwnedError, SeenKeys, ShardCommit
from monobeam.store.changes import NO_KEYS, Change
from monobeam.store.environment import MAP_BYTES, Environment
from monobeam.store.lmdb import LmdbBackend
from tests.store import history
from tests.store.history import SHARDS, Twin, after, check, commit, manifest, rows_of


@contextmanager
def process(task: str, directory: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, history.__file__, task, str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            child.kill()


def committed(backend: LmdbBackend) -> int:
    stored = backend.manifest()
    return 0 if stored is None else stored.positions[0]


def stored_values(directory: Path, kind: bytes) -> dict[bytes, bytes]:
    environment = Environment(directory, MAP_BYTES, durable=True)
    with environment.read() as txn, txn.cursor() as cursor:
        found = {bytes(key): bytes(value) for key, value in cursor if bytes(key[:1]) == kind}
    environment.close()
    return found


def test_killed_at_any_moment_the_store_holds_a_whole_commit(tmp_path: Path) -> None:
    rng, reader, twin = random.Random(7), LmdbBackend(tmp_path), Twin()
    for _ in range(4):
        goal = twin.number + rng.randint(1, 15)
        with process("write", tmp_path) as child:
            while committed(reader) < goal:
                assert child.poll() is None
            child.send_signal(signal.SIGKILL)
        check(reader, twin.advance(committed(reader)))
    owner = LmdbBackend(tmp_path)
    owner.own()
    # The killed writer may have got one commit further than it could tell readers.
    assert twin.number <= committed(owner) <= twin.number + 1
    owner.commit(commit(committed(owner) + 1))
    check(reader, twin.advance(committed(owner)))


def test_another_process_reads_whole_commits_while_one_commits(tmp_path: Path) -> None:
    reader, twin = LmdbBackend(tmp_path, map_bytes=1 << 16), Twin()
    before, epoch = {}, 0
    with process("write", tmp_path) as child:
        while twin.number < 60:
            assert child.poll() is None
            changed = reader.changed(0, epoch)
            if changed is None:
                continue
            before, epoch = after(before, changed), changed.epoch
            assert before == twin.advance(changed.manifest.positions[0]).rows(0)
            loaded = reader.load(1)
            assert loaded.manifest is not None
            rows = [(block.table, key) for block in loaded.blocks for key in block.keys.tolist()]
            expected = Twin().advance(loaded.manifest.positions[0]).rows(1)
            assert sorted(rows) == sorted((name, key) for name, table in expected.items() for key in table)
        with pytest.raises(OwnedError, match=f"owned by process {child.pid}"):
            reader.own()


def test_readers_in_other_processes_follow_a_map_that_grows(tmp_path: Path) -> None:
    owner = LmdbBackend(tmp_path, map_bytes=1 << 16)
    owner.own()
    owner.commit(commit(1))
    with process("read", tmp_path) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        for number in range(1, 40):
            if number > 1:
                owner.commit(commit(number))
            child.stdin.write(f"{number}\n")
            child.stdin.flush()
            assert child.stdout.readline() == "ok\n"
    assert (tmp_path / "data.mdb").stat().st_size > 1 << 18


def test_readers_in_this_process_are_not_moved_while_they_read(tmp_path: Path) -> None:
    owner, reader = LmdbBackend(tmp_path, map_bytes=1 << 16, durable=False), LmdbBackend(tmp_path)
    owner.own()
    owner.commit(commit(1))
    expected = {number: Twin().advance(number).rows(0) for number in range(1, 60)}
    failures, done = [], threading.Event()

    def keep_reading() -> None:
        while not done.is_set():
            changed = reader.changed(0, 0)
            if changed is None or after({}, changed) != expected[changed.manifest.positions[0]]:
                failures.append(changed)

    threads = [threading.Thread(target=keep_reading) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(2, 60):
        owner.commit(commit(number))
    done.set()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_full_disk_is_said_and_harms_nothing(tmp_path: Path) -> None:
    with process("fill", tmp_path) as child:
        assert child.stdout is not None
        said = child.stdout.readline()
        assert child.wait() == 0
    number = int(said.split()[0])
    assert number > 5
    assert "cannot commit: " in said
    assert "stays as its last commit left it" in said
    check(LmdbBackend(tmp_path), Twin().advance(number + 1))


def test_a_store_that_cannot_be_opened_is_not_owned(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"no store" * 1000)
    backend = LmdbBackend(tmp_path)
    for each in (backend, backend, LmdbBackend(tmp_path)):
        with pytest.raises(BackendError, match="cannot open the store"):
            each.own()


def test_damage_is_noticed(tmp_path: Path) -> None:
    backend = LmdbBackend(tmp_path)
    backend.own()
    backend.commit(commit(1))
    key, value = sorted(stored_values(tmp_path, b"D").items())[0]
    environment = Environment(tmp_path, MAP_BYTES, durable=True)
    environment.write(lambda txn: txn.put(key, value[:-1] + bytes([value[-1] ^ 1])))
    with pytest.raises(BackendError, match="checksum"):
        list(backend.load(0).blocks)
    for other in (2, 9):  # 2 had no layouts in its keys
        stored = b'{"format": %d}' % other
        environment.write(lambda txn: txn.put(b"M", stored))  # noqa: B023
        with pytest.raises(ValueError, match=f"store format {other}: this version reads format 3"):
            backend.manifest()
    environment.close()


def test_a_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(BackendError, match="cannot be written"):
        LmdbBackend(tmp_path / "file" / "store").own()


def big_commit(number: int, keys: range, row_bytes: int = 256, live: int | None = None) -> Commit:
    """Rows of shard 0 that say which commit wrote them; ``live``: the number of rows after it."""
    rows = np.full((len(keys), row_bytes), number, np.uint8)
    tables = {"items": Change(np.array(keys, np.uint64), rows, NO_KEYS)}
    live_bytes = None if live is None else live * (8 + row_bytes)
    first, *others = manifest(number).epochs
    shards = [ShardCommit(first, tables, live_bytes), *(ShardCommit(epoch, {}, 0) for epoch in others)]
    return Commit(manifest(number), shards, SeenKeys(NO_KEYS, np.empty(0, np.uint32)), 0)


@pytest.mark.parametrize("reopen", [False, True])
def test_a_large_fold_is_spread_over_commits(tmp_path: Path, reopen: bool) -> None:
    def opened() -> LmdbBackend:
        backend = LmdbBackend(tmp_path, fold_bytes=1 << 20, keep_epochs=4, durable=False)
        backend.own()
        return backend

    backend = opened()
    backend.commit(big_commit(1, range(40_000)))
    expected = dict.fromkeys(range(40_000), 1)
    unfinished = 0
    for number in range(2, 60):
        keys = range(number * 500, number * 500 + 500)
        backend.commit(big_commit(number, keys))
        expected |= dict.fromkeys(keys, number)
        bases = {key[7:15] for key in stored_values(tmp_path, b"B")}
        unfinished += len(bases) == 2 or (len(bases) == 1 and number < 5)
        if reopen and number in (3, 4, 20):
            backend.close()
            backend = opened()
    rows = {key: row[0] for key, row in rows_of(backend, 0)["items"].items()}
    assert rows == expected
    assert unfinished
    backend.close()


def test_new_ids_are_not_folded_and_superseded_rows_are(tmp_path: Path) -> None:
    backend = LmdbBackend(tmp_path, fold_bytes=1 << 16, keep_epochs=4, durable=False)
    backend.own()
    for number in range(1, 21):
        backend.commit(big_commit(number, range(number * 500, number * 500 + 500), live=number * 500))
    assert not stored_values(tmp_path, b"B")
    for number in range(21, 60):
        backend.commit(big_commit(number, range(500, 10_500), live=10_000))
    stored = sum(len(value) for value in stored_values(tmp_path, b"B").values())
    assert 10_000 * 264 < stored < 1.1 * 2 * 10_000 * 264  # the base, and perhaps a second one that is being made
    assert len(stored_values(tmp_path, b"D")) < 12 * 10_000 * 264 / chunk.CHUNK_BYTES
    assert rows_of(backend, 0)["items"] == dict.fromkeys(range(500, 10_500), bytes([59]) * 256)
    backend.close()


def test_what_is_stored_stays_in_proportion_to_what_is_live(tmp_path: Path) -> None:
    backend = LmdbBackend(tmp_path, fold_bytes=1 << 16, keep_epochs=4, durable=False)
    backend.own()
    for number in range(1, 400):
        backend.commit(commit(number))
    live = sum(
        len(row) + 8 for shard in range(SHARDS) for table in rows_of(backend, shard).values() for row in table.values()
    )
    stored, seen = (
        sum(len(value) for kind in kinds for value in stored_values(tmp_path, kind).values())
        for kinds in ([b"B", b"D"], [b"K"])
    )
    assert stored < 4 * live + SHARDS * (2 << 16)
    assert (tmp_path / "data.mdb").stat().st_size < 4 * (stored + seen)


def test_growing_under_an_open_load_is_refused_not_waited_for(tmp_path: Path) -> None:
    backend = LmdbBackend(tmp_path, map_bytes=1 << 16, durable=False)
    backend.own()
    backend.commit(commit(1))
    loaded = backend.load(0)
    next(loaded.blocks)
    with pytest.raises(BackendError, match="finish or close what load"):
        for number in range(2, 60):
            backend.commit(commit(number))
    rest = list(loaded.blocks)
    assert rest
    reached = committed(backend)
    check(backend, Twin().advance(reached))
    backend.commit(commit(reached + 1))
    check(backend, Twin().advance(reached + 1))
