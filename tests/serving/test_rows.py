"""Replicas whose rows are fp32, fp16, bf16 or int8, and what happens where there is no room for them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monobeam.logs.log import open_log
from monobeam.models.config import Config
from monobeam.models.config import parse as parse_config
from monobeam.models.features import FeatureEncoder
from monobeam.models.tails import NARROW, TABLE
from monobeam.serving.columns import FeatureTypes
from monobeam.serving.follower import Follower
from monobeam.serving.freshness import Freshness
from monobeam.serving.predictor import Predictor, ReplicaRows, Scores
from monobeam.serving.replica import Replica
from monobeam.serving.request import parse
from monobeam.store.changes import values_of
from monobeam.store.room import TableFullError
from monobeam.store.sync import SyncEvent, TableChange
from tests.models.streams import block
from tests.native.formats import nearest
from tests.serving.test_tails import TAILED
from tests.serving.world import CONFIG, World, features, request, rows_of, running

FORMATS = ("fp32", "fp16", "bf16", "int8")
APART = {"fp32": 1e-12, "fp16": 1e-4, "bf16": 1e-3, "int8": 5e-3}
CONFIGS = {"plain": CONFIG, "tails": TAILED}
MEBIBYTE = 2**20


def serving(config: Config, rows: str, memory_limit: int = 0) -> Config:
    return replace(config, serving=replace(config.serving, rows=rows, memory_limit=memory_limit))


def loaded(world: World, rows: str) -> Replica:
    replica = Replica(serving(world.config, rows))
    replica.load(world.backend())
    return replica


def scores(world: World, replica: Replica, seed: int) -> Scores:
    asked = parse(json.dumps(request(seed)).encode(), FeatureTypes(world.config), 1000)
    return Predictor(world.config, replica.tables).score(asked, replica.dense)


def stored(world: World, table: str, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and float32 rows of a table, as the store has them."""
    blocks = [block for shard in range(2) for block in world.backend().load(shard).blocks if block.table == table]
    keys = np.concatenate([block.keys for block in blocks])
    return keys, np.concatenate([np.ascontiguousarray(values_of(block.rows, dim)) for block in blocks])


@pytest.fixture(scope="module", params=CONFIGS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("rows"), CONFIGS[request.param])
    for seed in range(1, 5):
        world.commit(seed)
    yield world
    world.close()


@pytest.mark.parametrize("rows", FORMATS)
def test_rows_are_those_of_the_store_rounded_to_nearest(trained: World, rows: str) -> None:
    replica = loaded(trained, rows)
    for name, dim in ((TABLE, 5), (NARROW, 3)):
        if name in replica.tables:
            keys, values = stored(trained, name, dim)
            assert len(keys) == len(replica.tables[name]) > 50
            np.testing.assert_array_equal(replica.tables[name].lookup(keys)[0], nearest(rows, values))
            assert replica.tables[name].row_format == rows
            assert replica.tables[name].state_floats == 0


@pytest.mark.parametrize("rows", FORMATS)
def test_scores_are_near_the_trainer_s_and_unknown_ids_the_same(trained: World, rows: str) -> None:
    replica, whole = loaded(trained, rows), loaded(trained, "fp32")
    apart = 0.0
    for seed in range(12):
        found, exact = scores(trained, replica, seed), scores(trained, whole, seed)
        apart = max(apart, np.abs(found.probabilities - trained.expected(request(seed))).max())
        assert found.unknown_fids == exact.unknown_fids
        assert found.order.tolist() == np.argsort(-found.probabilities, kind="stable").tolist()
    assert apart < APART[rows]
    assert rows == "fp32" or apart > 1e-9


