"""A store in shard servers: bit-equal to one in process, and back at its last commit after any loss."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monobeam.logs.log import open_log, records
from monobeam.store.backend import AwayError, Backend, BackendError, LeasedError, StaleError, open_backend
from monobeam.store.bags import Bags
from monobeam.store.connection import MOST_PENDING, Connection
from monobeam.store.flight_store import FlightStore
from monobeam.store.lmdb import LmdbBackend
from monobeam.store.memory import MemoryBackend
from monobeam.store.parameters import ParameterStore
from monobeam.store.room import TableFullError
from monobeam.store.spec import SpecError
from monobeam.store.store import Store, open_store
from tests.store.history import Rows, rows_of
from tests.store.servers import Served, patiently, served
from tests.store.test_store import SPEC, bags, commit, step

WEIGHTS = {"w": np.arange(6, dtype=np.float32)}
ASKED = bags(*([key | 5 << 48, 1] for key in range(200)))
_numbers = itertools.count()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    with served(LmdbBackend(tmp_path / "store", durable=False), range(3)) as here:
        yield here


@pytest.fixture
def opened(server: Served) -> Iterator[Callable[[], FlightStore]]:
    stores: list[FlightStore] = []

    def another() -> FlightStore:
        stores.append(patiently(replace(SPEC, shards=3), server.uri))
        return stores[-1]

    yield another
    for store in stores:
        store.close()


@pytest.fixture(params=[("0-0",), ("0-2",), ("0-0", "1-2"), ("0-0", "1-1", "2-3")], ids="+".join)
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, int]]:
    """The address of a store, and its shards: in one server or several, which need a backend that can be shared."""
    ranges = [range(int(text[0]), int(text[2]) + 1) for text in request.param]
    if len(ranges) == 1:
        backends: list[Backend] = [LmdbBackend(tmp_path / "store", durable=False)]
    else:
        opener = request.getfixturevalue("bigtable_place")()
        backends = [opener() for _ in ranges]
    servers = [Served(backend, numbers) for backend, numbers in zip(backends, ranges, strict=True)]
    try:
        yield servers[-1].uri, ranges[-1].stop
    finally:
        for each in servers:
            each.close()


def train(store: ParameterStore, first: int, last: int) -> list[dict[str, Any]]:
    """Blocks with their numbers, a commit after every fourth; the events as they are logged."""
    events = []
    for number in range(first, last):
        with store.block(0, number) as meta:
            meta["number"] = number
            fresh = store.unseen(np.array([number + 10, 1], np.uint64), number)
            assert fresh.tolist() == [True, number == 0]
            store.expire_keys(ASKED.keys, number)
            step(store, number)
            step(store, number, table="narrow")
        if number % 4 == 3:
            store.expire(number, 100)
            made = commit(store, number, positions={0: number + 1}, dense=b"d%d" % number, dense_values=WEIGHTS)
            events += [event.to_record() for event in made]
    return events


def contents(backend: Backend) -> tuple[Rows, Any]:
    """All rows as of the last commit, and the rest of it."""
    manifest = backend.manifest()
    assert manifest is not None
    rows: Rows = {}
    for shard in range(len(manifest.epochs)):
        for name, table in rows_of(backend, shard).items():
            rows.setdefault(name, {}).update(table)
    return rows, (manifest.positions, manifest.meta, manifest.dense_version, backend.dense(), backend.dense_values())


def test_no_row_is_made_in_a_block_that_may_not_begin(opened: Callable[[], FlightStore]) -> None:
    for change in (
        lambda store: store.pull("wide", ASKED, 0),
        lambda store: store.erase("wide", ASKED.keys),
        lambda store: store.expire_keys(ASKED.keys, 0),
        lambda store: store.unseen(ASKED.keys, 0),
    ):
        store = opened()
        refused = pytest.raises(ValueError, match="offset 7 of partition 0: the next one to train on is 0")
        with refused, store.block(0, 7):
            change(store)
            pytest.fail("it went on")
        assert store.rows == 0
        store.close()


def test_it_is_bit_equal_to_a_store_in_process(places: tuple[str, int]) -> None:
    uri, shards = places
    near, memory = replace(SPEC, shards=shards, sync_dtype="fp32" if shards == 3 else "bf16"), MemoryBackend()
    here, there = Store(near, memory), open_store(near, uri)
    assert isinstance(there, FlightStore)
    assert train(there, 0, 20) == train(here, 0, 20)
    assert contents(open_backend(uri)) == contents(memory)
    for name in ("wide", "narrow"):
        np.testing.assert_array_equal(there.lookup(name, ASKED), here.lookup(name, ASKED))
        np.testing.assert_array_equal(there.known(name, ASKED.keys), here.known(name, ASKED.keys))
        np.testing.assert_array_equal(there.update_counts(name, ASKED.keys), here.update_counts(name, ASKED.keys))
    assert there.rows == here.rows > 0
    assert (there.epochs, there.positions(), there.meta(), there.dense(), there.dense_version) == (
        (here.epochs, here.positions(), here.meta(), here.dense(), here.dense_version)
    )
    assert there.memory_bytes > there.rows * 4
    there.close()
    again = open_store(near, uri)
    assert (again.positions(), again.meta(), again.dense()) == (here.positions(), here.meta(), here.dense())
    assert train(again, 20, 24) == train(here, 20, 24)
    again.close()


def test_what_a_trainer_left_uncommitted_is_trained_again(opened: Callable[[], FlightStore]) -> None:
    straight = MemoryBackend()
    train(Store(replace(SPEC, shards=3), straight), 0, 24)
    for last in (6, 7, 15, 24):
        store = opened()
        train(store, store.positions().get(0, 0), last)
        if last == 24:
            assert contents(open_backend(store._flight_head._backend.uri)) == contents(straight)
        store.close()


def test_a_block_that_raises_leaves_nothing(opened: Callable[[], FlightStore]) -> None:
    store = opened()
    train(store, 0, 4)
    before = store.lookup("wide", ASKED)
    with pytest.raises(MemoryError), store.block(0, 4):
        step(store, 4)
        raise MemoryError
    store.close()
    again = opened()
    np.testing.assert_array_equal(again.lookup("wide", ASKED), before)
    with pytest.raises(AwayError):
        store.pull("wide", ASKED, 1)


def test_work_outside_of_blocks_goes_back_too(opened: Callable[[], FlightStore]) -> None:
    store = opened()
    commit(store, 1)
    step(store, 1)
    assert store.rows > 0
    store.close()
    assert opened().rows == 0


def test_a_broken_connection_ends_a_session_at_once(opened: Callable[[], FlightStore]) -> None:
    store = opened()
    train(store, 0, 3)
    with pytest.raises(LeasedError, match="trains the same partitions"):
        FlightStore(store.spec, store._flight_head._backend.uri)
    for connection in [store._flight_head._connection, *(host._connection for host in store._flight_hosts)]:
        connection.close()
    assert opened().positions() == {}


def test_errors_that_waiting_does_not_heal_are_told_as_they_are(
    opened: Callable[[], FlightStore], server: Served
) -> None:
    store = opened()
    pulled = store.pull("wide", ASKED, 1)
    store.push(pulled, np.zeros_like(pulled.pooled))
    store.push(pulled, np.zeros_like(pulled.pooled))
    with pytest.raises(ValueError, match="pull 0: pushed before"):
        store.rows  # noqa: B018
    commit(store, 1)
    store.close()
    with pytest.raises(SpecError, match="model is 'm' there and 'n' here"):
        FlightStore(replace(store.spec, model="n"), server.uri)
    with pytest.raises(TableFullError, match=r"store\.memory_limit"):
        FlightStore(replace(store.spec, memory_limit=1000), server.uri)


def test_a_caller_may_ask_for_much_before_it_reads_answers(opened: Callable[[], FlightStore]) -> None:
    """With some thousands of answers unread, neither side would read any more."""
    store = opened()
    for _ in range(MOST_PENDING * 3):
        store.expire_keys(ASKED.keys[:10], 1)
    assert len(store._flight_hosts[0]._connection._pending) == MOST_PENDING
    assert not store.known("wide", ASKED.keys).any()


def test_requests_that_are_none_are_refused_and_harm_nobody(opened: Callable[[], FlightStore], server: Served) -> None:
    store = opened()
    train(store, 0, 4)
    generation, now = store._flight_hosts[0]._generation, {"now_s": 1, "pooled": True}
    both = [ASKED.keys, ASKED.offsets]
    bad: list[tuple[str, dict[str, Any], list[Any], str]] = [
        ("nonsense", {}, [], "request 'nonsense': there is no such one"),
        ("open", {}, [], "request 'open': partitions is missing"),
        ("begin", {"partition": 0, "offset": 0}, [], "open the store first"),
        ("pull", {"generation": generation, "table": "x", **now}, both, r"table 'x': there are \['wide', 'narrow'\]"),
        ("pull", {"generation": "1", "table": "wide", **now}, both, "generation '1': must be a whole number"),
        ("pull", {"generation": generation, "table": ["wide"], **now}, both, "table .*: must be a str"),
        ("pull", {"generation": generation, "table": "wide", **now}, [both[0], both[1][:5]], "must go from 0 to"),
    ]
    with closing(Connection(server.uri)) as connection:
        for method, header, arrays, said in bad:
            with pytest.raises(ValueError, match=said):
                connection.call(method, header, *arrays)
    head = store._flight_head._connection
    for method, header, said in (
        ("begin", {"partition": "0", "offset": 4}, "partition '0': must be a whole number, not below 0"),
        ("begin", {"partition": 0, "offset": -1}, "offset -1: must be a whole number, not below 0"),
        ("end", {"partition": 0, "position": 9, "meta": {}}, "none has begun"),
        ("open", {"partitions": [7], "spec": "", "name": ""}, "this connection has opened the store already"),
    ):
        with pytest.raises(ValueError, match=said):
            head.call(method, header)
    train(store, 4, 8)
    assert store.positions() == {0: 8}


def test_pulls_of_an_older_generation_are_not_pushed(opened: Callable[[], FlightStore], server: Served) -> None:
    """Their rows are places in tables that are gone."""
    store = opened()
    train(store, 0, 3)
    with closing(Connection(server.uri)) as connection:
        header = {"generation": store._flight_hosts[0]._generation, "table": "wide", "now_s": 1, "pooled": True}
        pull = connection.call("pull", header, ASKED.keys, ASKED.offsets).header["pull"]
        store.close()
        again = opened()._flight_hosts[0]._generation
        assert again != header["generation"]
        with pytest.raises(ValueError, match=f"pull {pull}: pushed before"):
            connection.call("push", {"generation": again, "pull": pull, "rate": 0.1}, np.ones((200, 3), np.float32))


@pytest.fixture
def two(bigtable_place: Callable[[], Callable[[], Backend]], tmp_path: Path) -> Iterator[tuple[Served, Served]]:
    """Servers of one shard each, of which the first writes its sync events."""
    opener = bigtable_place()
    servers = Served(opener(), [0], sync=f"file:{tmp_path}/sync"), Served(opener(), [1])
    yield servers
    for each in servers:
        each.close()


def test_a_server_with_a_sync_log_beside_one_without(two: tuple[Served, Served], tmp_path: Path) -> None:
    for each, other in (two, two[::-1]):
        store = FlightStore(replace(SPEC, shards=2), each.uri)
        at = store.positions().get(0, 0)
        told = train(store, at, at + 4)
        assert [event["shard"] for event in told] == [1]
        log = open_log(f"file:{tmp_path}/sync")
        assert log.partitions() == [0]
        assert [event["epoch"] for event in records(log.read(0, at // 4, 9))] == [told[0]["epoch"]]
        store.close()
        other.ownership.step(0.0)


def test_a_head_that_is_none_any_more_begins_nothing(two: tuple[Served, Served]) -> None:
    """It was paused, and would undo what another is publishing."""
    store = FlightStore(replace(SPEC, shards=2), two[0].uri)
    train(store, 0, 6)
    header = {"generation": 5, "spec": store.spec.encode().decode(), "head": "flight://127.0.0.1:1"}
    with closing(Connection(two[1].uri)) as late, pytest.raises(AwayError, match="1 is not the head of"):
        late.call("begin_generation", header)
    train(store, 6, 8)
    assert store.positions() == {0: 8}
    store.close()


def test_a_server_that_lost_its_shards_answers_nothing(server: Served, opened: Callable[[], FlightStore]) -> None:
    store = opened()
    train(store, 0, 4)
    server.ownership.close()
    with pytest.raises(AwayError, match="waits for its shards"):
        store.lookup("wide", ASKED)
    with pytest.raises(AwayError, match="waits for its shards"):
        store.commit({}, None, None, np.empty(0, np.int64), 1)
    server.ownership.step(0.0)
    with pytest.raises(StaleError):
        store.rows  # noqa: B018
    store.close()
    again = opened()
    assert again.positions() == {0: 4}
    np.testing.assert_array_equal(train(again, 4, 8)[-1]["epoch"], 7000)


def test_its_server_can_be_read_without_being_a_trainer(opened: Callable[[], FlightStore], server: Served) -> None:
    reader = open_backend(server.uri)
    assert reader.manifest() is None
    assert list(reader.load(0).blocks) == []
    assert (reader.changed(0, 0), reader.dense(), reader.dense_values(), list(reader.seen())) == (None, None, None, [])
    store = opened()
    train(store, 0, 8)
    direct = LmdbBackend(server.ownership._backend.uri.partition(":")[2])
    assert contents(reader) == contents(direct)
    for since in (0, 3000, 7000):
        there, here = reader.changed(1, since), direct.changed(1, since)
        assert there is not None
        assert here is not None
        assert (there.manifest, there.shard, there.complete) == (here.manifest, here.shard, here.complete)
        assert {n: (c.keys.tolist(), c.rows.tobytes(), c.deletes.tolist()) for n, c in there.tables.items()} == {
            n: (c.keys.tolist(), c.rows.tobytes(), c.deletes.tolist()) for n, c in here.tables.items()
        }
    assert [seen.keys.tolist() for seen in reader.seen()] == [seen.keys.tolist() for seen in direct.seen()]
    with pytest.raises(BackendError, match="shard servers own this store"):
        reader.own()
    direct.close()


def test_rows_that_were_dropped_between_pull_and_push_are_made_anew(opened: Callable[[], FlightStore]) -> None:
    store = opened()
    short = bags([7 << 48 | 1, 7 << 48 | 2])
    pulled = store.pull("wide", short, 10)
    store.expire_keys(short.keys, 10_000)
    assert not store.known("wide", short.keys).any()
    store.push(pulled, np.ones_like(pulled.pooled))
    assert store.update_counts("wide", short.keys).tolist() == [1, 1]


def test_pulls_of_nothing(opened: Callable[[], FlightStore]) -> None:
    store = opened()
    empty = Bags(np.empty(0, np.uint64), np.zeros(3, np.int64))
    pulled = store.pull("wide", empty, 1)
    assert pulled.pooled.tolist() == [[0, 0, 0]] * 2
    store.push(pulled, np.ones_like(pulled.pooled))
    assert store.lookup("wide", empty).tolist() == [[0, 0, 0]] * 2
    assert store.known("wide", empty.keys).tolist() == []
