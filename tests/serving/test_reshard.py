"""A store is cut into other shards while it is served: replicas follow, and nobody who asks is turned away."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from monobeam.logs.log import open_log
from monobeam.models.tails import TABLE
from monobeam.serving.follower import Follower
from monobeam.serving.freshness import Freshness
from monobeam.serving.replica import Replica
from monobeam.store import snapshots
from monobeam.store.backend import Backend, BackendError
from monobeam.store.storage import open_storage
from monobeam.store.sync import SyncEvent
from tests.serving.test_replica import SECOND, Clock, assert_equals_store
from tests.serving.world import ServerProcess, World, request, rows_of, running


class Following:
    """A replica of a configuration with two shards, and a follower of the partitions of all shards, moved by hand."""

    def __init__(self, world: World) -> None:
        self.world, self.clock = world, Clock()
        self.replica = Replica(world.config)
        log = open_log(world.uri("sync_by_shard"))
        self.follower = Follower(self.replica, world.backend, log, Freshness(), self.clock)

    def step(self) -> None:
        """So much later that the store is looked at."""
        self.clock.now_us += 2 * SECOND
        self.follower.step()

    def counts(self) -> dict[str, int]:
        return {name: sum(getattr(shard, name) for shard in self.replica.shards) for name in ("events", "gaps")}

    def check(self) -> None:
        assert_equals_store(self.replica, self.world.backend())


class InTable(World):
    """A world whose store is in Bigtable."""

    def __init__(self, folder: Path, table: str) -> None:
        self._table = table
        super().__init__(folder)

    def uri(self, name: str) -> str:
        return self._table if name == "store" else super().uri(name)


@pytest.fixture(params=["lmdb", "bigtable"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """A world with its store in one place or the other."""
    in_table = request.param == "bigtable"
    result = InTable(tmp_path, request.getfixturevalue("new_table")()) if in_table else World(tmp_path)
    yield result
    result.close()


@pytest.fixture
def following(world: World) -> Following:
    return Following(world)


def cut(world: World, shards: int) -> None:
    backend = open_storage(world.uri("store"))
    backend.own()
    backend.reshard(shards)
    backend.close()


def reshard(world: World, shards: int) -> None:
    """Cut the store anew between two trainers."""
    world.reopen(shards, lambda: cut(world, shards))


@pytest.mark.parametrize("numbers", [(6, 2, 4), (1, 3, 1)])
def test_replicas_follow_every_number(either: World, numbers: tuple[int, ...]) -> None:
    world, following = either, Following(either)
    world.publish_by_shard(world.commit(1))
    following.step()
    for number, shards in enumerate(numbers, 1):
        reshard(world, shards)
        following.step()
        assert len(following.replica.shards) == shards
        following.check()
        before = following.counts()
        for seed in range(3):
            world.publish_by_shard(world.commit(10 * number + seed))
            following.follower.step()
            following.check()
        after = following.counts()
        assert (after["events"] - before["events"], after["gaps"]) == (3 * shards, before["gaps"])
    following.follower.stop()


def test_events_tell_before_the_store_is_looked_at(world: World, following: Following) -> None:
    world.publish_by_shard(world.commit(1))
    following.step()
    reshard(world, 6)
    world.publish_by_shard(world.commit(2))
    following.follower.step()
    following.check()


def test_late_events_of_shards_that_are_gone_are_skipped(world: World, following: Following) -> None:
    world.commit(1)
    reshard(world, 5)
    following.step()
    late = world.commit(10)
    reshard(world, 2)
    world.publish_by_shard(late)
    for seed in (2, 3):
        world.publish_by_shard(world.commit(seed))
        following.step()
        following.check()
    assert len(following.replica.shards) == 2


def test_rows_that_expired_meanwhile_are_gone(world: World, following: Following) -> None:
    world.publish_by_shard(world.commit(1))
    following.step()
    before = len(rows_of(following.replica.tables[TABLE]))
    world.commit(2, rows=2, later_s=7200)  # items expire after an hour
    reshard(world, 3)
    following.step()
    assert len(rows_of(following.replica.tables[TABLE])) < before
    following.check()


def test_one_who_meets_a_store_in_other_shards_than_its_configuration_says(world: World) -> None:
    world.publish_by_shard(world.commit(1))
    config = world.config
    reshard(world, 4)
    for without_store in (False, True):
        replica = Replica(config)
        if not without_store:
            replica.load(world.backend())
        for event in world.commit(2 + without_store):
            replica.apply(event, world.backend())
        assert_equals_store(replica, world.backend())


def test_cut_in_the_midst_of_a_load(world: World, following: Following) -> None:
    """What was answered from stays whole, and the next step reads the new shards."""
    world.publish_by_shard(world.commit(1))
    reshard(world, 6)
    following.step()
    known = rows_of(following.replica.tables[TABLE])

    class Cutting:
        """Cuts the store after its first shard was read."""

        def __init__(self, backend: Backend) -> None:
            self.__dict__.update({name: getattr(backend, name) for name in ("uri", "manifest", "dense_values")})
            self.changed = backend.changed
            self._backend = backend

        def load(self, shard: int) -> object:
            loaded = self._backend.load(shard)
            if shard == 1:
                reshard(world, 3)
            return loaded

    with pytest.raises(BackendError, match="has 3 shards now, not 6"):
        following.replica.load(Cutting(world.backend()))  # type: ignore[arg-type]
    assert len(following.replica.shards) == 6
    assert rows_of(following.replica.tables[TABLE]) == known
    following.step()
    following.check()
    assert len(following.replica.shards) == 3


def test_a_restored_snapshot_is_followed(either: World) -> None:
    world, following = either, Following(either)
    world.publish_by_shard(world.commit(1))
    kept = snapshots.keep(open_storage(world.uri("store")))
    then = world.expected(request(1))
    for seed in (2, 3):
        world.publish_by_shard(world.commit(seed))
    following.step()

    def restore() -> None:
        backend = open_storage(world.uri("store"))
        backend.own()
        backend.reshard(3)
        snapshots.restore(backend, open_storage(kept), time.time_ns() // 1000)
        backend.close()

    world.reopen(3, restore)
    for _ in range(3):
        following.step()
    following.check()
    np.testing.assert_array_equal(world.expected(request(1)), then)
    assert world.trainer.positions == {0: 1}
    world.publish_by_shard(world.commit(4))
    following.follower.step()
    following.check()


def contents(world: World) -> dict[str, dict[int, bytes]]:
    """All rows, whatever their shards, with all that the optimizer remembers."""
    found: dict[str, dict[int, bytes]] = {}
    for shard in range(len(world.store.epochs)):
        for block in world.backend().load(shard).blocks:
            found.setdefault(block.table, {}).update(zip(block.keys.tolist(), map(bytes, block.rows), strict=True))
    return found


def test_training_over_reshardings_and_again_after_restoring_is_bit_equal(world: World, tmp_path: Path) -> None:
    (tmp_path / "undisturbed").mkdir()
    undisturbed = World(tmp_path / "undisturbed")
    for seed in range(6):
        undisturbed.commit(seed)
    kept = ""
    for seed in range(6):
        world.commit(seed)
        if seed == 1:
            kept = snapshots.keep(open_storage(world.uri("store")))
        reshard(world, 1 + seed)
    assert contents(world) == contents(undisturbed)

    def restore() -> None:
        backend = open_storage(world.uri("store"))
        backend.own()
        snapshots.restore(backend, open_storage(kept), time.time_ns() // 1000)
        backend.close()

    world.reopen(6, restore)
    assert contents(world) != contents(undisturbed)
    for seed in range(2, 6):
        world.commit(seed)
    assert contents(world) == contents(undisturbed)
    assert world.store.dense() == undisturbed.store.dense()
    undisturbed.close()


@pytest.mark.parametrize("seed", range(6))
def test_whatever_happens_in_whatever_order(world: World, following: Following, seed: int) -> None:
    rng, waiting = random.Random(seed), list[SyncEvent]()
    for number in range(12):
        waiting += world.commit(number)
        if rng.random() < 0.4:
            reshard(world, rng.choice([1, 2, 3, 5, 8]))
        if rng.random() < 0.3:
            rng.shuffle(waiting)
        if rng.random() < 0.3:
            del waiting[: len(waiting) // 2]
        if rng.random() < 0.5:
            world.publish_by_shard(waiting)
            waiting.clear()
        if rng.random() < 0.5:
            following.step()
    for _ in range(3):
        following.step()
    following.check()


class Asking(threading.Thread):
    """Somebody who asks all the time."""

    def __init__(self, server: ServerProcess) -> None:
        super().__init__()
        self._server = server
        self._ended = threading.Event()
        self.statuses: list[int] = []
        self.longest_s = 0.0

    def run(self) -> None:
        while not self._ended.is_set():
            started = time.monotonic()
            self.statuses.append(self._server.rank(request(len(self.statuses) % 50)).status_code)
            self.longest_s = max(self.longest_s, time.monotonic() - started)

    def end(self) -> None:
        self._ended.set()
        self.join()


def test_a_server_answers_all_through_a_resharding(world: World) -> None:
    world.publish_by_shard(world.commit(1, rows=2000))

    def command() -> None:
        arguments = ["-m", "monobeam.store", "reshard", "6", f"--store={world.uri('store')}"]
        done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)
        assert json.loads(done.stdout.splitlines()[-1])["shards"] == 6

    with running(world, f"--sync={world.uri('sync_by_shard')}") as server:
        server.until_epoch(world)
        asking = Asking(server)
        asking.start()
        world.reopen(6, command)
        server.until(lambda: server.stats()["replica"]["shards"] == 6, "the new shards")
        server.until_epoch(world)
        for seed in range(2, 6):
            world.publish_by_shard(world.commit(seed))
            server.until_epoch(world)
        asking.end()
        assert set(asking.statuses) == {200}
        assert len(asking.statuses) > 20
        assert asking.longest_s < 5
        assert server.stats()["state"]["name"] in ("live", "idle")
        np.testing.assert_allclose(server.scores(request(7)), world.expected(request(7)), rtol=1e-5)
    assert "Traceback" not in Path(server.log_file).read_text()