@pytest.mark.parametrize("rows", FORMATS)
def test_sharing_the_user_s_part_changes_no_bit(trained: World, rows: str) -> None:
    replica = loaded(trained, rows)
    for seed in range(4):
        asked = request(seed)
        repeated = {"candidates": [{**asked["features"], **candidate} for candidate in asked["candidates"]]}
        alone = parse(json.dumps(repeated).encode(), FeatureTypes(trained.config), 1000)
        found = Predictor(trained.config, replica.tables).score(alone, replica.dense)
        assert found.probabilities.tobytes() == scores(trained, replica, seed).probabilities.tobytes()


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_by_default_a_row_has_the_same_bits_whichever_way_it_came(dtype: str, tmp_path: Path) -> None:
    world = World(tmp_path, TAILED.replace("[store]", f'[store]\nsync_dtype = "{dtype}"'))
    followed, late = Replica(world.config), Replica(world.config)
    followed.load(world.backend())
    for seed in range(1, 4):
        for event in world.commit(seed):
            followed.apply(SyncEvent.from_record(event.to_record()), None)
    for shard in late.shards:
        late.catch_up(shard.index, world.backend())
    start = Replica(world.config)
    start.load(world.backend())
    assert followed.row_format == dtype
    for name in (TABLE, NARROW):
        assert rows_of(followed.tables[name]) == rows_of(late.tables[name]) == rows_of(start.tables[name])
    world.close()


def test_shorter_rows_take_less_memory() -> None:
    config = parse_config(CONFIG.replace("dim = 4", "dim = 63"))
    keys = np.arange(100_000, dtype=np.uint64)
    values = np.random.default_rng(1).normal(size=(len(keys), 64)).astype(np.float32)
    used = {}
    for rows in FORMATS:
        replica = Replica(serving(config, rows))
        assert replica.bytes_per_row is None
        replica.apply(SyncEvent("test", 0, 1, 0, 1, {TABLE: TableChange(keys, values, keys[:0])}, 0), None)
        used[rows] = replica.bytes_per_row
        assert used[rows] == replica.memory_bytes / len(keys)
    assert used["fp16"] == used["bf16"] < 0.65 * used["fp32"]
    assert used["int8"] < 0.42 * used["fp32"]


def test_what_is_deleted_takes_no_memory() -> None:
    replica, keys = Replica(parse_config(CONFIG)), np.arange(60_000, dtype=np.uint64)
    values, sizes = np.ones((len(keys), 5), np.float32), []
    for number in range(1, 9):
        change = TableChange(keys, values, keys[:0]) if number % 2 else TableChange(keys[:0], values[:0], keys)
        replica.apply(SyncEvent("test", 0, number, number - 1, 1, {TABLE: change}, 0), None)
        sizes.append(replica.memory_bytes)
    assert sizes[0] == sizes[2] == sizes[6]
    assert sizes[1] == sizes[3] == sizes[7] < sizes[0]


def change(first: int, count: int, deletes: int = 0) -> TableChange:
    """New rows from an id on, and the deletes of as many ids before it as are said."""
    keys = np.arange(first, first + count, dtype=np.uint64)
    return TableChange(keys, np.ones((count, 5), np.float32), np.arange(first - deletes, first, dtype=np.uint64))


def test_a_replica_without_room_keeps_what_it_has_and_goes_on_with_room() -> None:
    replica = Replica(serving(parse_config(CONFIG), "fp16", 8 * MEBIBYTE))
    first = SyncEvent("test", 0, 1, 0, 1, {TABLE: change(0, 100_000)}, 0)
    assert replica.apply(first, None)
    too_much = SyncEvent("test", 0, 2, 1, 2, {TABLE: change(100_000, 300_000)}, 0)
    for _ in range(3):
        with pytest.raises(TableFullError) as full:
            replica.apply(too_much, None)
    said = "table 'embeddings' has no room to grow within serving.memory_limit = \"8MiB\": it and others use "
    assert str(full.value).startswith(said)
    assert replica.shards[0].epoch == 1
    table = replica.tables[TABLE]
    table.check()
    assert table.lookup(np.arange(100_000, dtype=np.uint64))[1].all()
    assert replica.memory_bytes <= 8 * MEBIBYTE + MEBIBYTE // 4
    # The same event with deletes: they make room for its rows.
    fits = SyncEvent("test", 0, 2, 1, 2, {TABLE: change(100_000, 100_000, deletes=100_000)}, 0)
    table.erase(np.arange(200_000, 400_000, dtype=np.uint64))
    assert replica.apply(fits, None)
    assert len(table) == 100_000
    assert replica.shards[0].epoch == 2


