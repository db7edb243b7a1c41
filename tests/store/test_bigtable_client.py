"""Bigtable's calls: whatever fails is tried again, and nothing is lost or doubled."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

import grpc
import numpy as np
import pytest
from google.cloud.bigtable_admin_v2.types import bigtable_table_admin as admin
from google.cloud.bigtable_admin_v2.types import table as schema
from google.cloud.bigtable_v2.types import bigtable as messages
from google.rpc.status_pb2 import Status

from monobeam.store.backend import BackendError
from monobeam.store.bags import PREFIXES, Keys, shard_of
from monobeam.store.bigtable import BigtableBackend, create, tables, wire
from monobeam.store.bigtable.client import Address, Chunks, Client
from monobeam.store.bigtable.published import Void
from monobeam.store.bigtable.rows import Moment, in_turns
from monobeam.store.bigtable.wire import ROWS
from monobeam.store.changes import Rows
from tests.store.bigtable_proxy import CallError, Forward, Proxy
from tests.store.history import Twin, check, commit

ReadRequest, ReadResponse = messages.ReadRowsRequest.pb(), messages.ReadRowsResponse.pb()
MutateRequest, MutateResponse = messages.MutateRowsRequest.pb(), messages.MutateRowsResponse.pb()
Chunk = messages.ReadRowsResponse.pb().CellChunk
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
IDS = np.arange(5000, dtype=np.uint64)


@pytest.fixture
def proxy(emulator: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Stands before the emulator for every connection that is made from now on."""
    made = Proxy(emulator)
    monkeypatch.setenv("BIGTABLE_EMULATOR_HOST", made.address)
    yield made
    made.close()


@pytest.fixture
def open_client(new_table: Callable[[], str]) -> Callable[..., Client]:
    """A client of a new table."""
    uri = new_table()
    return lambda **options: Client(Address.parse(uri), **options)


def rows_for(ids: Keys, width: int = 24) -> Rows:
    return np.random.default_rng(len(ids)).integers(0, 256, (len(ids), width)).astype(np.uint8)


def everything(client: Client) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    for block in Moment(0, PREFIXES, 1000, ()).scan(client, 3):
        assert not found.keys() & set(block.keys.tolist())
        found.update(zip(block.keys.tolist(), map(bytes, block.rows), strict=True))
    return found


def expected(ids: Keys) -> dict[int, bytes]:
    return dict(zip(ids.tolist(), map(bytes, rows_for(ids)), strict=True))


def test_rows_come_back_by_scan_and_by_id(open_client: Callable[..., Client]) -> None:
    client = open_client()
    client.mutate(wire.set_rows("items", IDS, rows_for(IDS), 7))
    assert everything(client) == expected(IDS)
    asked = np.array([3, 4999, 2**64 - 1], np.uint64)
    change = Moment(0, PREFIXES, 7, ()).get(client, "items", asked)
    assert change.keys.tolist() == [3, 4999]
    assert change.rows.tolist() == rows_for(IDS)[[3, 4999]].tolist()
    assert change.deletes.tolist() == [2**64 - 1]
    many = Moment(0, PREFIXES, 7, ()).get(client, "items", IDS)
    assert many.rows.tolist() == rows_for(IDS).tolist()


def test_every_shard_is_a_range_of_keys() -> None:
    keys = [key.tobytes() for key in wire.parameter_keys("items", IDS)]
    for shards in (1, 3, 7, 65536):
        for key, shard in zip(keys, shard_of(IDS, shards).tolist(), strict=True):
            start, end = wire.parameters(*wire.prefixes_of_shard(shard, shards))
            assert start <= key < end


def test_entries_that_failed_are_written_again_and_only_they(proxy: Proxy, open_client: Callable[..., Client]) -> None:
    sizes = []

    def apply_half(request: bytes, forward: Forward) -> Iterable[bytes]:
        entries = MutateRequest.FromString(request).entries
        sizes.append(len(entries))
        kept = MutateRequest.FromString(request)
        del kept.entries[::2]
        list(forward(kept.SerializeToString())) if len(entries) > 1 else list(forward(request))
        codes = [0 if index % 2 or len(entries) == 1 else UNAVAILABLE.value[0] for index in range(len(entries))]
        answer = MutateResponse(
            entries=[MutateResponse.Entry(index=i, status=Status(code=code)) for i, code in enumerate(codes)]
        )
        yield answer.SerializeToString()

    proxy.hooks["MutateRows"] = apply_half
    client = open_client(in_flight=1)
    client.mutate(wire.set_rows("items", IDS[:64], rows_for(IDS[:64]), 7))
    assert sizes == [64, 32, 16, 8, 4, 2, 1]
    assert everything(client) == expected(IDS[:64])


@pytest.mark.parametrize("before", [True, False])
def test_calls_that_fail_before_or_after_they_took_effect(
    proxy: Proxy, open_client: Callable[..., Client], before: bool
) -> None:
    numbers = itertools.count()

    def fail_often(request: bytes, forward: Forward) -> Iterable[bytes]:
        fails = next(numbers) % 3 < 2
        if fails and before:
            raise CallError(grpc.StatusCode.RESOURCE_EXHAUSTED)
        answers = list(forward(request))
        if fails:
            raise CallError(grpc.StatusCode.INTERNAL)
        return answers

    proxy.hooks["MutateRows"] = fail_often
    client = open_client()
    client.mutate(wire.set_rows("items", IDS, rows_for(IDS), 7))
    assert everything(client) == expected(IDS)


def test_a_scan_whose_stream_breaks_goes_on_after_its_last_row(
    proxy: Proxy, open_client: Callable[..., Client]
) -> None:
    client = open_client()
    client.mutate(wire.set_rows("items", IDS, rows_for(IDS), 7))

    def cut(request: bytes, forward: Forward) -> Iterable[bytes]:
        for number, answer in enumerate(forward(request)):
            if number == 700:
                raise CallError(UNAVAILABLE)
            yield answer

    proxy.hooks["ReadRows"] = cut
    assert everything(client) == expected(IDS)
    assert proxy.calls.count("ReadRows") >= 7
    change = Moment(0, PREFIXES, 7, ()).get(client, "items", IDS)
    assert change.rows.tolist() == rows_for(IDS).tolist()


def test_a_scan_goes_on_after_rows_that_filters_left_out(proxy: Proxy, open_client: Callable[..., Client]) -> None:
    client = open_client()
    client.mutate(wire.set_rows("items", IDS[:9], rows_for(IDS[:9]), 7))
    keys = sorted(key.tobytes() for key in wire.parameter_keys("items", IDS[:9]))
    starts = []

    def say_what_was_scanned(request: bytes, forward: Forward) -> Iterable[bytes]:
        starts.append(ReadRequest.FromString(request).rows.row_ranges[0].start_key_closed)
        if len(starts) == 1:
            yield next(iter(forward(request)))
            yield ReadResponse(last_scanned_row_key=keys[4]).SerializeToString()
            raise CallError(UNAVAILABLE)
        yield from forward(request)

    proxy.hooks["ReadRows"] = say_what_was_scanned
    found = [cell.key for cell in client.cells(wire.parameters(0, PREFIXES), {"family_name_regex_filter": ROWS})]
    assert starts == [b"r\0\0", keys[4] + b"\0"]
    assert found == [keys[0], *keys[5:]]


def test_a_closed_client_leaves_no_threads_and_connects_anew(open_client: Callable[..., Client]) -> None:
    def writers() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("bigtable")]

    before, client = writers(), open_client()
    for number in range(3):
        some = IDS[number : number + 1]
        client.mutate(wire.set_rows("items", some, rows_for(some), 7))
        assert len(everything(client)) == number + 1
        assert writers() != before
        client.close()
        assert writers() == before


def test_patience_ends(proxy: Proxy, open_client: Callable[..., Client]) -> None:
    def fail(request: bytes, forward: Forward) -> Iterable[bytes]:
        raise CallError(UNAVAILABLE)

    client = open_client(patience_s=0.2)
    proxy.hooks |= {"MutateRows": fail, "ReadRows": fail}
    with pytest.raises(BackendError, match="write: UNAVAILABLE: 3 entries: by the proxy"):
        client.mutate(wire.set_rows("items", IDS[:3], rows_for(IDS[:3]), 7))
    with pytest.raises(BackendError, match="read: UNAVAILABLE: by the proxy"):
        everything(client)
    assert proxy.calls.count("MutateRows") > 1


