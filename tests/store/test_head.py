"""The head of a store in shard servers: sessions, blocks, commits, and going back to the last commit."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from monobeam.store.backend import BackendError, Commit, LeasedError, StaleError
from monobeam.store.bags import Bags
from monobeam.store.head import Committed, Head, Opened
from monobeam.store.hosting import Hosting
from monobeam.store.manifest import Manifest
from monobeam.store.members import LocalMember, Members
from monobeam.store.memory import MemoryBackend
from monobeam.store.spec import SpecError, StoreSpec, TableSpec

NO_ARRIVALS = np.empty(0, np.int64)
SPEC = StoreSpec("m", (TableSpec("t", 2, "sgd", 0.5),), shards=2)
TTL_S = 10.0
IDS = Bags(np.arange(20, dtype=np.uint64), np.arange(21, dtype=np.int64))
MINE, YOURS = frozenset([0]), frozenset([1])


class Failing(MemoryBackend):
    fail = False

    def commit(self, commit: Commit) -> None:
        if self.fail:
            raise BackendError("no room")
        super().commit(commit)


class World:
    """A head and the shards of its own server."""

    def __init__(self) -> None:
        self.backend = Failing()
        self.backend.own()
        self.hosting = Hosting(self.backend, range(4))
        self.head = Head(self.backend, Members(self.backend, LocalMember("here", self.hosting)), TTL_S)

    def open(self, partitions: frozenset[int] | None = None, now_s: float = 0.0, spec: StoreSpec = SPEC) -> Opened:
        return self.head.open(spec, "somebody", partitions, now_s)

    def train(self, opened: Opened, partition: int, offset: int, now_s: float = 0.0, **meta: Any) -> None:
        """A block that moves every row."""
        self.head.begin(opened.session, partition, offset, now_s)
        host = self.hosting.at(opened.generation)
        _, pulls = host.pull("t", IDS, 0, False)()
        host.push(pulls, np.ones((20, 2), np.float32), 0.5)
        self.head.end(opened.session, partition, offset + 1, meta, now_s)

    def commit(self, opened: Opened, now_s: float = 0.0, **positions: int) -> Manifest:
        given = {int(name[1:]): offset for name, offset in positions.items()}
        return self.publish(opened, None, 0, now_s, given).manifest

    def publish(
        self,
        opened: Opened,
        dense_values: bytes | None,
        ended: int,
        now_s: float = 0.0,
        positions: Mapping[int, int] = MappingProxyType({}),
    ) -> Committed:
        """A commit with dense values that were read when so many blocks had ended."""
        said = 1_000_000, {"said": 1}, NO_ARRIVALS
        return self.head.commit(opened.session, positions, None, dense_values, *said, ended, now_s)

    def updates(self) -> int:
        return int(self.hosting.at(self.hosting.generation).update_counts("t", IDS.keys)().sum())


@pytest.fixture
def world() -> World:
    return World()


def test_a_commit_has_what_blocks_said(world: World) -> None:
    opened = world.open()
    assert opened.servers == {"here": (0, 1, 2, 3)}
    world.train(opened, 3, 0, clock=7)
    world.train(opened, 3, 1, clock=8)
    manifest = world.commit(opened)
    assert manifest.positions == {3: 2}
    assert manifest.meta == {"said": 1, "partitions": {"3": {"clock": 8}}}
    assert world.backend.manifest() == manifest
    assert world.updates() == 40
    world.head.close(opened.session, "ended")
    again = world.open()
    assert again.manifest == manifest
    assert again.generation == opened.generation
    world.train(again, 3, 2)
    assert world.commit(again).meta["partitions"] == {"3": {"clock": 8}}


def test_a_block_that_is_not_the_next_one_is_refused(world: World) -> None:
    opened = world.open()
    world.train(opened, 0, 0)
    for offset in (0, 2):
        with pytest.raises(ValueError, match=f"offset {offset} of partition 0: the next one to train on is 1"):
            world.head.begin(opened.session, 0, offset, 0.0)


def test_of_each_partition_there_is_one_trainer(world: World) -> None:
    mine = world.open(MINE)
    with pytest.raises(LeasedError, match="somebody trains the same partitions"):
        world.open(MINE)
    with pytest.raises(LeasedError, match="somebody trains the same partitions"):
        world.open(None)
    yours = world.open(YOURS)
    with pytest.raises(ValueError, match=r"partition 1: this trainer has \[0\]"):
        world.head.begin(mine.session, 1, 0, 0.0)
    world.train(mine, 0, 0)
    world.train(yours, 1, 0)
    assert world.commit(mine, p0=1, p1=9).positions == {0: 1, 1: 1}
    assert mine.generation == yours.generation


def test_all_trainers_have_one_specification(world: World) -> None:
    world.open(MINE)
    other = replace(SPEC, tables=(replace(SPEC.tables[0], learning_rate=0.1),))
    with pytest.raises(LeasedError, match="somebody trains with another specification"):
        world.open(YOURS, spec=other)


def test_another_store_is_refused(world: World) -> None:
    opened = world.open()
    world.commit(opened)
    world.head.close(opened.session, "ended")
    with pytest.raises(SpecError, match="model is 'm' there and 'n' here"):
        world.open(spec=replace(SPEC, model="n"))
    world.open()


@pytest.mark.parametrize("ends", ["close", "silence"])
def test_what_a_trainer_left_uncommitted_is_gone(world: World, ends: str) -> None:
    first, other = world.open(MINE), world.open(YOURS)
    world.train(first, 0, 0)
    world.commit(first)
    world.train(first, 0, 1)
    if ends == "close":
        world.head.close(first.session, "lost its connection")
    now_s = TTL_S + 1
    if ends == "silence":
        world.head.alive(other.session, now_s)
    again = world.open(MINE, now_s)
    assert again.manifest.positions == {0: 1}
    assert world.updates() == 20
    with pytest.raises(StaleError, match=r"somebody (lost its connection|showed no sign of life)"):
        world.head.begin(other.session, 1, 0, now_s)
    with pytest.raises(StaleError):
        world.hosting.at(first.generation)
    world.train(again, 0, 1, now_s)
    assert world.commit(again, now_s).positions == {0: 2}
    assert world.updates() == 40


def test_a_trainer_that_left_nothing_disturbs_nobody(world: World) -> None:
    first, other = world.open(MINE), world.open(YOURS)
    world.train(first, 0, 0)
    world.commit(other)
    world.head.close(first.session, "lost its connection")
    world.train(other, 1, 0)
    assert world.open(MINE).generation == other.generation


def test_a_sign_of_life_keeps_a_session(world: World) -> None:
    first = world.open(MINE)
    world.head.alive(first.session, TTL_S)
    with pytest.raises(LeasedError):
        world.open(MINE, TTL_S + 1)
    world.open(MINE, 2 * TTL_S + 1)
    with pytest.raises(StaleError):
        world.head.alive(first.session, 2 * TTL_S + 1)


def test_a_late_sign_of_life_takes_nothing_back(world: World) -> None:
    first = world.open(MINE)
    world.head.alive(first.session, TTL_S)
    world.head.work(first.session, 1.0)
    with pytest.raises(LeasedError):
        world.open(MINE, 2 * TTL_S)


def test_a_commit_waits_for_blocks_and_holds_new_ones_back(world: World) -> None:
    mine, yours = world.open(MINE), world.open(YOURS)
    world.head.begin(yours.session, 1, 0, 0.0)
    with ThreadPoolExecutor(2) as pool:
        commit = pool.submit(world.commit, mine)
        while not world.head._busy:
            assert not commit.done(), commit.exception()
        begin = pool.submit(world.head.begin, mine.session, 0, 0, 0.0)
        assert not commit.done()
        assert not begin.done()
        world.head.end(yours.session, 1, 1, {}, 0.0)
        assert commit.result().positions == {1: 1}
        begin.result()


def test_a_commit_does_not_wait_for_the_dead(world: World) -> None:
    mine, yours = world.open(MINE), world.open(YOURS)
    world.head.begin(yours.session, 1, 0, 0.0)
    with ThreadPoolExecutor(1) as pool:
        commit = pool.submit(world.commit, mine, TTL_S)
        while not world.head._busy:
            assert not commit.done(), commit.exception()
        world.head.tick(TTL_S)
        assert not commit.done()
        world.head.tick(TTL_S + 0.1)
        with pytest.raises(StaleError, match="somebody showed no sign of life"):
            commit.result()
    assert world.open(now_s=TTL_S).manifest.positions == {}


def test_a_commit_within_a_block_is_refused(world: World) -> None:
    opened = world.open()
    world.head.begin(opened.session, 4, 0, 0.0)
    with pytest.raises(ValueError, match="commit within a block of partition 4"):
        world.commit(opened)


def test_a_block_begins_once_and_ends_once(world: World) -> None:
    opened = world.open()
    with pytest.raises(ValueError, match="end of a block of partition 0: none has begun"):
        world.head.end(opened.session, 0, 7, {}, 0.0)
    world.head.begin(opened.session, 0, 0, 0.0)
    with pytest.raises(ValueError, match="offset 0 of partition 0: it is being trained on"):
        world.head.begin(opened.session, 0, 0, 0.0)
    world.head.end(opened.session, 0, 1, {}, 0.0)
    assert world.commit(opened).positions == {0: 1}


def test_no_commit_falls_into_the_dropping_of_what_is_too_old(world: World) -> None:
    """What hosts drop after they prepared and before they committed would never be dropped in the backend."""
    mine, yours = world.open(MINE), world.open(YOURS)
    world.train(yours, 1, 0)
    world.head.expire(mine.session, 0, 1, 0.0)
    with ThreadPoolExecutor(2) as pool:
        commit = pool.submit(world.commit, yours)
        while not world.head._busy:
            assert not commit.done(), commit.exception()
        also = pool.submit(world.head.unseen, yours.session, IDS.keys, 5, 0.0)
        assert not commit.done()
        assert not also.done()
        world.head.expired(mine.session, 0.0)
        assert commit.result().positions == {1: 1}
        assert also.result().all()


def test_a_trainer_that_is_gone_while_it_drops_is_in_doubt(world: World) -> None:
    mine, yours = world.open(MINE), world.open(YOURS)
    world.head.expire(mine.session, 0, 1, 0.0)
    world.head.close(mine.session, "lost its connection")
    with pytest.raises(StaleError, match="lost its connection"):
        world.head.work(yours.session, 0.0)


def test_dense_values_are_not_replaced_by_older_ones(world: World) -> None:
    """A trainer may read them, and commit after another that read them later."""
    mine, yours = world.open(MINE), world.open(YOURS)
    assert (mine.ended, yours.ended) == (0, 0)
    world.train(mine, 0, 0)
    world.train(yours, 1, 0)
    assert world.publish(yours, b"newer", 2).published
    assert not world.publish(mine, b"older", 1).published
    assert world.backend.dense_values() == (1, b"newer")
    assert world.publish(mine, b"as new", 2).manifest.dense_version == 2


def test_after_a_commit_that_failed_everybody_goes_back(world: World) -> None:
    opened = world.open()
    world.train(opened, 0, 0)
    world.backend.fail = True
    with pytest.raises(BackendError, match="no room"):
        world.commit(opened)
    world.backend.fail = False
    with pytest.raises(StaleError, match="a commit failed: no room"):
        world.train(opened, 0, 1)
    again = world.open()
    assert again.manifest.positions == {}
    assert world.updates() == 0
    world.train(again, 0, 0)
    assert world.commit(again).positions == {0: 1}


def test_example_keys_go_back_too(world: World) -> None:
    keys = np.array([1, 2], np.uint64)
    opened = world.open()
    assert world.head.unseen(opened.session, keys[:1], 5, 0.0).tolist() == [True]
    world.commit(opened)
    assert world.head.unseen(opened.session, keys, 5, 0.0).tolist() == [False, True]
    world.head.close(opened.session, "ended")
    again = world.open()
    assert again.generation != opened.generation
    assert world.head.unseen(again.session, keys, 5, 0.0).tolist() == [False, True]


def test_a_part_of_a_store_with_one_owner_is_refused() -> None:
    backend = MemoryBackend()
    head = Head(backend, Members(backend, LocalMember("here", Hosting(backend, range(2)))))
    with pytest.raises(ValueError, match=r"must have all 3 shards, --shards=0-2; this one has \[0, 1\]"):
        head.open(replace(SPEC, shards=3), "somebody", None, 0.0)
