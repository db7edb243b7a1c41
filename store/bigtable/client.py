"""Bigtable's data API in raw protobuf: bulk writes, scans, multi-gets, compare-and-set.

The client library makes several Python objects of every cell, which costs five to ten times what the call does.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote, urlsplit

import grpc
from google.cloud.bigtable_v2.types import bigtable as messages
from google.cloud.bigtable_v2.types import data

from monobeam.store.backend import AwayError, BackendError
from monobeam.store.bigtable.channel import READ_AHEAD_BYTES, DataChannel, status_of
from monobeam.store.bigtable.wire import Range

ENTRIES_PER_REQUEST = 2000  # the service takes 100 000 mutations
BYTES_PER_REQUEST = 4 << 20
KEYS_PER_REQUEST = 1000
RESPONSES_AT_ONCE = 512
CALL_TIMEOUT_S = 5.0
BULK_TIMEOUT_S = 60.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 5.0
LEASE_S = 10.0
_TABLE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,49}")  # what the service takes; its emulator takes anything

RETRYABLE = frozenset(
    code.value[0]
    for code in (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INTERNAL,
    )
)

RowFilter = data.RowFilter.pb()
_Chain = RowFilter.Chain
_Response = messages.ReadRowsResponse.pb()


class Cell(NamedTuple):
    """One version of a column; ``stamp``: its timestamp in milliseconds."""

    key: bytes
    column: bytes
    stamp: int
    value: bytes


@dataclass(frozen=True)
class Address:
    """``bigtable://PROJECT/INSTANCE/TABLE``, ``?app_profile=NAME`` and ``lease_s=SECONDS`` where not the default."""

    uri: str
    project: str
    instance: str
    table: str
    app_profile: str = ""
    lease_s: float = LEASE_S

    @staticmethod
    def parse(uri: str) -> Address:
        """ValueError says what an address must be."""
        parts = urlsplit(uri)
        path, options = parts.path.strip("/").split("/"), parse_qs(parts.query)
        profile, lease = options.pop("app_profile", [""])[-1], options.pop("lease_s", [str(LEASE_S)])[-1]
        is_number = lease.replace(".", "", 1).isdecimal() and float(lease) > 0
        known = parts.scheme == "bigtable" and parts.netloc and len(path) == 2 and all(path) and not options
        if not known or not is_number:
            form = "bigtable://PROJECT/INSTANCE/TABLE[?app_profile=NAME][&lease_s=SECONDS]"
            raise ValueError(f"store {uri!r}: must be {form}")
        if not _TABLE.fullmatch(path[1]):
            raise ValueError(
                f"store {uri!r}: {path[1]!r}: a table's name has 1 to 50 letters, digits, '_', '-' and '.'"
            )
        return Address(uri, parts.netloc, path[0], path[1], profile, float(lease))

    def beside(self, table: str) -> Address:
        """Another table of the instance."""
        query = f"?app_profile={self.app_profile}" if self.app_profile else ""
        return replace(self, uri=f"bigtable://{self.project}/{self.instance}/{table}{query}", table=table)

    @property
    def parent(self) -> str:
        """The instance's name in the API."""
        return f"projects/{self.project}/instances/{self.instance}"

    @property
    def name(self) -> str:
        """The table's name in the API."""
        return f"{self.parent}/tables/{self.table}"


class Attempts:
    """Pauses between attempts, ever longer ones with full jitter, until patience is at an end."""

    def __init__(self, what: str, patience_s: float) -> None:
        self._what = what
        self._patience_s = patience_s
        self.restart()

    def restart(self) -> None:
        """There was progress: patience begins anew."""
        self._until = time.monotonic() + self._patience_s
        self._pause_s = FIRST_PAUSE_S

    def failed(self, code: int, detail: str) -> None:
        """Sleep before the next attempt; BackendError where there is to be none, an AwayError if later ones may do."""
        left = self._until - time.monotonic()
        if code not in RETRYABLE or left <= 0:
            name = next((status.name for status in grpc.StatusCode if status.value[0] == code), str(code))
            hint = "; `python -m monobeam.store create` makes it" if code == grpc.StatusCode.NOT_FOUND.value[0] else ""
            raise (AwayError if code in RETRYABLE else BackendError)(f"{self._what}: {name}: {detail}{hint}")
        time.sleep(min(left, random.uniform(0, self._pause_s)))
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)


class Client:
    """One table. ``patience_s``: how long what fails is tried again; ``in_flight``: bulk requests at a time."""

    def __init__(self, address: Address, *, patience_s: float = 60.0, in_flight: int = 4) -> None:
        self.address = address
        self.in_flight = in_flight
        self._patience_s = patience_s
        self._opened: DataChannel | None = DataChannel(in_flight)
        self._lock = threading.Lock()
        common = {"table_name": address.name, "app_profile_id": address.app_profile}
        self._mutate_header = messages.MutateRowsRequest.pb()(**common).SerializeToString()
        self._common = common
        routing = "&".join(f"{name}={quote(value, safe='')}" for name, value in common.items())
        self._metadata = [("x-goog-request-params", routing)]

    def attempts(self, what: str, patience_s: float | None = None) -> Attempts:
        """For a call that is retried by its caller; ``patience_s``: other than the client's."""
        return Attempts(f"{self.address.uri}: {what}", self._patience_s if patience_s is None else patience_s)

    def mutate(self, entries: Iterable[bytes]) -> None:
        """Apply the mutations of ``wire``, several requests at a time, in any order; returns when all are applied.

        BackendError: some are not, or not known to be; requests that are still under way may be applied later.
        """
        channel, pending = self._channel, deque[Future[None]]()
        try:
            with channel.in_use():
                for batch in _batches(entries):
                    if len(pending) == self.in_flight:
                        pending.popleft().result()
                    pending.append(channel.pool.submit(self._mutate, channel, batch))
                while pending:
                    pending.popleft().result()
        finally:
            wait(pending)

    def cells(
        self, rows: Range | Sequence[bytes], filters: Mapping[str, Any], patience_s: float | None = None
    ) -> Iterator[Cell]:
        """The cells that pass all filters (fields of RowFilter), of a range or of rising keys; by key, then as stored.

        The call is under way when this returns, and what comes waits for the reader, up to some megabytes. A stream
        that breaks is resumed after its last whole row, or after the last of those that the filters left out.
        """
        channel, chain = self._channel, _filter(filters)

        def begin(rows: Range | Sequence[bytes]) -> Any:
            request = self._read_request(rows, chain)
            with channel.in_use():
                return channel.read_rows(request, timeout=BULK_TIMEOUT_S, metadata=self._metadata)

        return _resumed(begin(rows), rows, begin, lambda: self.attempts("read", patience_s))

    def check_and_mutate(self, key: bytes, filters: Mapping[str, Any], matched: bool, mutations: Sequence[Any]) -> bool:
        """Apply mutations if it is ``matched`` that a cell of the row passes all filters; one attempt.

        Whether it was so. grpc.RpcError leaves open whether they are applied, now or later.
        """
        which = "true_mutations" if matched else "false_mutations"
        request = messages.CheckAndMutateRowRequest.pb()(
            row_key=key, predicate_filter=_filter(filters), **self._common, **{which: mutations}
        )
        answer = self._channel.check_and_mutate(request, timeout=CALL_TIMEOUT_S, metadata=self._metadata)
        return bool(answer.predicate_matched) is matched

    def stored_bytes(self) -> int:
        """About how many bytes the table takes."""
        request, attempts = messages.SampleRowKeysRequest.pb()(**self._common), self.attempts("sizes")
        while True:
            try:
                call = self._channel.sample_row_keys(request, timeout=CALL_TIMEOUT_S, metadata=self._metadata)
                return max((int(sample.offset_bytes) for sample in call), default=0)
            except grpc.RpcError as error:
                attempts.failed(*status_of(error))

    def close(self) -> None:
        """End the connection; the next call makes another."""
        with self._lock:
            opened, self._opened = self._opened, None
        if opened:
            opened.close()

    @property
    def _channel(self) -> DataChannel:
        with self._lock:
            self._opened = self._opened or DataChannel(self.in_flight)
            return self._opened

    def _mutate(self, channel: DataChannel, batch: list[bytes]) -> None:
        attempts = self.attempts("write")
        while True:
            done: set[int] = set()
            code, detail = grpc.StatusCode.INTERNAL.value[0], "the answer does not say what became of some entries"
            try:
                request = self._mutate_header + b"".join(batch)
                for response in channel.mutate_rows(request, timeout=BULK_TIMEOUT_S, metadata=self._metadata):
                    for entry in response.entries:
                        if entry.status.code == 0:
                            done.add(entry.index)
                        else:
                            code, detail = entry.status.code, entry.status.message
            except grpc.RpcError as error:
                code, detail = status_of(error)
            if len(done) == len(batch):
                return
            batch = [entry for index, entry in enumerate(batch) if index not in done]
            attempts.failed(code, f"{len(batch)} entries: {detail}")

    def _read_request(self, rows: Range | Sequence[bytes], chain: Any) -> Any:
        row_set = data.RowSet.pb()()
        if isinstance(rows, Range):
            row_set.row_ranges.add(start_key_closed=rows.start, end_key_open=rows.end)
        else:
            row_set.row_keys.extend(rows)
        return messages.ReadRowsRequest.pb()(rows=row_set, filter=chain, **self._common)


