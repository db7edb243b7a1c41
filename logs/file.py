"""Logs in directories: Avro container files that are appended to, or that someone else has put there."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from monobeam.logs.container import Header, block_parts, encode_header
from monobeam.logs.log import Chunk, LockedError, LogError, ReplacedError, Schema, encode_pieces
from monobeam.logs.segment import READ_BYTES, Segment

logger = logging.getLogger(__name__)

SEGMENT_BYTES = 64 << 20
TURN_S = 10.0
SUFFIX = ".avro"
PARTITION = re.compile(r"\d{5}")
NUMBERED = re.compile(r"\d{20}\.avro")


class Partition:
    """The files of one partition, in order. Thread-safe.

    ``numbered``: files are named by the offset of their first record. Otherwise they are a user's own, in name order,
    and only the last of them may grow.
    """

    def __init__(self, number: int, place: Path, numbered: bool):
        self.number = number
        self.place = place
        self.numbered = numbered
        self._segments: list[Segment] = []
        self._lock = threading.Lock()

    def end(self) -> int:
        """The offset after the last complete record."""
        with self._lock:
            self._refresh()
            return self._known_end()

    def last(self) -> Segment | None:
        """The newest file, looked at just now."""
        with self._lock:
            self._refresh()
            return self._segments[-1] if self._segments else None

    def read(self, offset: int, max_records: int) -> list[Chunk]:
        """See Log.read."""
        if offset < 0 or max_records < 1:
            raise LogError(f"offset {offset}, max_records {max_records}: must be at least 0 and 1")
        with self._lock:
            if offset >= self._known_end():
                self._refresh()
            self._check(offset)
            chunks: list[Chunk] = []
            size, stop = 0, offset + max_records
            while offset < stop and size < READ_BYTES and (segment := self._at(offset)):
                chunk = segment.read(self.number, offset, stop - offset)
                chunks.append(chunk)
                offset, size = chunk.end, size + len(chunk.payload)
            return chunks

    def _known_end(self) -> int:
        return self._segments[-1].end if self._segments else 0

    def _check(self, offset: int) -> None:
        end = self._known_end()
        if offset > end:
            raise LogError(f"{self.place}: offset {offset} is beyond the end, which is {end}")
        if self._segments and offset < self._segments[0].base:
            raise LogError(f"{self.place}: offset {offset} is no longer kept: the first is {self._segments[0].base}")

    def _at(self, offset: int) -> Segment | None:
        """The segment with the record at ``offset``; None at the end."""
        index = bisect_right(self._segments, offset, key=lambda segment: segment.base) - 1
        if index < 0:
            return None
        segment = self._segments[index]
        if offset >= segment.end:
            segment.refresh()
        if offset < segment.end:
            return segment
        if index + 1 < len(self._segments):
            following = self._segments[index + 1]
            raise LogError(f"{segment.path}: ends at offset {segment.end}, but {following.path.name} comes next")
        return None

    def _refresh(self) -> None:
        names = self._names()
        known = {segment.path.name: segment for segment in self._segments}
        if not self.numbered and names[: len(known)] != list(known):
            raise LogError(
                f"{self.place}: files {names[: len(known)]}: read before were {list(known)}, new ones follow"
            )
        segments: list[Segment] = []
        for name in names:
            if name not in known:
                path = self.place / name if self.place.is_dir() else self.place
                known[name] = Segment(path, self._base(name, segments))
            segments.append(known[name])
        self._segments = segments
        try:
            if segments:
                segments[-1].refresh()
        except ReplacedError:
            self._segments = []
            raise

    def _base(self, name: str, before: list[Segment]) -> int:
        if self.numbered:
            return int(name.removesuffix(SUFFIX))
        if not before:
            return 0
        before[-1].refresh()
        return before[-1].end

    def _names(self) -> list[str]:
        try:
            names = os.listdir(self.place)
        except FileNotFoundError:
            return []
        except NotADirectoryError:
            return [self.place.name]
        if self.numbered:
            return sorted(name for name in names if NUMBERED.fullmatch(name))
        return sorted(name for name in names if _is_users(name))

    def first_at(self, is_before: Callable[[Chunk], bool]) -> int:
        """See FileLog.offset_for_time; ``is_before(chunk)``: whether nothing that precedes the chunk is wanted."""
        with self._lock:
            self._refresh()
            for segment in reversed(self._segments):
                segment.refresh()
                low, high = -1, segment.blocks()  # block `low` is known to be safe, block `high` is not
                while high - low > 1:
                    middle = (low + high) // 2
                    if is_before(segment.read(self.number, segment.block_offset(middle), 1)):
                        low = middle
                    else:
                        high = middle
                if low >= 0:
                    return segment.block_offset(low)
            return self._segments[0].base if self._segments else 0


def _is_users(name: str) -> bool:
    return name.endswith(SUFFIX) and name[0] not in "._"


class FileLog:
    """A log in a directory (see Log).

    Either ``DIRECTORY/00003/00000000000000001000.avro``: a folder for each partition, in it Avro container files named
    by their first offset. Or Avro files as others write them, directly in the directory: one partition, number 0, the
    files in name order. Or one such file.
    """

    def __init__(self, path: str | Path, partitions: int = 0):
        self.path = Path(path)
        self.count = partitions
        self._partitions: dict[int, Partition] = {}
        self._lock = threading.Lock()

    @property
    def uri(self) -> str:
        """What ``open_log`` opens it by."""
        return f"file:{self.path}"

    def partitions(self) -> list[int]:
        """The numbers of the partitions there are, ascending."""
        numbers, users = self._found()
        return [0] if users else sorted({*numbers, *range(self.count)})

    def end(self, partition: int) -> int:
        """The offset after the last complete record; 0 for a partition that is not there."""
        return self._partition(partition).end()

    def read(self, partition: int, offset: int, max_records: int) -> list[Chunk]:
        """Records from exactly ``offset`` on (see Log.read)."""
        return self._partition(partition).read(offset, max_records)

    def offset_for_time(self, partition: int, time_us: int, disorder_us: int) -> int:
        """See Log. Found by bisection over container blocks.

        What lies before a record was appended before it, so not later than ``disorder_us`` after its time, and is of
        no later time than that. So nothing before a record with time + disorder_us < time_us is wanted. It takes a
        whole block of such records to be believed, as a single one may be late beyond the bound.
        """
        from monobeam.logs.columns import latest_time

        def is_before(chunk: Chunk) -> bool:
            latest = latest_time(chunk)
            return latest is not None and latest + disorder_us < time_us

        return self._partition(partition).first_at(is_before)

    def appender(self, partition: int, schema: Schema, shared: bool = False, codec: str = "null") -> FileAppender:
        """Start to append (see Log); codec: null, deflate, snappy or zstandard."""
        if partition < 0 or (self.count and partition >= self.count):
            raise LogError(f"{self.uri}: partition {partition}: must be from 0 to {self.count - 1}")
        if self._found()[1]:
            raise LogError(f"{self.uri}: holds Avro files without partition folders: it can only be read")
        return FileAppender(partition, self.path / f"{partition:05d}", schema, codec, shared)

    def _found(self) -> tuple[list[int], bool]:
        """Numbers of the partition folders, and whether there are a user's own files instead."""
        try:
            names = os.listdir(self.path)
        except FileNotFoundError:
            return [], False
        except NotADirectoryError:
            return [], True
        numbers = [int(name) for name in names if PARTITION.fullmatch(name)]
        users = any(_is_users(name) for name in names)
        if numbers and users:
            raise LogError(f"{self.uri}: holds both partition folders and Avro files: must be one or the other")
        return numbers, users

    def _partition(self, number: int) -> Partition:
        with self._lock:
            if number not in self._partitions:
                numbers, users = self._found()
                if users and number == 0:
                    self._partitions[number] = Partition(number, self.path, numbered=False)
                elif number in numbers:
                    self._partitions[number] = Partition(number, self.path / f"{number:05d}", numbered=True)
                else:
                    return Partition(number, self.path / f"{number:05d}", numbered=True)
            return self._partitions[number]


