"""What comes late to Bigtable, of whoever was paused or cut off, or twice: it harms nothing, however much later."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator

import grpc
import numpy as np
import pytest

from monobeam.store.backend import BackendError, Commit, OwnedError, SeenKeys, ShardCommit
from monobeam.store.bigtable import BigtableBackend
from monobeam.store.bigtable.ownership import now_s
from monobeam.store.changes import NO_KEYS
from tests.store.bigtable_proxy import CallError, Forward, Hold, Proxy
from tests.store.history import FINGERPRINT, SHARDS, Twin, apply, check, commit, manifest, rows_of, seen_of

WEEK_LATER = 800_001
SCAN = b"r\0\0"
ONE_SHARD = {"fingerprint": {**FINGERPRINT, "shards": 1}, "epochs": (2000,)}
NO_SEEN = SeenKeys(NO_KEYS, np.empty(0, np.uint32))
Opener = Callable[..., BigtableBackend]


@pytest.fixture
def uri(new_table: Callable[[], str]) -> str:
    return new_table()


@pytest.fixture
def open_backend(uri: str) -> Iterator[Opener]:
    opened = []

    def open_it(lease_s: float = 4.0, patience_s: float = 60.0) -> BigtableBackend:
        opened.append(BigtableBackend(uri, keep_epochs=8, lease_s=lease_s, patience_s=patience_s))
        return opened[-1]

    yield open_it
    for backend in opened:
        backend.close()


@pytest.fixture
def proxy(emulator: str) -> Iterator[Proxy]:
    made = Proxy(emulator)
    yield made
    made.close()


@pytest.fixture
def behind(proxy: Proxy, open_backend: Opener) -> Opener:
    """Opens the store over the proxy, as its owner."""

    def open_it(lease_s: float = 0.5, patience_s: float = 60.0) -> BigtableBackend:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("BIGTABLE_EMULATOR_HOST", proxy.address)
            backend = open_backend(lease_s, patience_s)
        backend.own()
        return backend

    return open_it


class Zombie:
    """Does something in a thread, which no answer reaches from some call on; and does not renew its leases."""

    def __init__(self, proxy: Proxy, method: str, hold: Hold, work: Callable[[], object]) -> None:
        self.error: BaseException | None = None
        self._holds = [hold, Hold()]
        self._work = work
        proxy.hooks[method] = hold
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert hold.held.wait(60)
        proxy.hooks["CheckAndMutateRow"] = self._holds[1]

    def wake(self) -> None:
        for hold in self._holds:
            hold.release()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._work()
        except BackendError as error:
            self.error = error


def advance(twin: Twin, number: int) -> None:
    for shard, made in enumerate(commit(number).shards):
        apply(twin.shards[shard], made.tables)


def check_rows(backend: BigtableBackend, twin: Twin) -> None:
    for shard in range(SHARDS):
        assert rows_of(backend, shard) == twin.rows(shard)


@pytest.mark.parametrize("after_calls", [0, 1, 2])
def test_what_was_written_late_is_gone_before_anybody_forgets_that_it_is_void(
    proxy: Proxy, behind: Opener, open_backend: Opener, after_calls: int
) -> None:
    """Ids, rows, or example keys and dense weights."""
    paused = behind()
    paused.commit(commit(1))
    zombie = Zombie(proxy, "MutateRows", Hold(after_calls), lambda: paused.commit(commit(2)))
    owner, twin = open_backend(), Twin().advance(1)
    owner.own()
    owner.commit(commit(3))
    zombie.wake()
    assert isinstance(zombie.error, OwnedError)
    owner.commit(commit(5))
    owner.commit(commit(WEEK_LATER))
    for number in (3, 5, WEEK_LATER):
        advance(twin, number)
    owner.close()
    again = open_backend()
    assert len(seen_of(again)) == 200
    again.own()
    check_rows(again, twin)
    assert not any(2000 <= cell.epoch <= 2001 for cell in again.raw_cells())
    for number in range(WEEK_LATER + 2, WEEK_LATER + 40):
        again.commit(commit(number))
        advance(twin, number)
    check_rows(again, twin)


@pytest.mark.parametrize(("method", "hold"), [("ReadRows", Hold(part=SCAN)), ("MutateRows", Hold(1))])
def test_compaction_that_was_paused_takes_nothing_of_later_commits(
    proxy: Proxy, behind: Opener, open_backend: Opener, method: str, hold: Hold
) -> None:
    backend = behind()
    for number in range(1, 6):
        backend.commit(commit(number))
    first = Zombie(proxy, "MutateRows", Hold(1), lambda: backend.commit(commit(6)))
    second = open_backend()  # so that there are cells of no commit in rows of no commit
    second.own()
    first.wake()
    second.close()
    proxy.hooks.clear()
    backend.close()
    paused = behind()
    zombie = Zombie(proxy, method, hold, paused.compact)
    owner, twin = open_backend(), Twin().advance(5)
    owner.own()
    for number in range(6, 10):
        owner.commit(commit(number))
    zombie.wake()
    check(owner, twin.advance(9))
    owner.commit(commit(10))
    check(owner, twin.advance(10))


@pytest.mark.parametrize("part", [b"d\0\0\0\0", b"k"])
def test_recovery_that_was_paused_undoes_nothing_of_later_commits(
    proxy: Proxy, behind: Opener, open_backend: Opener, part: bytes
) -> None:
    """It knows what was published before it was paused, and lists what was written afterwards."""
    paused = behind()
    paused.commit(commit(1))
    zombie = Zombie(proxy, "ReadRows", Hold(part=b"\x0a" + bytes([len(part)]) + part), lambda: paused.recover([0, 1]))
    owner, twin = open_backend(), Twin()
    owner.own()
    for number in range(2, 5):
        owner.commit(commit(number))
    zombie.wake()
    check(owner, twin.advance(4))
    owner.close()
    check(open_backend(), twin)


def test_a_first_commit_that_failed_leaves_nothing_to_one_of_fewer_shards(open_backend: Opener) -> None:
    """Also where not all of its owners had begun."""
    first, one = open_backend(), Commit(manifest(2, **ONE_SHARD), [ShardCommit(2000, {})], NO_SEEN, 0)
    first.own([1])
    first.prepare({1: commit(1).shards[1]})
    first.close()
    second = open_backend()
    second.own()
    assert not list(second.raw_cells())
    second.commit(one)
    assert not rows_of(second, 0)
    second.reshard(2)
    second.close()
    third = open_backend()
    third.own()
    assert not list(third.faults())


def test_resharding_leaves_the_shards_of_others_alone(open_backend: Opener) -> None:
    standby, owner = open_backend(), open_backend()
    standby.own([5], "standby:1")
    owner.own([0, 1])
    owner.commit(commit(1))
    owner.reshard(3)
    owner.reshard(2)
    assert owner.owners() == {0: "", 1: "", 5: "standby:1"}
    owner.close()
    standby._leases.rows[5].renew()


def test_who_lost_the_lease_while_reading_knows_what_was_trimmed(
    proxy: Proxy, behind: Opener, open_backend: Opener
) -> None:
    paused = behind()
    for number in range(1, 11):
        paused.commit(commit(number))
    paused._leases._ended.set()  # it does not come to renew them: the whole process is paused
    zombie = Zombie(proxy, "ReadRows", Hold(part=SCAN), lambda: rows_of(paused, 0))
    owner = open_backend()
    owner.own()
    for number in range(11, 40):
        owner.commit(commit(number))
    zombie.wake()
    assert "was trimmed while it was read: read again" in str(zombie.error)
    check(owner, Twin().advance(39))


@pytest.mark.parametrize("applied", [True, False])
def test_a_commit_that_failed_can_be_tried_again(
    proxy: Proxy, behind: Opener, open_backend: Opener, applied: bool
) -> None:
    backend = behind(lease_s=60.0, patience_s=0.3)
    backend.commit(commit(1))
    answered: list[list[bytes]] = []

    def lose(request: bytes, forward: Forward) -> Iterable[bytes]:
        answers = list(forward(request)) if applied or len(answered) < SHARDS else []
        answered.append(answers)
        if len(answered) <= SHARDS:  # these are the intents
            return answers
        raise CallError(grpc.StatusCode.UNAVAILABLE)

    proxy.hooks["CheckAndMutateRow"] = lose
    with pytest.raises(BackendError, match="UNAVAILABLE"):
        backend.commit(commit(2))
    proxy.hooks.clear()
    backend.commit(commit(3))
    expected = {1: commit(1), 3: commit(3)} | ({2: commit(2)} if applied else {})
    backend.close()
    again = open_backend()
    keys = {key for made in expected.values() for key in made.seen.keys.tolist()}
    assert seen_of(again).keys() == keys
    again.own()
    again.commit(commit(5))
    assert seen_of(open_backend()).keys() == keys | set(commit(5).seen.keys.tolist())


def test_a_lease_lasts_from_when_it_was_first_asked_for(proxy: Proxy, behind: Opener) -> None:
    """Others count from when it was written, whenever its owner learns of that."""
    backend = behind(lease_s=60.0)
    row = backend._leases.rows[0]
    applied: list[float] = []

    def lose_the_first(request: bytes, forward: Forward) -> Iterable[bytes]:
        answers = list(forward(request))
        applied.append(now_s())
        if len(applied) == 1:
            raise CallError(grpc.StatusCode.UNAVAILABLE)
        return answers

    proxy.hooks["CheckAndMutateRow"] = lose_the_first
    row.renew()
    assert len(applied) == 2
    assert row.valid_until <= applied[0] + 60.0


def test_closing_does_not_wait_for_a_table_that_is_away(proxy: Proxy, behind: Opener) -> None:
    backend = behind(lease_s=0.5, patience_s=10.0)
    backend.commit(commit(1))

    def fail(request: bytes, forward: Forward) -> Iterable[bytes]:
        raise CallError(grpc.StatusCode.UNAVAILABLE)

    proxy.hooks |= {"CheckAndMutateRow": fail, "ReadRows": fail}
    began = now_s()
    backend.close()
    assert now_s() - began < 10.0


def test_what_was_begun_is_no_fault(proxy: Proxy, behind: Opener, open_backend: Opener) -> None:
    """Not even when it was written late, and after it another commit was begun."""
    paused = behind()
    paused.commit(commit(1))
    zombie = Zombie(proxy, "MutateRows", Hold(1), lambda: paused.commit(commit(2)))
    owner = open_backend()
    owner.own()
    owner.prepare(dict(enumerate(commit(3).shards)))
    zombie.wake()
    assert any(cell.epoch == 2000 for cell in owner.raw_cells())
    assert not list(owner.faults())