def test_a_store_that_does_not_fit_is_fatal_and_later_it_is_not(world: World) -> None:
    world.step(1)
    little = Replica(serving(world.config, "fp32", 2 * MEBIBYTE))
    follower = Follower(little, world.backend, open_log(world.uri("sync")), Freshness(), lambda: 1)
    with pytest.raises(TableFullError, match=r'serving.memory_limit = "2MiB"'):
        follower.step()
    assert follower.fatal is not None
    assert "table 'embeddings' has no room" in follower.fatal
    assert not little.loaded
    follower.stop()

    enough = Replica(serving(world.config, "fp32", 4 * MEBIBYTE))
    follower = Follower(enough, world.backend, open_log(world.uri("sync")), Freshness(), lambda: 1)
    follower.step()
    before = scores(world, enough, 1).probabilities
    world.publish([SyncEvent("test", 0, 10**15, enough.shards[0].epoch, 1, {TABLE: change(1 << 48, 300_000)}, 0)])
    with pytest.raises(TableFullError):
        follower.step()
    assert follower.fatal is None
    assert enough.error is not None
    assert "serving.memory_limit" in enough.error
    assert scores(world, enough, 1).probabilities.tobytes() == before.tobytes()
    follower.stop()


@pytest.mark.parametrize("options", [["--rows=int8"], []], ids=["option", "file"])
def test_a_running_server_says_how_it_keeps_rows(options: list[str], tmp_path: Path) -> None:
    text = CONFIG if options else f'[serving]\nrows = "int8"\nmemory_limit = "1GB"\n{CONFIG}'
    world = World(tmp_path, text)
    world.step(1)
    with running(world, *options, *(["--memory-limit=1GB"] if options else [])) as server:
        world.step(2)
        server.until_epoch(world)
        np.testing.assert_allclose(server.scores(request(3)), world.expected(request(3)), atol=APART["int8"])
        server.until(lambda: server.stats()["replica"]["rows"] == world.store.rows, "the rows")
        figures: dict[str, Any] = server.stats()["replica"]
        assert (figures["row_format"], figures["memory_limit"]) == ("int8", 10**9)
        assert figures["bytes_per_row"] == figures["memory_bytes"] / figures["rows"] > 0
        metrics = server.client.get("/metrics").text
        assert 'monobeam_replica_rows_info{format="int8"} 1.0' in metrics
        assert "monobeam_replica_memory_limit_bytes 1e+09" in metrics
        assert server.end() == 0
    world.close()


@pytest.mark.parametrize(
    ("limit", "status", "said"),
    [("2MiB", 1, "the store cannot be loaded: table 'embeddings'"), ("100B", 2, "--memory-limit: table 'embeddings'")],
)
def test_a_server_that_has_no_room_for_the_store_ends(world: World, limit: str, status: int, said: str) -> None:
    world.step(1)
    command = [sys.executable, "-m", "monobeam.serving", f"--config={world.config_file}", "--port=0"]
    command += [f"--store={world.uri('store')}", f"--sync={world.uri('sync')}", f"--memory-limit={limit}"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == status
    last = ended.stderr.splitlines()[-1]
    assert said in last
    assert f'has no room to grow within serving.memory_limit = "{limit}"' in last
    assert "Traceback" not in ended.stderr


def test_bags_are_sums_of_rows_as_they_are_read(world: World) -> None:
    world.commit(1)
    for rows in FORMATS:
        replica = loaded(world, rows)
        table = replica.tables[TABLE]
        keys = FeatureEncoder(world.config).encode(block(np.zeros(20), features(7, 20))).bags
        sums = ReplicaRows(replica.tables).sums(TABLE, keys)
        read = np.asarray(table.lookup(keys.keys)[0])
        for bag in range(len(keys)):
            total = np.zeros(5, np.float32)
            for row in read[keys.offsets[bag] : keys.offsets[bag + 1]]:
                total += row
            assert sums[bag].tobytes() == total.tobytes()