class FileAppender:
    """Appends to one partition: one write to the file per call, so that a crash tears at most the last block.

    It holds the partition from its making to its end, or, where it is ``shared``, during each call.
    """

    def __init__(self, partition: int, place: Path, schema: Schema, codec: str = "null", shared: bool = False):
        self._number, self._place, self._shared = partition, place, shared
        self._files = Partition(partition, place, numbered=True)
        self._lock = _lock(partition, place, TURN_S if shared else 0.0)
        self._file = -1
        self._size = self.end = 0
        self._closed = False
        try:
            self._renew(_schema_text(schema), codec)
            self._take_up()
        except BaseException:
            self.close()
            raise
        if shared:
            self._unlock()

    def _renew(self, schema: str, codec: str) -> None:
        marker = os.urandom(16)  # by which readers notice that a log was deleted and begun anew
        self._header = encode_header(json.loads(schema), codec, marker)
        self._open = self._new = Header(schema, codec, marker, len(self._header))

    def _take_up(self) -> None:
        """Go on at the end of the log: cut off a torn tail; go on in the last file if its schema and codec are ours."""
        try:
            last = self._files.last()
        except ReplacedError:  # deleted, and begun anew by somebody else: forgotten now
            last = self._files.last()
        if last is None:
            if self.end:  # nothing any more
                self._renew(self._new.schema, self._new.codec)
            self._leave_file()
            self.end = 0
            return
        self.end = last.end
        status = last.path.stat()
        torn = status.st_size - last.size
        if torn:
            logger.warning("%s: cut off %d bytes that an earlier writer did not finish", last.path, torn)
            os.truncate(last.path, last.size)
        if self._file >= 0 and not os.path.samestat(os.fstat(self._file), status):
            self._leave_file()
        header = last.header
        if header and (header.schema, header.codec) == (self._new.schema, self._new.codec):
            if self._file < 0:
                self._file = os.open(last.path, os.O_WRONLY | os.O_APPEND)
            self._open, self._size = header, last.size

    def append(self, records: Sequence[Mapping[str, Any]]) -> int:
        """Append all records or none; the offset of the first (see Appender)."""
        pieces = encode_pieces(self._new.schema, records)
        return self._append(len(records), pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def append_payload(self, count: int, payload: bytes) -> int:
        """Append ``count`` datums that are encoded already (see Appender)."""
        return self._append(count, payload)

    def _append(self, count: int, payload: bytes | bytearray) -> int:
        if self._closed:
            raise LogError(f"{self._place}: the appender is closed")
        if self._shared:
            self._lock = _lock(self._number, self._place, TURN_S)
        try:
            if self._shared:
                self._take_up()
            first = self.end
            if count:
                if self._size >= SEGMENT_BYTES:
                    self._leave_file()
                self._write(block_parts(count, payload, self._open))
                self.end += count
            return first
        finally:
            if self._shared:
                self._unlock()

    def _leave_file(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file, self._size, self._open = -1, 0, self._new

    def _write(self, parts: list[bytes | bytearray]) -> None:
        if self._file < 0:
            path = self._place / f"{self.end:020d}{SUFFIX}"
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            parts = [self._header, *parts]
        size = sum(map(len, parts))
        try:
            written = os.writev(self._file, parts)
            if written != size:
                raise OSError(f"{self._place}: only {written} of {size} bytes could be written: disk full?")
        except OSError:
            os.ftruncate(self._file, self._size)
            if not self._size:
                os.close(self._file)
                self._file = -1
            raise
        self._size += size

    def close(self) -> None:
        """Let others append to the partition."""
        self._closed = True
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._unlock()

    def _unlock(self) -> None:
        if self._lock >= 0:
            fcntl.flock(self._lock, fcntl.LOCK_UN)  # a forked child may hold the descriptor: closing is not enough
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _schema_text(schema: Schema) -> str:
    return json.dumps(schema, separators=(",", ":"))


def _lock(partition: int, place: Path, patience_s: float) -> int:
    """The locked lock file; LockedError once the patience is over."""
    place.mkdir(parents=True, exist_ok=True)
    lock = os.open(place / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError as error:
            if time.monotonic() < deadline:
                time.sleep(TURN_S / 1e4)
                continue
            owner = os.pread(lock, 20, 0).decode() or "unknown"
            os.close(lock)
            raise LockedError(f"{place}: process {owner} is appending to partition {partition}") from error
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock
