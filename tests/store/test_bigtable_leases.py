"""One owner per shard, whoever is paused, killed or cut off; by real processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from monobeam.store.backend import BackendError, OwnedError, ShardCommit
from monobeam.store.bigtable import BigtableBackend
from tests.store import bigtable_owner
from tests.store.bigtable_proxy import CallError, Forward, Proxy
from tests.store.history import Twin, check, commit, manifest

LEASE_S = bigtable_owner.LEASE_S
Start = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def uri(new_table: Callable[[], str]) -> str:
    return new_table()


@pytest.fixture
def start(uri: str) -> Iterator[Start]:
    """Starts an owner in a process of its own."""
    processes = []

    def start(what: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.store.bigtable_owner", what, uri]
        root = Path(__file__).parents[2]
        process = subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def open_backend(uri: str) -> Iterator[Callable[..., BigtableBackend]]:
    opened = []

    def open_it(**options: float) -> BigtableBackend:
        opened.append(BigtableBackend(uri, **{"lease_s": LEASE_S, "keep_epochs": 8, **options}))  # type: ignore[arg-type]
        return opened[-1]

    yield open_it
    for backend in opened:
        backend.close()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_a_living_owner_is_named(start: Start, open_backend: Callable[..., BigtableBackend]) -> None:
    owner = start("hold")
    assert line(owner) == "owned"
    other = open_backend()
    with pytest.raises(OwnedError) as refused:
        other.own()
    host = re.escape(os.uname().nodename)
    assert re.search(rf"shard 0 is owned by process {owner.pid} on {host} at somewhere:1", str(refused.value))
    assert other.owners() == {0: "somewhere:1"}
    with pytest.raises(OwnedError):
        other.check_owned()


def test_owners_are_found_by_a_clock_that_is_wrong(
    open_backend: Callable[..., BigtableBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, true = open_backend(), time.time
    owner.own([0], "somewhere:1")
    monkeypatch.setattr(time, "time", lambda: true() + 86_400)
    assert open_backend().owners() == {0: "somewhere:1"}
    owner.close()
    assert open_backend().owners() == {}


def test_a_killed_owner_is_followed_after_its_lease(start: Start, open_backend: Callable[..., BigtableBackend]) -> None:
    owner = start("hold")
    assert line(owner) == "owned"
    owner.kill()
    owner.wait()
    began = time.monotonic()
    other = open_backend()
    other.own()
    assert time.monotonic() - began > LEASE_S
    other.check_owned()


def test_whoever_waits_gets_it_when_it_is_given_back(open_backend: Callable[..., BigtableBackend]) -> None:
    first, second = open_backend(lease_s=60.0), open_backend(lease_s=60.0, wait_s=1.0)
    first.own()
    first.close()
    began = time.monotonic()
    second.own()
    assert time.monotonic() - began < 30.0


@pytest.mark.parametrize("taken_over", [True, False])
def test_an_owner_that_was_paused_beyond_its_lease(
    start: Start, open_backend: Callable[..., BigtableBackend], taken_over: bool
) -> None:
    """It can publish nothing and knows it, unless nobody took its place."""
    owner = start("prepare")
    assert line(owner) == "prepared"
    owner.send_signal(signal.SIGSTOP)
    other, twin = open_backend(), Twin()
    check(other, twin.advance(1))
    if taken_over:
        other.own()
        other.commit(commit(2))
        other.commit(commit(3))
        twin.advance(3)
    else:
        over = time.monotonic() + 2 * LEASE_S
        wait_until(lambda: time.monotonic() > over)
    owner.send_signal(signal.SIGCONT)
    tell(owner)
    said = [line(owner) for _ in range(3)]
    if taken_over:
        assert all(re.match(r"LeasedError .* shard [01] ", one) for one in said), said
    else:
        assert said == ["done", "done", "done"]
        twin = Twin().advance(2)
        assert other.manifest() == commit(9).manifest
        return
    check(other, twin)
    for number in range(4, 30):
        other.commit(commit(number))
    check(other, twin.advance(29))


def test_killed_at_any_moment_the_store_holds_a_whole_commit(
    start: Start, open_backend: Callable[..., BigtableBackend]
) -> None:
    twin = Twin()
    rng = np.random.default_rng(1)
    for _ in range(3):
        owner = start("write")
        line(owner)
        time.sleep(rng.uniform(0, 0.15))  # when it dies is left to chance
        owner.kill()
        owner.wait()
        backend = open_backend()
        stored = backend.manifest()
        assert stored is not None
        check(backend, twin.advance(stored.positions[0]))
        backend.own()
        check(backend, twin)
        assert not list(backend.faults())
        newest = max(manifest(twin.number).epochs)
        assert all(cell.epoch <= newest for cell in backend.raw_cells())
        backend.close()


def test_killed_between_rows_and_manifest_no_trace_is_left(
    start: Start, open_backend: Callable[..., BigtableBackend]
) -> None:
    owner = start("prepare")
    assert line(owner) == "prepared"
    owner.kill()
    owner.wait()
    backend = open_backend()
    check(backend, Twin().advance(1))
    assert max(cell.epoch for cell in backend.raw_cells()) == 2001
    backend.own()
    check(backend, Twin().advance(1))
    assert max(cell.epoch for cell in backend.raw_cells()) == 1001
    changed = backend.changed(0, manifest(1).epochs[0])
    assert changed is not None
    assert not changed.tables
    backend.commit(commit(2))
    check(backend, Twin().advance(2))


def test_shards_in_several_hands(open_backend: Callable[..., BigtableBackend]) -> None:
    head, other, twin = open_backend(), open_backend(), Twin()
    head.own([0], "a:1")
    other.own([1], "b:2")
    assert open_backend().owners() == {0: "a:1", 1: "b:2"}
    for number in range(1, 30):
        made = commit(number)
        head.prepare({0: made.shards[0]})
        other.prepare({1: made.shards[1]})
        check(head, twin) if number > 1 else None
        head.publish(made)
        check(other, twin.advance(number))
    with pytest.raises(OwnedError, match="shard 0 is not owned here"):
        other.publish(commit(30))
    with pytest.raises(OwnedError, match="shard 1 is not owned here"):
        head.prepare({1: commit(30).shards[1]})


def test_what_was_not_prepared_is_not_published(open_backend: Callable[..., BigtableBackend]) -> None:
    backend = open_backend()
    backend.own()
    backend.commit(commit(1))
    backend.prepare({0: commit(2).shards[0]})
    with pytest.raises(BackendError, match="are prepared, not epochs"):
        backend.publish(commit(2))
    check(backend, Twin().advance(1))
    backend.recover([0, 1])
    backend.commit(commit(2))
    check(backend, Twin().advance(2))


def test_a_clock_that_goes_back_makes_no_two_cells_of_one_stamp(open_backend: Callable[..., BigtableBackend]) -> None:
    """An epoch that was prepared and never published is free again; its stamp is not."""
    backend = open_backend()
    backend.own()
    backend.commit(commit(1))
    for _ in range(3):
        backend.prepare({number: ShardCommit(shard.epoch, {}) for number, shard in enumerate(commit(2).shards)})
        backend.prepare(dict(enumerate(commit(3).shards)))
    backend.commit(commit(2))
    check(backend, Twin().advance(2))
    stamps = {cell.epoch for cell in backend.raw_cells()}
    assert min(stamp for stamp in stamps if stamp > 1001) > 3001
    for number in range(3, 9):
        backend.commit(commit(number))
        check(backend, Twin().advance(number))


def test_who_cannot_reach_the_table_does_not_own_it_for_longer_than_its_lease(
    emulator: str, new_table: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = Proxy(emulator)
    monkeypatch.setenv("BIGTABLE_EMULATOR_HOST", proxy.address)
    backend = BigtableBackend(new_table(), lease_s=LEASE_S)
    backend.own()
    backend.check_owned()

    def fail(request: bytes, forward: Forward) -> Iterable[bytes]:
        raise CallError(grpc.StatusCode.UNAVAILABLE)

    why: list[str] = []

    def is_owned() -> bool:
        try:
            backend.check_owned()
            return True
        except OwnedError as error:
            why.append(str(error))
            return False

    proxy.hooks |= {"CheckAndMutateRow": fail, "ReadRows": fail}
    began = time.monotonic()
    wait_until(lambda: not is_owned())
    assert "the lease has expired, and cannot be renewed" in why[0]
    assert time.monotonic() - began < 30
    proxy.hooks.clear()
    wait_until(is_owned)
    backend.close()
    proxy.close()


@pytest.mark.parametrize("applied", [True, False])
def test_a_publication_in_doubt_is_known_before_anything_follows(
    emulator: str, new_table: Callable[[], str], monkeypatch: pytest.MonkeyPatch, applied: bool
) -> None:
    """Its answer is lost for longer than patience lasts; the request comes once more when it must do nothing."""
    proxy = Proxy(emulator)
    monkeypatch.setenv("BIGTABLE_EMULATOR_HOST", proxy.address)
    backend = BigtableBackend(new_table(), lease_s=60.0, patience_s=0.3)
    backend.own()
    backend.commit(commit(1))
    kept = []

    def lose(request: bytes, forward: Forward) -> Iterable[bytes]:
        kept.append((request, forward))
        if applied:
            list(forward(request))
        raise CallError(grpc.StatusCode.UNAVAILABLE)

    backend.prepare(dict(enumerate(commit(2).shards)))
    proxy.hooks["CheckAndMutateRow"] = lose
    with pytest.raises(BackendError, match="lease of shard 0: UNAVAILABLE"):
        backend.publish(commit(2))
    assert len(kept) > 1
    proxy.hooks.clear()
    twin = Twin().advance(1 + applied)
    check(backend, twin)
    for request, forward in kept:
        list(forward(request))
    backend.recover([0, 1])
    check(backend, twin)
    for number in range(2 + applied, 8):
        backend.commit(commit(number))
    check(backend, Twin().advance(7))
    backend.close()
    proxy.close()
