"""What every cold store does."""

import multiprocessing
import resource

import pyarrow as pa
import pytest

from monobeam.join import lmdb_cold
from monobeam.join.cold import HEAD, ColdWrite, MemoryCold, open_cold
from monobeam.join.lmdb_cold import LmdbCold
from monobeam.native import hash_column

LIKE = {"type": "like", "time": 3, "value": 0.1, "matched": 4, "log": "acts", "partition": 1, "offset": 7}
BUY = {**LIKE, "type": "buy", "offset": 8}


@pytest.fixture(params=["memory", "lmdb"])
def cold(request, tmp_path):
    store = open_cold("memory:" if request.param == "memory" else f"lmdb:{tmp_path / 'cold'}")
    yield store
    store.close()


def rows(ids, time=1, actions=(), **features):
    """A cold batch; features are lists."""
    count = len(ids)
    numbers = {name: [time] * count for name in ("_time", "_due", "_leave", "_offset")}
    head = {"_id": ids, "_log": ["shown"] * count, "_partition": [0] * count, "_actions": [list(actions)] * count}
    values = head | numbers
    columns = {field.name: pa.array(values[field.name], field.type) for field in HEAD}
    return pa.RecordBatch.from_pydict(columns | {name: pa.array(values) for name, values in features.items()})


def write(cold, *batches, shard=0, shards=2, clock=0, until=100, actions=()):
    cold.write(ColdWrite(shard, shards, clock, [(batch, until) for batch in batches], actions))


def get(cold, *ids):
    found = [row for batch in cold.get(pa.array(ids, pa.string())) for row in batch.to_pylist()]
    assert len({row["_id"] for row in found}) == len(found)
    return {row["_id"]: row for row in found}


def test_gives_what_was_put_once_for_each_id(cold):
    assert get(cold) == get(cold, "a") == {}
    write(cold, rows(["a", "b", "c"], x=[1, 2, None]))
    found = get(cold, "c", "a", "nobody", "a")
    assert {id_: row["x"] for id_, row in found.items()} == {"a": 1, "c": None}
    assert found["a"]["_log"] == "shown"
    assert found["a"]["_actions"] == []


def test_schemas_stay_apart(cold):
    write(cold, rows(["a"], x=[1]), rows(["b"], y=["u"]))
    write(cold, rows(["c"], x=[2.5]))
    types = {b.column("_id")[0].as_py(): b.schema.field(len(HEAD)) for b in cold.get(pa.array(["a", "b", "c"]))}
    assert types == {"a": pa.field("x", pa.int64()), "b": pa.field("y", pa.string()), "c": pa.field("x", pa.float64())}


def test_actions_join_what_is_there_and_go_when_it_is_replaced(cold):
    write(cold, rows(["a", "b"], actions=[LIKE]))
    write(cold, actions=[("a", BUY), ("nobody", BUY)])
    write(cold, actions=[("a", LIKE | {"offset": 9})])
    found = get(cold, "a", "b", "nobody")
    assert found["a"]["_actions"] == [LIKE, BUY, LIKE | {"offset": 9}]
    assert found["b"]["_actions"] == [LIKE]
    write(cold, rows(["a"], time=2), actions=[("a", BUY)])
    found = get(cold, "a")
    assert (found["a"]["_time"], found["a"]["_actions"]) == (2, [])


def test_expires_once_every_shard_has_passed(cold):
    write(cold, rows(["a"]), until=10)
    write(cold, rows(["b"]), until=30, shard=1, clock=5)
    write(cold, shard=0, clock=20, actions=[("b", LIKE)])
    assert set(get(cold, "a", "b")) == {"a", "b"}
    write(cold, shard=1, clock=10)
    assert set(get(cold, "a", "b")) == {"a", "b"}
    write(cold, shard=1, clock=11)
    assert set(get(cold, "a", "b")) == {"b"}
    write(cold, shard=0, clock=2)
    write(cold, rows(["a"]), until=10, shard=0, clock=3)
    write(cold, shard=1, clock=40)
    assert set(get(cold, "a", "b")) == {"a", "b"}
    write(cold, shard=0, clock=40)
    assert get(cold, "a", "b") == {}


def test_a_shard_that_is_no_more_holds_nothing_back(cold):
    for shard in range(4):
        write(cold, rows([f"{shard}"]), until=10, shard=shard, shards=4, clock=5)
    write(cold, shard=0, clock=20)
    assert set(get(cold, "0", "1", "2", "3")) == {"0", "1", "2", "3"}
    write(cold, shard=1, clock=20)
    assert get(cold, "0", "1", "2", "3") == {}


def test_what_is_written_again_for_longer_holds_nothing_else_back(cold):
    write(cold, rows(["a"]), until=10, shards=1)
    write(cold, rows(["b"]), until=10, shards=1)
    write(cold, rows(["a"]), until=100, shards=1)
    write(cold, clock=50, shards=1)
    assert set(get(cold, "a", "b")) == {"a"}


def test_many_writes_with_replacements_and_expiry(cold):
    """Enough for several levels of merged runs, blocks that are cut, and ids that come back."""
    kept, newest = 40, {}
    for step in range(200):
        ids = [f"id{(step * 37 + i * 11) % 1500}" for i in range(30)]
        write(cold, rows(ids, time=step), until=step + kept, clock=step)
        newest |= dict.fromkeys(ids, step)
        if step % 20 == 0:
            found = get(cold, *(f"id{i}" for i in range(1500)))
            alive = {id_: last for id_, last in newest.items() if last + kept >= step}
            assert {id_: row["_time"] for id_, row in found.items() if row["_time"] + kept >= step} == alive
    large = [f"large{i}" for i in range(2500)]
    write(cold, rows(large, x=list(range(2500))), until=999)
    assert [get(cold, id_)[id_]["x"] for id_ in ("large0", "large1024", "large2499")] == [0, 1024, 2499]


def test_lmdb_shrinks_to_nothing_when_all_has_expired(tmp_path):
    cold = LmdbCold(tmp_path)
    for step in range(100):
        write(cold, rows([f"{step}-{i}" for i in range(5)]), until=step, clock=step, actions=[(f"{step - 1}-0", LIKE)])
    for _ in range(3):
        write(cold, clock=1000)
    with cold._env.begin() as txn:
        dbs = (cold._blocks, cold._expiry, cold._runs, cold._arrays, cold._later)
        assert [txn.stat(db)["entries"] for db in dbs] == [0] * 5
    write(cold, rows(["again"]), until=2000)
    assert set(get(cold, "again", "5-0")) == {"again"}
    cold.close()


def _write_with_little_address_space(directory):
    resource.setrlimit(resource.RLIMIT_AS, (64 << 30, resource.getrlimit(resource.RLIMIT_AS)[1]))
    cold = LmdbCold(directory)
    write(cold, rows(["a"], x=[1]))
    cold.close()


def test_lmdb_opens_with_the_address_space_that_there_is(tmp_path):
    other = multiprocessing.get_context("spawn").Process(target=_write_with_little_address_space, args=(tmp_path,))
    other.start()
    other.join()
    assert other.exitcode == 0
    cold = LmdbCold(tmp_path)
    assert set(get(cold, "a")) == {"a"}
    cold.close()


def test_two_ids_with_one_hash_are_never_taken_for_each_other(tmp_path, monkeypatch):
    monkeypatch.setattr(lmdb_cold, "hash_column", lambda ids, seed: hash_column(ids, seed) * 0)
    cold = LmdbCold(tmp_path)
    write(cold, rows(["a"]))
    assert get(cold, "b") == {}
    write(cold, rows(["b"], time=2))
    assert get(cold, "b")["b"]["_time"] == 2
    assert get(cold, "a") == {}
    cold.close()


def _write_from_elsewhere(directory):
    cold = LmdbCold(directory)
    write(cold, rows(["elsewhere"], x=["é"]), shard=1)
    cold.close()


def test_lmdb_is_shared_between_processes_and_survives_them(tmp_path):
    cold = LmdbCold(tmp_path)
    write(cold, rows(["here"]))
    other = multiprocessing.get_context("spawn").Process(target=_write_from_elsewhere, args=(tmp_path,))
    other.start()
    other.join()
    assert other.exitcode == 0
    assert get(cold, "here", "elsewhere")["elsewhere"]["x"] == "é"
    cold.close()
    cold = LmdbCold(tmp_path)
    assert set(get(cold, "here", "elsewhere")) == {"here", "elsewhere"}
    cold.close()


@pytest.mark.parametrize("uri", ["memory:x", "lmdb:", "file:x", "cold"])
def test_an_address_that_is_none_is_quoted(uri):
    with pytest.raises(ValueError, match=f"'{uri}': must be memory: or lmdb:DIR"):
        open_cold(uri)


def test_memory_is_a_cold_store():
    assert isinstance(open_cold("memory:"), MemoryCold)
