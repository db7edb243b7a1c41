"""Another number of shards: no row is lost or doubled, whatever happens meanwhile."""

from __future__ import annotations

import random
import signal
import subprocess
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from monobeam.store.backend import Backend, BackendError, OwnedError
from monobeam.store.check import check
from monobeam.store.lmdb import LmdbBackend
from monobeam.store.lmdb_reshard import Plan, plan_in
from monobeam.store.memory import MemoryBackend
from monobeam.store.spec import SpecError, StoreSpec, TableSpec
from monobeam.store.store import Store
from tests.store.history import after, rows_of
from tests.store.places import Opener
from tests.store.whole import STEP_BYTES, Whole, process


def filled(backend: Backend, shards: int, commits: int = 40) -> Whole:
    result = Whole()
    for _ in range(commits):
        result.commit(backend, shards)
    return result


def test_four_to_six_to_two_and_back(place: Opener) -> None:
    backend = place()
    backend.own()
    content = filled(backend, 4)
    for shards in (6, 2, 4, 1, 64):
        before = content.epochs(backend)
        said: list[float] = []
        backend.reshard(shards, said.append)
        assert content.epochs(backend) == (max(before) + 1,) * shards
        assert said == sorted(said)
        assert said[-1] == 1
        content.check(backend, shards)
        content.check(place(), shards)
        assert check(backend).faults == ()
        for _ in range(20):
            content.commit(backend)
        content.check(place(), shards)


def test_the_same_number_changes_nothing(backend: Backend) -> None:
    filled(backend, 3, commits=2)
    before = backend.manifest()
    backend.reshard(3)  # type: ignore[attr-defined]
    assert backend.manifest() == before


def test_who_was_up_to_date_and_who_was_not(backend: Backend) -> None:
    """Epochs go on: a reader from before the resharding is told everything, one from after it only what changed."""
    content = filled(backend, 2, commits=20)
    before = content.epochs(backend)
    backend.reshard(3)  # type: ignore[attr-defined]
    since = content.epochs(backend)
    have = [rows_of(backend, shard) for shard in range(3)]
    content.commit(backend)
    for shard in range(3):
        old, new = backend.changed(shard, max(before)), backend.changed(shard, since[shard])
        assert old is not None
        assert old.complete
        assert after({"items": {1: b"gone"}}, old) == rows_of(backend, shard)
        assert new is not None
        assert not new.complete
        assert after(have[shard], new) == rows_of(backend, shard)


def test_who_is_reading_keeps_what_was(place: Opener) -> None:
    owner, reader = place(), place()
    owner.own()
    content = filled(owner, 2)
    expected = rows_of(owner, 1)
    loaded = reader.load(1)
    first = next(loaded.blocks)
    with reader.last_commit() as last:
        owner.reshard(5)
        content.check(place(), 5)
        if owner.uri.startswith("bigtable:"):  # where it is told to read again
            with pytest.raises(BackendError, match="read again"):
                content.check(last, 2)
            return
        content.check(last, 2)
        blocks = list(chain([first], loaded.blocks))
    assert loaded.manifest is not None
    assert len(loaded.manifest.epochs) == 2
    found = {(block.table, key) for block in blocks for key in block.keys.tolist()}
    assert found == {(name, key) for name, table in expected.items() for key in table}


def test_shards_that_are_gone_are_said_to_be(place: Opener) -> None:
    owner, reader = place(), place()
    owner.own()
    filled(owner, 4, commits=2)
    owner.reshard(2)
    for ask in (lambda: list(reader.load(3).blocks), lambda: reader.changed(3, 0)):
        with pytest.raises(BackendError, match="there is no shard 3: it has 2"):
            ask()


def test_broken_off_it_goes_on_with_the_next_owner(place: Opener) -> None:
    class BrokenOffError(Exception):
        pass

    def break_off(_: float) -> None:
        raise BrokenOffError

    backend = place()
    backend.own()
    content = filled(backend, 4)
    with pytest.raises(BrokenOffError):
        backend.reshard(6, break_off)
    backend.close()
    content.check(place(), len(content.epochs(place())))
    again = place()
    again.own()
    again.reshard(6)
    content.check(place(), 6)
    content.commit(again)
    assert check(again).faults == ()
    again.close()


