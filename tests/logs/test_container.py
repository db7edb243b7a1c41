from __future__ import annotations

import io
import zlib

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monobeam.logs.container import (
    ContainerError,
    Header,
    Incomplete,
    block_parts,
    compress,
    decode_header,
    decode_long,
    decompress,
    encode_header,
    encode_long,
    scan,
)

SCHEMA = {"type": "record", "name": "Number", "fields": [{"name": "n", "type": "long"}]}
SYNC = bytes(range(16))
CODECS = ("null", "deflate", "snappy", "zstandard")


def scanned(data: bytes, position: int, size: int, sync: bytes = SYNC) -> list[tuple[int, int, int]]:
    return list(scan(lambda at, length: data[at : at + length], position, size, sync))


@given(st.integers(-(2**63), 2**63 - 1))
def test_longs_are_avros(value: int) -> None:
    sink = io.BytesIO()
    fastavro.schemaless_writer(sink, "long", value)
    assert encode_long(value) == sink.getvalue()
    assert decode_long(b"x" + encode_long(value) + b"y", 1) == (value, len(sink.getvalue()) + 1)


def test_longs_that_end_too_soon_and_longs_that_do_not_end() -> None:
    with pytest.raises(Incomplete):
        decode_long(b"\xff\xff", 0)
    with pytest.raises(ContainerError, match="ffffffffffffffffffff: a number has at most 10 bytes"):
        decode_long(b"\xff" * 11, 0)


def test_a_header_is_read_as_it_was_written_and_only_when_complete() -> None:
    data = encode_header(SCHEMA, "deflate", SYNC)
    header = decode_header(data + b"more")
    assert (header.codec, header.sync, header.size) == ("deflate", SYNC, len(data))
    assert fastavro.reader(io.BytesIO(data)).writer_schema["name"] == "Number"
    for size in range(len(data)):
        with pytest.raises(Incomplete):
            decode_header(data[:size])


def test_headers_of_others() -> None:
    sink = io.BytesIO()
    fastavro.writer(sink, SCHEMA, [], metadata={"some.body": "else"})
    assert decode_header(sink.getvalue()).codec == "null"
    # metadata in a counted block, as the specification allows, and no codec
    pair = encode_long(11) + b"avro.schema" + encode_long(6) + b'"long"'
    assert decode_header(b"Obj\x01" + encode_long(-1) + encode_long(len(pair)) + pair + b"\0" + SYNC).schema == '"long"'


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"Obj\x02" + bytes(40), "starts with 4f626a02"),
        (b"PAR1", "starts with 50415231"),
        (b"Obj\x01\0" + SYNC, "no avro.schema"),
        (b"Obj\x01\x02\x01", "size -1"),
    ],
)
def test_other_formats_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(ContainerError, match=message):
        decode_header(data)


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 200_000)), max_size=5), st.integers(0, 60))
def test_scanning_finds_whole_blocks_whatever_their_size(blocks: list[tuple[int, int]], missing: int) -> None:
    header = Header("", "null", SYNC, 0)
    data, expected = b"head", []
    for count, size in blocks:
        start = len(data)
        data += b"".join(block_parts(count, b"\x80" * size, header))
        expected.append((count, start, len(data)))
    size = max(4, len(data) - missing)
    assert scanned(data, 4, size) == [block for block in expected if block[2] <= size]


def test_damage_in_the_middle_is_told_from_a_torn_end() -> None:
    header = Header("", "null", SYNC, 0)
    first, second = b"".join(block_parts(3, b"abc", header)), b"".join(block_parts(4, b"defg", header))
    for at in (0, 1, len(first) - 1):
        damaged = first[:at] + bytes([first[at] ^ 0xFF]) + first[at + 1 :]
        if at:  # a count is not checked by anything
            with pytest.raises(ContainerError, match="block at byte 0 is damaged"):
                scanned(damaged + second, 0, len(first + second))
    assert scanned(first + second[:-1] + b"?", 0, len(first + second)) == [(3, 0, len(first))]


@pytest.mark.parametrize("codec", CODECS)
@given(payload=st.binary(max_size=2000), repeats=st.integers(1, 50))
def test_codecs_give_back_what_they_took(codec: str, payload: bytes, repeats: int) -> None:
    assert decompress(codec, compress(codec, payload * repeats)) == payload * repeats


@pytest.mark.parametrize("codec", CODECS[1:])
@given(data=st.data())
def test_codecs_notice_what_is_not_theirs(codec: str, data: st.DataObject) -> None:
    body = compress(codec, b"some text that repeats, text that repeats, repeats")
    stop = data.draw(st.integers(0, len(body) - 1))
    with pytest.raises(ContainerError, match=codec):
        decompress(codec, body[:stop])
    with pytest.raises(ContainerError, match=codec):
        decompress(codec, b"\xff" * data.draw(st.integers(0, 40)))


def test_a_short_body_cannot_ask_for_much_memory() -> None:
    with pytest.raises(ContainerError, match="cannot hold 34359738367 bytes"):
        decompress("snappy", b"\xff\xff\xff\xff\x7f" + bytes(20))


def test_snappy_checksums_count() -> None:
    body = compress("snappy", b"abc")
    assert body[-4:] == zlib.crc32(b"abc").to_bytes(4, "big")
    with pytest.raises(ContainerError, match="wrong checksum"):
        decompress("snappy", body[:-4] + b"\0\0\0\0")
