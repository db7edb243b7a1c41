from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monobeam.logs.log import open_log
from monobeam.models.config import parse as parse_config
from monobeam.models.tails import TABLE
from monobeam.serving.columns import FeatureTypes
from monobeam.serving.follower import Follower
from monobeam.serving.freshness import Freshness
from monobeam.serving.predictor import Predictor
from monobeam.serving.replica import Replica, SyncError
from monobeam.serving.request import RankRequest, parse
from monobeam.store.backend import Backend, BackendError
from monobeam.store.sync import SyncEvent, TableChange
from tests.serving.world import CONFIG, World, request, rows_in, rows_of

SECOND = 1_000_000
DIM = 5


def assert_equals_store(replica: Replica, backend: Backend) -> None:
    """Row by row, and the dense weights and their version."""
    assert rows_of(replica.tables[TABLE]) == rows_in(backend, len(replica.shards), DIM)
    manifest, dense = backend.manifest(), backend.dense_values()
    assert manifest is not None
    assert dense is not None
    assert tuple(shard.epoch for shard in replica.shards) == manifest.epochs
    assert replica.dense.version == dense.version
    assert replica.dense.rate == manifest.meta["rate"]


def asked(seed: int, candidates: int = 10) -> RankRequest:
    config = parse_config(CONFIG)
    return parse(json.dumps(request(seed, candidates)).encode(), FeatureTypes(config), 1000)


class Clock:
    def __init__(self) -> None:
        self.now_us = SECOND

    def __call__(self) -> int:
        return self.now_us


class Following:
    """A replica with a follower that is moved by hand."""

    def __init__(self, world: World) -> None:
        self.replica, self.freshness, self.clock = Replica(world.config), Freshness(), Clock()
        self.store_is_away = False

        def backend() -> Backend:
            if self.store_is_away:
                raise BackendError("the store is away")
            return world.backend()

        self.follower = Follower(self.replica, backend, open_log(world.uri("sync")), self.freshness, self.clock)
        self.step = self.follower.step

    def counts(self) -> dict[str, int]:
        return {n: sum(getattr(s, n) for s in self.replica.shards) for n in ("events", "skipped", "gaps", "deletes")}


@pytest.fixture
def following(world: World) -> Following:
    return Following(world)


def test_loads_the_last_commit_and_follows_from_there(world: World, following: Following) -> None:
    world.step(1)
    following.step()
    assert_equals_store(following.replica, world.backend())
    for seed in range(2, 6):
        world.step(seed)
    following.step()
    assert_equals_store(following.replica, world.backend())
    assert following.counts() == {"events": 8, "skipped": 0, "gaps": 0, "deletes": 0}
    following.follower.stop()


def test_a_store_without_a_commit_is_followed_from_its_first(world: World, following: Following) -> None:
    following.step()
    assert following.replica.loaded
    assert (following.replica.epoch, following.replica.staleness_ms(0)) == (0, None)
    world.step(1)
    following.step()
    assert_equals_store(following.replica, world.backend())
    assert following.counts()["gaps"] == 0


def test_a_missing_event_is_read_from_the_store(world: World, following: Following) -> None:
    following.step()
    world.step(1)
    world.commit(2)  # its events never reach the log
    third = world.commit(3)
    world.publish(third)
    following.step()
    assert_equals_store(following.replica, world.backend())
    assert following.counts()["gaps"] == 2  # one in each shard
    world.step(4)
    following.step()
    assert_equals_store(following.replica, world.backend())
    assert following.counts()["gaps"] == 2


def test_a_clock_that_is_put_back_does_not_stop_the_looks_at_the_store(world: World, following: Following) -> None:
    """Or, for as long as the clock had been put back, no lost event would be noticed."""
    world.step(1)
    following.clock.now_us = 3600 * SECOND
    following.step()
    world.commit(2)
    following.clock.now_us = SECOND
    for _ in range(2):
        following.step()
        following.clock.now_us += 2 * SECOND
    assert following.counts()["gaps"] == 2
    assert_equals_store(following.replica, world.backend())


def test_a_lost_last_event_is_found_by_looking_at_the_store(world: World, following: Following) -> None:
    world.step(1)
    following.step()
    world.commit(2)
    for _ in range(2):  # an event that is only late gets the time until the second look
        assert following.counts()["gaps"] == 0
        following.clock.now_us += 2 * SECOND
        following.step()
    assert following.counts()["gaps"] == 2
    assert_equals_store(following.replica, world.backend())


def test_an_undecodable_event_is_a_gap(world: World, following: Following) -> None:
    following.step()
    world.step(1)
    broken = world.commit(2)
    world.sync.append([event.to_record() | {"dtype": "fp8"} for event in broken])
    world.step(3)
    following.step()
    assert_equals_store(following.replica, world.backend())
    assert following.counts()["gaps"] == 2


def test_duplicates_change_nothing(world: World, following: Following) -> None:
    following.step()
    first, second = world.commit(1), world.commit(2)
    world.publish([*first, *first, *second, *first, *second])
    following.step()
    assert_equals_store(following.replica, world.backend())
    assert following.counts() == {"events": 4, "skipped": 6, "gaps": 0, "deletes": 0}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.lists(st.integers(0, 4), max_size=12), starts_at=st.integers(0, 5))
def test_any_order_any_loss_and_any_repeats_end_at_the_store(
    shared: tuple[World, list[list[SyncEvent]]], order: list[int], starts_at: int
) -> None:
    world, commits = shared
    replica, backend = Replica(world.config), world.backend()
    if starts_at == 5:
        replica.load(backend)
    for index in [*order, 4]:  # the newest comes at last, or there would be nothing to tell that it is missing
        for event in commits[index]:
            replica.apply(event, backend)
    assert_equals_store(replica, backend)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, list[list[SyncEvent]]]:
    world = World(tmp_path_factory.mktemp("shared"))
    return world, [world.commit(seed, 30) for seed in range(1, 6)]


def test_deletes_propagate_by_events_and_by_catching_up(world: World, following: Following) -> None:
    following.step()
    world.step(1)
    following.step()
    before = len(rows_of(following.replica.tables[TABLE]))
    world.publish(world.commit(2, rows=2, later_s=7200))  # items expire after an hour
    following.step()
    assert following.counts()["deletes"] > 50
    assert len(rows_of(following.replica.tables[TABLE])) < before
    assert_equals_store(following.replica, world.backend())
    world.step(3)
    following.step()
    world.commit(4, rows=2, later_s=14400)  # deletes, but nobody hears
    world.publish(world.commit(5, rows=2, later_s=14401))
    following.step()
    assert following.counts()["gaps"] > 0
    assert_equals_store(following.replica, world.backend())
    assert following.replica.tables[TABLE].expired().tolist() == []  # nobody asks for them here


def test_rows_that_a_complete_catch_up_does_not_name_are_gone(world: World) -> None:
    replica = Replica(world.config)
    world.commit(1)
    stray = np.array([3 << 48 | 12345, 1 << 48 | 777], np.uint64)
    replica.tables[TABLE].import_values(stray, np.ones((2, DIM), np.float32))
    for shard in replica.shards:
        shard.epoch = 1  # older than everything that the store remembers
        replica.catch_up(shard.index, world.backend())
    assert_equals_store(replica, world.backend())
    assert replica.tables[TABLE].expired().tolist() == []


def test_without_the_store_the_last_good_state_stays_until_it_is_back(world: World, following: Following) -> None:
    world.step(1)
    following.step()
    before = rows_of(following.replica.tables[TABLE])
    world.commit(2)
    world.step(3)
    following.follower.stop()
    cut_off = Following(world)
    cut_off.replica = following.replica
    cut_off.store_is_away = True
    with pytest.raises(BackendError, match="away"):
        cut_off.step()
    assert rows_of(following.replica.tables[TABLE]) == before
    lonely = Replica(world.config)
    (event, *_) = world.commit(4)
    with pytest.raises(SyncError, match=r"shard 0: epochs after 0 are missing, and there is no store"):
        lonely.apply(event, None)
    assert lonely.rows == 0


def test_events_of_others_are_refused(world: World) -> None:
    replica = Replica(world.config)
    with pytest.raises(SyncError, match="event of model 'other': this is 'test'"):
        replica.apply(SyncEvent("other", 0, 1, 0, 1, {}, 0), None)
    with pytest.raises(SyncError, match="event of shard 2: this replica has shards 0 to 1"):
        replica.apply(SyncEvent("test", 2, 1, 0, 1, {}, 0), None)


def test_dense_weights_that_were_missed_are_read_from_the_store(world: World) -> None:
    replica = Replica(world.config)
    for event in world.commit(1):
        without = SyncEvent(**{**event.__dict__, "dense": None})
        replica.apply(without, world.backend())
    assert_equals_store(replica, world.backend())


def test_answers_go_on_while_a_large_event_is_applied() -> None:
    config = parse_config(CONFIG)
    replica = Replica(config)
    predictor, one = Predictor(config, replica.tables), asked(1)
    keys = np.arange(1, 1_000_001, dtype=np.uint64)
    values = np.ones((len(keys), DIM), np.float32)
    large = SyncEvent("test", 0, 1, 0, 1, {TABLE: TableChange(keys, values, keys[:0])}, 0)
    applying = threading.Thread(target=replica.apply, args=(large, None))
    applying.start()
    answers = 0
    while applying.is_alive():
        predictor.score(one, replica.dense)
        answers += 1
    applying.join()
    assert replica.rows == len(keys)
    assert answers >= 10


@pytest.mark.parametrize("seed", range(4))
def test_scores_are_those_of_the_whole_rows_encoded_as_for_training(world: World, seed: int) -> None:
    world.commit(1)
    replica = Replica(world.config)
    replica.load(world.backend())
    scores = Predictor(world.config, replica.tables).score(asked(seed), replica.dense)
    np.testing.assert_allclose(scores.probabilities, world.expected(request(seed)), rtol=1e-6)
    assert sorted(scores.order.tolist()) == list(range(10))
    assert (np.diff(scores.probabilities[scores.order]) <= 0).all()


def test_unknown_ids_count_and_score_as_zeros(world: World) -> None:
    config = world.config
    replica = Replica(config)
    body = {
        "features": {"user_id": 1, "country": "de"},
        "candidates": [{"item_id": 1, "tags": ["a", "b"]}, {"item_id": 2, "tags": []}, {"tags": ["a"]}],
    }
    one = parse(json.dumps(body).encode(), FeatureTypes(config), 10)
    scores = Predictor(config, replica.tables).score(one, replica.dense)
    assert scores.unknown_fids == 2 + 2 + 3 + 2  # user and country once, items, tags, country x item
    assert np.ptp(scores.probabilities) == 0


def test_a_missing_sync_log_and_store_are_waited_for(tmp_path: Path) -> None:
    config = parse_config(CONFIG)
    replica = Replica(config)

    def away() -> Backend:
        raise BackendError("the store is away")

    follower = Follower(replica, away, open_log(f"file:{tmp_path / 'nothing'}"), Freshness(), Clock())
    with pytest.raises(BackendError):
        follower.step()
    assert replica.error == "BackendError: the store is away"
    assert not replica.loaded