def test_only_the_owner_of_a_store_with_a_commit_can(place: Opener) -> None:
    owner = place()
    owner.own()
    with pytest.raises(BackendError, match="holds no commit yet"):
        owner.reshard(2)
    filled(owner, 1, commits=1)
    with pytest.raises(OwnedError, match="own"):
        place().reshard(2)
    with pytest.raises(ValueError, match=r"shards = 0: must be 1\.\.65536"):
        owner.reshard(0)
    assert Whole.epochs(owner) == (1000,)


def test_compacting_frees_what_is_superseded(place: Opener) -> None:
    backend = place()
    backend.own()
    content = filled(backend, 3)
    backend.compact()
    content.check(place(), 3)
    assert check(backend).faults == ()
    stored = backend.changed(0, content.epochs(backend)[0])
    assert stored is not None
    assert not stored.complete
    content.commit(backend)
    content.check(place(), 3)


def test_a_trainer_with_another_number_is_told_what_to_do() -> None:
    spec = StoreSpec("m", (TableSpec("t", 2, "sgd", 0.1),), shards=2)
    store = Store(spec, MemoryBackend("two_shards"))
    store.commit({}, None, None, np.empty(0, np.int64), 1)
    store.close()
    told = r"shards is 2 there and 6 here: .* python -m monobeam\.store reshard 6 --store=memory:two_shards"
    with pytest.raises(SpecError, match=told):
        Store(replace(spec, shards=6), MemoryBackend("two_shards"))


def steps(child: subprocess.Popen[str], most: int) -> list[float]:
    """Let it take up to so many steps; how far it said it was."""
    assert child.stdin is not None
    assert child.stdout is not None
    said = []
    while len(said) < most and 1 not in said and (line := child.stdout.readline()):
        said.append(float(line))
        if len(said) < most and said[-1] < 1:
            child.stdin.write("\n")
            child.stdin.flush()
    return said


def unfinished(directory: Path) -> Plan | None:
    backend = LmdbBackend(directory)
    with backend.last_commit() as last:
        return plan_in(last.txn)


def test_killed_at_every_step_it_goes_on(tmp_path: Path) -> None:
    """Each process takes some steps more than the one before, and is killed; the last before it has cleared away."""
    owner, reader = LmdbBackend(tmp_path), LmdbBackend(tmp_path)
    owner.own()
    content = filled(owner, 3)
    owner.close()
    reached, kills = 0.0, 0
    while True:
        with process("reshard", tmp_path, 5) as child:
            said = steps(child, 4)
            child.send_signal(signal.SIGKILL)
        assert said[0] == 0
        if said[-1] == 1:
            break
        kills += 1
        assert said[1] > reached  # what was done is not done again
        reached = said[-1]
        content.check(reader, 3)
        assert check(reader).faults == ()
    assert kills >= 4
    for again in (False, True):
        content.check(reader, 5)
        assert check(reader).faults == ()
        assert (unfinished(tmp_path) is None) == again
        owner.own()
        owner.reshard(5)


def test_killed_at_any_moment_it_goes_on_or_starts_anew(tmp_path: Path) -> None:
    """Between kills a trainer may commit, and someone may want another number."""
    rng, reader = random.Random(5), LmdbBackend(tmp_path)
    owner = LmdbBackend(tmp_path, step_bytes=STEP_BYTES)
    owner.own()
    content, shards = filled(owner, 2), 2
    owner.close()
    for round_ in range(6):
        wanted = rng.choice([number for number in (1, 2, 3, 4, 6) if number != shards])
        with process("reshard", tmp_path, wanted) as child:
            steps(child, rng.randint(2, 8))
            assert child.stdin is not None
            child.stdin.write("\n" * rng.randint(0, 3))  # some steps more, in the midst of which it is killed
            child.stdin.flush()
            child.send_signal(signal.SIGKILL)
        owner.own()
        shards = len(content.epochs(owner))
        content.check(reader, shards)
        assert check(reader).faults == ()
        if round_ % 2:
            content.commit(owner)
        owner.close()
    owner.own()
    owner.reshard(6)
    content.check(reader, 6)
    assert check(reader).faults == ()
    owner.compact()
    content.check(reader, 6)


def test_what_a_resharding_left_is_not_kept(tmp_path: Path) -> None:
    """The old shards' pages are free again: the file does not grow with every resharding."""
    backend = LmdbBackend(tmp_path, durable=False, step_bytes=STEP_BYTES)
    backend.own()
    filled(backend, 3)
    sizes = []
    for shards in (4, 5, 6, 7, 8, 9):
        backend.reshard(shards)
        sizes.append(backend.stored_bytes())
    assert sizes[-1] < 1.5 * sizes[1]
