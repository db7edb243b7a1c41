"""Tails in serving: ids that the replica has no row for get the vectors that training gives them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from monobeam.models.features import FeatureEncoder
from monobeam.models.tails import NARROW, SIGHTINGS, TABLE
from monobeam.serving.columns import FeatureTypes
from monobeam.serving.predictor import Predictor, Scores
from monobeam.serving.replica import Replica
from monobeam.serving.request import parse
from monobeam.store.changes import values_of
from tests.models.streams import block
from tests.serving.world import CONFIG, World, features, request, rows_of, running

TAILED = (
    CONFIG.replace('feature = "user_id"', 'feature = "user_id"\ntail = "compose"\ntail_rows = 20\nadmit_count = 4')
    .replace('feature = "item_id"', 'feature = "item_id"\ntail = "narrow"\nadmit_count = 2')
    .replace('feature = "tags"', 'feature = "tags"\ntail = "compose"\ntail_rows = 3\nadmit_probability = 0.02')
    .replace("dim = 4", "dim = 4\ntail_dim = 2")
)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    result = World(tmp_path, TAILED)
    yield result
    result.close()


def scores(world: World, replica: Replica, seed: int) -> Scores:
    asked = parse(json.dumps(request(seed)).encode(), FeatureTypes(world.config), 1000)
    return Predictor(world.config, replica.tables).score(asked, replica.dense)


def known(world: World, seed: int) -> list[bool]:
    """Which ids of a request's features, repeated for every candidate, have a row of their own."""
    keys = FeatureEncoder(world.config).encode(block(np.zeros(10), features(seed, 10))).bags.keys
    return [bool(found) for found in world.store.known(TABLE, keys)]


def test_scores_are_the_trainer_s_for_admitted_and_other_ids(world: World) -> None:
    followed = Replica(world.config)
    followed.load(world.backend())
    for seed in range(1, 5):
        for event in world.commit(seed):
            assert SIGHTINGS not in event.tables
            followed.apply(event, world.backend())
    loaded = Replica(world.config)
    loaded.load(world.backend())
    late = Replica(world.config)
    for shard in late.shards:
        late.catch_up(shard.index, world.backend())
    seen: set[bool] = set()
    for seed in range(12):
        expected = world.expected(request(seed))
        for replica in (followed, loaded, late):
            # The logits are float32 and the same bits; from there on both compute in float64, by other formulas.
            np.testing.assert_allclose(scores(world, replica, seed).probabilities, expected, rtol=1e-14)
        seen |= set(known(world, seed))
    assert seen == {True, False}


def test_a_replica_has_the_rows_of_both_tables_and_no_sightings(world: World) -> None:
    world.commit(1)
    replica, backend = Replica(world.config), world.backend()
    replica.load(backend)
    assert set(replica.tables) == {TABLE, NARROW}
    found = {name: {} for name in (TABLE, NARROW, SIGHTINGS)}  # type: dict[str, dict[int, bytes]]
    for shard in range(2):
        for part in backend.load(shard).blocks:
            rows = np.ascontiguousarray(values_of(part.rows, {TABLE: 5, NARROW: 3, SIGHTINGS: 0}[part.table]))
            found[part.table] |= {int(key): row.tobytes() for key, row in zip(part.keys, rows, strict=True)}
    assert found[SIGHTINGS]
    assert {name: rows_of(table) for name, table in replica.tables.items()} == {
        name: found[name] for name in (TABLE, NARROW)
    }
    assert replica.rows == len(found[TABLE]) + len(found[NARROW]) == world.store.rows


def test_unknown_fids_are_those_without_a_row_of_their_own(world: World) -> None:
    world.commit(1)
    replica = Replica(world.config)
    replica.load(world.backend())
    once = block([0], {name: values[:1] for name, values in features(7, 1).items()})
    keys = FeatureEncoder(world.config).encode(once).bags.keys
    assert scores_of_one(world, replica, 7) == int((~world.store.known(TABLE, keys)).sum()) > 0


def scores_of_one(world: World, replica: Replica, seed: int) -> int:
    asked = parse(json.dumps(request(seed, 1)).encode(), FeatureTypes(world.config), 1000)
    return Predictor(world.config, replica.tables).score(asked, replica.dense).unknown_fids


def test_a_running_server_scores_with_tails(world: World) -> None:
    world.step(1)
    with running(world) as server:
        world.step(2)
        server.until_epoch(world)
        np.testing.assert_allclose(server.scores(request(3)), world.expected(request(3)), rtol=1e-14)