class Chunks:
    """Puts cells together from the chunks of a stream; a row's are given out once it is whole."""

    def __init__(self) -> None:
        self._row: list[Cell] = []
        self._parts: list[bytes] = []
        self._key = self._column = b""
        self._stamp = 0

    def add(self, chunks: Iterable[Any]) -> list[Cell]:
        """The cells of all rows that these chunks complete."""
        whole: list[Cell] = []
        for chunk in chunks:
            if chunk.commit_row and not self._row and not self._parts and not chunk.value_size:  # nearly all are so
                self._key, self._column = chunk.row_key, chunk.qualifier.value
                whole.append(Cell(self._key, self._column, chunk.timestamp_micros // 1000, chunk.value))
                continue
            if chunk.reset_row:
                self._row, self._parts = [], []
                continue
            if not self._parts:
                self._stamp = chunk.timestamp_micros // 1000
                self._key = chunk.row_key or self._key
                if chunk.HasField("qualifier"):
                    self._column = chunk.qualifier.value
            self._parts.append(chunk.value)
            if chunk.value_size:
                continue
            value = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            self._parts = []
            self._row.append(Cell(self._key, self._column, self._stamp, value))
            if chunk.commit_row:
                whole += self._row
                self._row = []
        return whole


def _resumed(
    call: Any,
    rows: Range | Sequence[bytes],
    begin: Callable[[Range | Sequence[bytes]], Any],
    patience: Callable[[], Attempts],
) -> Iterator[Cell]:
    """The cells of a call that has begun for these rows, and of those that ``begin`` makes for what it left."""
    attempts = patience()  # which begins when somebody waits
    while True:
        merged, last = Chunks(), b""
        try:
            for response in _joined(call):
                whole = merged.add(response.chunks)
                yield from whole
                last = max(last, response.last_scanned_row_key, whole[-1].key if whole else b"")
            return
        except grpc.RpcError as error:
            if last:
                attempts.restart()
            attempts.failed(*status_of(error))
        finally:
            call.cancel()
        if last:
            rows = _after(rows, last)
        if not isinstance(rows, Range) and not rows:
            return
        call = begin(rows)


def _after(rows: Range | Sequence[bytes], last: bytes) -> Range | Sequence[bytes]:
    """Those of the rows that come after a key."""
    if isinstance(rows, Range):
        return Range(last + b"\0", rows.end)
    return [key for key in rows if key > last]


def _joined(responses: Iterable[bytes]) -> Iterator[Any]:
    """Responses to a read, many as one: the bytes of messages, put together, are a message with all their chunks.

    There may be one for every row, and to parse it alone costs more than to receive it.
    """
    some: list[bytes] = []
    size = 0
    try:
        for response in responses:
            some.append(response)
            size += len(response)
            if len(some) == RESPONSES_AT_ONCE or size > READ_AHEAD_BYTES:
                yield _Response.FromString(b"".join(some))
                some, size = [], 0
    except grpc.RpcError:
        yield _Response.FromString(b"".join(some))  # what came before is good
        raise
    yield _Response.FromString(b"".join(some))


def _filter(filters: Mapping[str, Any]) -> Any:
    parts = [RowFilter(**{name: value}) for name, value in filters.items()]
    return parts[0] if len(parts) == 1 else RowFilter(chain=_Chain(filters=parts))


def _batches(entries: Iterable[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for entry in entries:
        if batch and (len(batch) == ENTRIES_PER_REQUEST or size + len(entry) > BYTES_PER_REQUEST):
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += len(entry)
    if batch:
        yield batch
