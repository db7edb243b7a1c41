"""A check names every fault that there is, and none where there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monobeam.store import chunk, dense
from monobeam.store.changes import NO_KEYS, Change
from monobeam.store.check import check
from monobeam.store.environment import MAP_BYTES, Environment
from monobeam.store.lmdb import LmdbBackend
from monobeam.store.lmdb_contents import DENSE_VALUES, items, put_parts
from monobeam.store.shard_log import ShardLog
from tests.store.places import Opener
from tests.store.whole import Whole

Write = Callable[[Callable[[Any], object]], object]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LmdbBackend]:
    """Two shards, with bases and with deltas after them, and nothing wrong."""
    backend, content = LmdbBackend(tmp_path, durable=False), Whole()
    backend.own()
    content.commit(backend, 2)
    backend.compact()
    content.commit(backend)
    assert check(backend).faults == ()
    yield backend
    backend.close()


@pytest.fixture
def write(store: LmdbBackend, tmp_path: Path) -> Iterator[Write]:
    environment = Environment(tmp_path, MAP_BYTES, durable=False)
    yield environment.write
    environment.close()


def keys(store: LmdbBackend, kind: bytes) -> list[bytes]:
    with store.last_commit() as last:
        return [key for key, _ in items(last.txn, kind)]


def test_figures(place: Opener) -> None:
    backend, content = place(), Whole()
    assert check(backend) == (nothing := check(place()))
    assert (nothing.rows, nothing.updates, nothing.example_keys, nothing.faults) == (0, 0, 0, ())
    backend.own()
    for _ in range(30):
        content.commit(backend, 3)
    report = check(place())
    assert report.rows == sum(len(table) for table in content.rows.values())
    counts = [int.from_bytes(row[-8:], "little", signed=True) for t in content.rows.values() for row in t.values()]
    assert (report.updates - sum(counts)) % 2**64 == 0  # they are random here
    assert report.example_keys == len(content.seen) == 1500
    assert report.faults == ()


def test_every_damaged_value_is_named_once(store: LmdbBackend, write: Write) -> None:
    damaged = [keys(store, b"B")[0], keys(store, b"B")[-1], keys(store, b"D")[1], keys(store, b"K")[0]]

    def damage(txn: Any) -> None:
        for key in damaged:
            value = bytearray(txn.get(key))
            value[-1] ^= 1
            txn.put(key, bytes(value))

    write(damage)
    faults = check(store).faults
    assert len(faults) == len(damaged)
    for key in damaged:
        assert any(f"value {key!r}: checksum" in fault for fault in faults)


def test_rows_in_the_wrong_shard_and_rows_that_are_there_twice(store: LmdbBackend, write: Write) -> None:
    first, *_, last = keys(store, b"B")  # of the first shard and of the second

    def move(txn: Any) -> None:
        txn.put(last[:-1] + b"\7", bytes(txn.get(first)))
        txn.put(first[:-1] + b"\7", bytes(txn.get(first)))

    write(move)
    faults = " | ".join(check(store).faults)
    assert "shard 1, table 'items': " in faults
    assert ") of other shards" in faults
    assert "shard 0, table 'items': " in faults
    assert ") more than once" in faults
    assert faults.count("where its state says") == 2


def test_values_that_do_not_belong_there(store: LmdbBackend, write: Write) -> None:
    delta = keys(store, b"D")[0]
    row = chunk.encode_whole(9, Change(np.array([1], np.uint64), np.zeros((1, 24), np.uint8), NO_KEYS))

    def stray(txn: Any) -> None:
        value = bytes(txn.get(delta))
        txn.put(b"D" + delta[1:7] + (9_999_999).to_bytes(8, "big") + b"\0\0\0\0", value)
        txn.put(b"D" + b"\0\0\0\5" + delta[5:], value)
        txn.put(b"D" + delta[1:6] + b"\5" + delta[7:], value)
        txn.put(b"B" + delta[1:7] + (1).to_bytes(8, "big") + b"\0\0\0\0", row)
        txn.put(b"X", b"?")

    write(stray)
    faults = " | ".join(check(store).faults)
    assert "of epoch 9999999, where shard 0 is at 2000" in faults
    assert "of layout 5, where 0 is in use" in faults
    assert "of shard 5, where there are 2" in faults
    assert "of table 9, where there are 2" in faults
    assert "of a base that shard 0 has no more" in faults
    assert "value b'X': of no kind that there is" in faults


def test_rows_of_a_table_that_there_is_not(store: LmdbBackend, write: Write) -> None:
    """In the base in use, where whoever reads the rows meets them too."""
    key = keys(store, b"B")[0]
    write(lambda txn: txn.put(key, chunk.encode_whole(9, chunk.decode(key, bytes(txn.get(key))).change)))
    faults = " | ".join(check(store).faults)
    assert "of table 9, where there are 2" in faults
    assert "shard 0: " in faults


def narrow(key: bytes, value: bytes) -> bytes:
    number, change = chunk.decode(key, value)
    return bytes(chunk.encode_whole(number, Change(change.keys, change.rows[:, :20], change.deletes)))


def test_rows_of_the_wrong_width(store: LmdbBackend, write: Write) -> None:
    key = next(key for key in keys(store, b"D") if key[6:7] == b"\1")

    def shorten(txn: Any) -> None:
        before = bytes(txn.get(key))
        after = narrow(key, before)
        log = ShardLog(txn, 0, 1)
        log.set_state(log.state()._replace(delta_bytes=log.state().delta_bytes - len(before) + len(after)))
        txn.put(key, after)

    write(shorten)
    assert "shard 1, table 'items': rows of 20 bytes, where 24 are needed" in check(store).faults


def test_dense_weights_that_are_not_finite(store: LmdbBackend, write: Write) -> None:
    bad = dense.encode({"good": np.ones(2, np.float32), "bad": np.array([1, np.nan], np.float32)})
    write(lambda txn: put_parts(txn, DENSE_VALUES, bad))
    assert check(store).faults == ("dense weights: bad is not finite",)
