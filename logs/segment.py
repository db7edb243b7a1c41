"""One Avro container file as a run of offsets: indexed block by block as it grows, read from any record."""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left, bisect_right
from pathlib import Path

from monobeam.logs.container import ContainerError, Header, Incomplete, decode_header, decompress, frame, scan
from monobeam.logs.log import Chunk, LogError, Part, ReplacedError, clip

READ_BYTES = 16 << 20
HEADER_BYTES = 64 << 10


class Segment:
    """The complete blocks of a file. ``base``: the offset of its first record.

    Each look reads only what came since the last; nothing is open in between, and nothing is decoded.
    """

    def __init__(self, path: Path, base: int):
        self.path = path
        self.base = base
        self.end = base
        self.size = 0  # bytes up to the end of the last complete block; 0 before there is one
        self.header: Header | None = None
        self._offsets = array("q")  # of each block: its first record
        self._positions = array("q")  # of each block: its first byte
        self._seen = (-1, -1)

    def refresh(self) -> None:
        """Index the blocks that became complete since the last look."""
        try:
            status = self.path.stat()
        except FileNotFoundError as error:
            raise LogError(f"{self.path}: was removed while it was read") from error
        # Size alone would miss a torn tail that was cut off and written over at the same length.
        seen = (status.st_size, status.st_mtime_ns)
        if seen != self._seen:
            self._index(status.st_size)
            self._seen = seen

    def _index(self, size: int) -> None:
        file = os.open(self.path, os.O_RDONLY)
        try:
            if self.header and not _begins_with(file, self.header):
                raise ReplacedError(f"{self.path}: another file is in the place of the one that was read before")
            header = self.header or self._read_header(file, size)
            if header is None:
                return
            position = self.size or header.size
            for count, start, end in scan(lambda at, length: os.pread(file, length, at), position, size, header.sync):
                # A header counts once a block follows it: until then a writer may still put another in its place.
                self.header = header
                self._offsets.append(self.end)
                self._positions.append(start)
                self.end += count
                self.size = end
        except ContainerError as error:
            raise ContainerError(f"{self.path}: {error}") from error
        finally:
            os.close(file)

    @staticmethod
    def _read_header(file: int, size: int) -> Header | None:
        length = HEADER_BYTES
        while True:
            try:
                return decode_header(os.pread(file, min(length, size), 0))
            except Incomplete:
                if length >= size:
                    return None
                length *= 2

    def blocks(self) -> int:
        """How many blocks are indexed."""
        return len(self._offsets)

    def block_offset(self, index: int) -> int:
        """The offset of a block's first record."""
        return self._offsets[index]

    def read(self, partition: int, offset: int, max_records: int) -> Chunk:
        """Records from exactly ``offset`` on, which must be here: blocks that start within the bound come whole."""
        assert self.header is not None
        first = bisect_right(self._offsets, offset) - 1
        stop = self._bound(first, offset, max_records)
        start, end = self._positions[first], self._start(stop)
        file = os.open(self.path, os.O_RDONLY)
        try:
            data = os.pread(file, end - start, start)
        finally:
            os.close(file)
        if len(data) != end - start:
            raise LogError(f"{self.path}: {len(data)} bytes at {start}: there were {end - start} before")
        payloads, parts = self._open(data, first, stop)
        base = self._offsets[first]
        chunk = Chunk(partition, base, sum(part.count for part in parts), self.header.schema, payloads, parts)
        return clip(chunk, offset, chunk.end)

    def _bound(self, first: int, offset: int, max_records: int) -> int:
        """The block before which a read from block ``first`` ends: those that start within the bounds come whole."""
        by_records = bisect_left(self._offsets, offset + max_records)
        by_bytes = bisect_left(self._positions, self._positions[first] + READ_BYTES)
        return min(by_records, by_bytes)

    def _start(self, index: int) -> int:
        return self._positions[index] if index < len(self._positions) else self.size

    def _open(self, data: bytes, first: int, stop: int) -> tuple[bytes, tuple[Part, ...]]:
        assert self.header is not None
        payloads, parts = [], []
        base = self._positions[first]
        for index in range(first, stop):
            block = frame(data, self._positions[index] - base)
            body, damage = data[block.start : block.stop], ""
            try:
                body = decompress(self.header.codec, body)
            except ContainerError as error:
                damage = str(error)
            payloads.append(body)
            parts.append(Part(block.records, len(body), damage))
        return b"".join(payloads), tuple(parts)


def _begins_with(file: int, header: Header) -> bool:
    """Whether a file still has the header that it had: its marker is random."""
    return os.pread(file, len(header.sync), header.size - len(header.sync)) == header.sync
