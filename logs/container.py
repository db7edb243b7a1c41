"""Avro object container files, byte by byte: header, blocks, sync markers, codecs (Avro 1.12, Object Container Files).

A file is a header (magic, metadata, sync marker) and blocks (count, size, payload, the same marker). Blocks can be
found and skipped by their sizes without decoding a single record.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import zstandard

MAGIC = b"Obj\x01"
SYNC_SIZE = 16
WINDOW = 64 << 10
MAX_LONG_BYTES = 10
# No snappy stream expands further: its longest copy makes 64 bytes out of 3.
SNAPPY_EXPANSION = 64


class ContainerError(ValueError):
    """Bytes that are no Avro container file, or one that is damaged elsewhere than at its end."""


class Incomplete(Exception):  # noqa: N818 - a signal to wait for more, not an error
    """The bytes end before the value does."""


def encode_long(value: int) -> bytes:
    """Avro's zigzag varint of a 64-bit integer."""
    left = (value << 1) ^ (value >> 63)
    out = bytearray()
    while left > 0x7F:
        out.append(left & 0x7F | 0x80)
        left >>= 7
    out.append(left)
    return bytes(out)


def decode_long(data: bytes, at: int) -> tuple[int, int]:
    """The integer at ``at`` and where the next value starts."""
    value = shift = 0
    for end in range(at, min(at + MAX_LONG_BYTES, len(data))):
        byte = data[end]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), end + 1
        shift += 7
    if len(data) - at >= MAX_LONG_BYTES:
        raise ContainerError(f"bytes {data[at : at + MAX_LONG_BYTES].hex()}: a number has at most 10 bytes")
    raise Incomplete


@dataclass(frozen=True)
class Header:
    """What a container file says of itself; ``size`` is the header's own, in bytes."""

    schema: str
    codec: str
    sync: bytes
    size: int


def encode_header(schema: Mapping[str, Any], codec: str, sync: bytes) -> bytes:
    """The header of a file whose blocks end in ``sync`` (16 bytes)."""
    _check_codec(codec)
    metadata = {b"avro.schema": json.dumps(schema, separators=(",", ":")).encode(), b"avro.codec": codec.encode()}
    pairs = b"".join(_encode_bytes(key) + _encode_bytes(value) for key, value in metadata.items())
    return MAGIC + encode_long(len(metadata)) + pairs + encode_long(0) + sync


def decode_header(data: bytes) -> Header:
    """The header that ``data`` starts with; Incomplete if it ends too soon, ContainerError if it is another format."""
    if data[: len(MAGIC)] != MAGIC[: len(data)]:
        raise ContainerError(f"file starts with {data[:4].hex()}: an Avro container file starts with {MAGIC.hex()}")
    metadata, at = _decode_metadata(data, len(MAGIC))
    sync = data[at : at + SYNC_SIZE]
    if len(sync) < SYNC_SIZE:
        raise Incomplete
    if b"avro.schema" not in metadata:
        raise ContainerError("the header has no avro.schema")
    codec = metadata.get(b"avro.codec", b"null").decode()
    _check_codec(codec)
    return Header(metadata[b"avro.schema"].decode(), codec, sync, at + SYNC_SIZE)


def _decode_metadata(data: bytes, at: int) -> tuple[dict[bytes, bytes], int]:
    metadata: dict[bytes, bytes] = {}
    while True:
        count, at = decode_long(data, at)
        if count == 0:
            return metadata, at
        if count < 0:  # then the size in bytes follows, for those who want to skip
            _, at = decode_long(data, at)
        for _ in range(abs(count)):
            key, at = _decode_bytes(data, at)
            metadata[key], at = _decode_bytes(data, at)


def _encode_bytes(value: bytes) -> bytes:
    return encode_long(len(value)) + value


def _decode_bytes(data: bytes, at: int) -> tuple[bytes, int]:
    size, at = decode_long(data, at)
    if size < 0:
        raise ContainerError(f"size {size} of a header's value: must not be negative")
    if at + size > len(data):
        raise Incomplete
    return data[at : at + size], at + size


def block_parts(count: int, payload: bytes | bytearray, header: Header) -> list[bytes | bytearray]:
    """A block of ``count`` concatenated datums, compressed as the header says: parts to be written one by one.

    A payload that is not compressed is a part, not copied.
    """
    body = payload if header.codec == "null" else compress(header.codec, bytes(payload))
    return [encode_long(count), encode_long(len(body)), body, header.sync]