def test_what_cannot_succeed_is_not_tried_again(proxy: Proxy) -> None:
    backend = BigtableBackend("bigtable://project/instance/nowhere")
    with pytest.raises(BackendError, match=r'NOT_FOUND: .*nowhere" not found; `python -m monobeam.store create`'):
        backend.manifest()
    assert proxy.calls == ["ReadRows"]


def test_lost_answers_to_compare_and_set_commit_once(proxy: Proxy, new_table: Callable[[], str]) -> None:
    numbers = itertools.count()

    def lose(request: bytes, forward: Forward) -> Iterable[bytes]:
        number = next(numbers) % 3
        answers = [] if number == 1 else list(forward(request))
        if number < 2:
            raise CallError(grpc.StatusCode.DEADLINE_EXCEEDED)
        return answers

    proxy.hooks["CheckAndMutateRow"] = lose
    backend, twin = BigtableBackend(new_table()), Twin()
    backend.own()
    for number in range(1, 8):
        backend.commit(commit(number))
        check(backend, twin.advance(number))
    backend.close()


def test_limits_are_ours_before_they_are_the_services(open_client: Callable[..., Client]) -> None:
    with pytest.raises(BackendError, match="a cell of 10485761 bytes: at most 10485760"):
        wire.set_cell(b"key", bytes((10 << 20) + 1))
    with pytest.raises(BackendError, match="a row key of 4097 bytes: Bigtable takes at most 4096"):
        wire.set_cell(bytes(4097), b"")
    with pytest.raises(BackendError, match="a name has at most 255 bytes in Bigtable, this one 300"):
        wire.set_rows(100 * "表", IDS[:1], rows_for(IDS[:1]), 1)
    with pytest.raises(BackendError, match="a cell of 10485764 bytes"):
        wire.set_rows("items", IDS[:1], np.zeros((1, 10 << 20), np.uint8), 1)


def test_requests_stay_small(proxy: Proxy, open_client: Callable[..., Client]) -> None:
    sizes = []

    def measure(request: bytes, forward: Forward) -> Iterable[bytes]:
        sizes.append((len(MutateRequest.FromString(request).entries), len(request)))
        return forward(request)

    proxy.hooks["MutateRows"] = measure
    client = open_client()
    client.mutate(wire.set_rows("items", IDS, rows_for(IDS), 7))
    client.mutate(wire.set_rows("items", IDS[:9], rows_for(IDS[:9], 1 << 20), 7))
    assert sorted(count for count, _ in sizes)[-3:] == [1000, 2000, 2000]
    assert max(size for _, size in sizes) < 5 << 20


def test_cells_in_chunks_of_any_kind() -> None:
    def chunk(key: bytes = b"", column: bytes | None = None, value: bytes = b"", stamp: int = 0, **more: Any) -> Chunk:
        made = Chunk(row_key=key, value=value, timestamp_micros=1000 * stamp, **more)
        if column is not None:
            made.qualifier.value = column
        return made

    def merged(*messages: Sequence[Chunk]) -> list[tuple[bytes, bytes, int, bytes]]:
        chunks = Chunks()
        return [tuple(cell) for some in messages for cell in chunks.add(some)]  # type: ignore[misc]

    whole = [
        chunk(b"a", b"v", b"new", 9),
        chunk(value=b"old", stamp=8),
        chunk(column=b"w", value=b"other", stamp=7, commit_row=True),
        chunk(b"b", b"v", b"", 6, commit_row=True),
    ]
    cells = [(b"a", b"v", 9, b"new"), (b"a", b"v", 8, b"old"), (b"a", b"w", 7, b"other"), (b"b", b"v", 6, b"")]
    assert merged(whole) == cells
    assert merged(*([one] for one in whole)) == cells
    split = [chunk(b"a", b"v", b"par", 5, value_size=6), chunk(value=b"t"), chunk(value=b"x", stamp=4, commit_row=True)]
    assert merged(split[:1], split[1:]) == [(b"a", b"v", 5, b"part"), (b"a", b"v", 4, b"x")]
    assert merged(split[:1], [chunk(reset_row=True), chunk(b"a", b"v", b"again", 5, commit_row=True)]) == [
        (b"a", b"v", 5, b"again")
    ]
    assert merged(whole[:2]) == []


def test_void_cells_are_passed_over(open_client: Callable[..., Client]) -> None:
    client = open_client()
    for stamp in (5, 6, 7):
        client.mutate(wire.set_rows("items", IDS[:9], np.full((9, 4), stamp, np.uint8), stamp))
    client.mutate(wire.set_rows("items", IDS[9:10], np.full((1, 4), 6, np.uint8), 6))
    half = (Void(6, 0, PREFIXES), Void(7, 0, PREFIXES // 2))
    found = Moment(0, PREFIXES, 8, half).get(client, "items", IDS[:10])
    lower = shard_of(found.keys, 2) == 0
    assert found.rows[lower].tolist() == [[5] * 4] * int(lower.sum())
    assert found.rows[~lower].tolist() == [[7] * 4] * int((~lower).sum())
    assert lower.any()
    assert not lower.all()
    assert found.deletes.tolist() == [9]


def test_a_reader_that_stops_ends_its_streams(open_client: Callable[..., Client]) -> None:
    client = open_client()
    client.mutate(wire.set_rows("items", IDS, rows_for(IDS), 7))
    ended = []

    def source() -> Generator[int]:
        try:
            for number, _ in enumerate(client.cells(wire.parameters(0, PREFIXES), {"family_name_regex_filter": ROWS})):
                yield number
        finally:
            ended.append(True)

    values = in_turns((source() for _ in range(9)), 2)
    assert [next(values) for _ in range(3)] == [0, 0, 1]
    values.close()  # type: ignore[attr-defined]
    assert ended == [True, True]


def test_sources_are_read_in_turns_and_begun_when_there_is_room() -> None:
    begun = []

    def source(number: int) -> Generator[int]:
        begun.append(number)
        return (10 * number + place for place in range(number))

    values = in_turns(map(source, (2, 0, 3, 1)), 2)
    assert begun == []
    assert next(values) == 20
    assert begun == [2, 0]
    assert list(values) == [21, 30, 31, 10, 32]


def test_an_error_in_a_stream_is_the_readers() -> None:
    def numbers(last: int) -> Generator[int]:
        yield from range(last)
        raise BackendError("broken")

    with pytest.raises(BackendError, match="broken"):
        list(in_turns(map(numbers, (1, 3)), 2))


@pytest.mark.parametrize(
    ("uri", "app_profile"),
    [("bigtable://p/i/t", ""), ("bigtable://p/i/t?app_profile=single", "single")],
)
def test_addresses(uri: str, app_profile: str) -> None:
    address = Address.parse(uri)
    assert address.name == "projects/p/instances/i/tables/t"
    assert address.app_profile == app_profile
    assert Address.parse(address.beside("u").uri).name == "projects/p/instances/i/tables/u"
    assert Address.parse(address.beside("u").uri).app_profile == app_profile


@pytest.mark.parametrize("table", ["t" * 51, "-t", "a%20b", "ü"])
def test_names_that_the_service_does_not_take(table: str) -> None:
    with pytest.raises(ValueError, match="'" + table + "'.* a table's name has 1 to 50 letters"):
        Address.parse(f"bigtable://p/i/{table}")


def test_a_table_without_families_gets_them(new_table: Callable[[], str]) -> None:
    uri = new_table()
    address, modify = Address.parse(uri), admin.ModifyColumnFamiliesRequest.pb()
    dropped = [modify.Modification(id=family, drop=True) for family in (wire.ROWS, wire.STATE)]
    request = modify(name=address.name, modifications=dropped)
    tables._call(address, "ModifyColumnFamilies", request, schema.Table.pb(), f"name={address.name}")
    assert not create(uri)
    backend = BigtableBackend(uri)
    backend.own()
    backend.close()
    assert not create(uri)