class Frame(NamedTuple):
    """A block's place: records in it, byte positions of its payload, and where the next block starts."""

    records: int
    start: int
    stop: int
    end: int


def frame(data: bytes, at: int) -> Frame:
    """The block that starts at ``at``; its payload need not be in ``data``."""
    count, size_at = decode_long(data, at)
    size, start = decode_long(data, size_at)
    if count < 0 or size < 0:
        raise ContainerError(f"a block of {count} records and {size} bytes: neither can be negative")
    return Frame(count, start, start + size, start + size + SYNC_SIZE)


def scan(read: Callable[[int, int], bytes], position: int, size: int, sync: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (records, start, end) of each complete block in a file's bytes from ``position`` up to ``size``.

    ``read(position, length)``: the file's bytes. Ends before a torn block, one that a writer did not finish: nothing
    after it looks like the end of a block. Damage with whole blocks after it raises ContainerError: skipping it would
    change the offset of every record that follows.
    """
    window, base = b"", position
    while position < size:
        if position + 2 * MAX_LONG_BYTES > base + len(window):
            window, base = read(position, min(WINDOW, size - position)), position
        try:
            count, _, stop, end = frame(window, position - base)
        except (Incomplete, ContainerError):
            _check_torn(read, position, size, sync)
            return
        stop, end = base + stop, base + end
        in_window = end <= base + len(window)
        marker = window[stop - base : end - base] if in_window else read(stop, min(SYNC_SIZE, max(0, size - stop)))
        if marker != sync:
            _check_torn(read, position, size, sync)
            return
        yield count, position, end
        position = end


def _check_torn(read: Callable[[int, int], bytes], position: int, size: int, sync: bytes) -> None:
    if sync in read(position, size - position):
        raise ContainerError(f"the block at byte {position} is damaged, and whole blocks follow it")


def _check_codec(codec: str) -> None:
    if codec not in _DECOMPRESS:
        raise ContainerError(f"codec {codec!r}: must be one of {', '.join(_DECOMPRESS)}")


def compress(codec: str, payload: bytes) -> bytes:
    """A block's payload as the codec writes it."""
    return _COMPRESS[codec](payload)


def decompress(codec: str, body: bytes) -> bytes:
    """A block's payload; ContainerError if the bytes are not what the codec writes."""
    try:
        return _DECOMPRESS[codec](body)
    except (zlib.error, zstandard.ZstdError, pa.ArrowException, OSError, Incomplete) as error:
        raise ContainerError(f"{len(body)} bytes {body[:16].hex()}: not {codec}: {error}") from error


def _deflate(payload: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-15)
    return deflater.compress(payload) + deflater.flush()


def _inflate(body: bytes) -> bytes:
    inflater = zlib.decompressobj(wbits=-15)
    payload = inflater.decompress(body)
    if not inflater.eof:
        raise Incomplete("the stream ends too soon")
    return payload


def _snap(payload: bytes) -> bytes:
    return pa.Codec("snappy").compress(payload, asbytes=True) + zlib.crc32(payload).to_bytes(4, "big")  # type: ignore[no-any-return]


def _unsnap(body: bytes) -> bytes:
    size = sum((byte & 0x7F) << 7 * place for place, byte in enumerate(_varint(body)))
    if size > SNAPPY_EXPANSION * len(body):
        raise ContainerError(f"{len(body)} bytes {body[:16].hex()}: not snappy: cannot hold {size} bytes")
    payload: bytes = pa.Codec("snappy").decompress(body[:-4], size, asbytes=True)
    if zlib.crc32(payload).to_bytes(4, "big") != body[-4:]:
        raise ContainerError(f"{len(body)} bytes {body[:16].hex()}: snappy payload with a wrong checksum")
    return payload


def _varint(body: bytes) -> bytes:
    for end, byte in enumerate(body[:5], 1):
        if byte < 0x80:
            return body[:end]
    raise Incomplete("the stream ends too soon")


def _unzstd(body: bytes) -> bytes:
    inflater = zstandard.ZstdDecompressor().decompressobj()
    payload = inflater.decompress(body)
    if not inflater.eof:
        raise Incomplete("the stream ends too soon")
    return payload


_COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "null": bytes,
    "deflate": _deflate,
    "snappy": _snap,
    "zstandard": lambda payload: zstandard.ZstdCompressor().compress(payload),
}
_DECOMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "null": bytes,
    "deflate": _inflate,
    "snappy": _unsnap,
    "zstandard": _unzstd,
}
