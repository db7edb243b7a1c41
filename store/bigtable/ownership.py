"""Leases in the table: one row per shard, changed by compare-and-set alone.

Every change of a row gives it a new version, a random one, and names the version it expects. So a change that comes
late, of whoever was paused or repeated by the network, changes nothing; and whoever sees a version stay the same for
the whole length of a lease knows that its owner did not renew it, whatever any clock says.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc

from monobeam.store.backend import BackendError, LeasedError, OwnedError
from monobeam.store.bigtable.channel import status_of
from monobeam.store.bigtable.client import Client
from monobeam.store.bigtable.wire import STATE, STATES, Mutation, cell_mutation, shard_of_state, state_key

VERSION, LEASE = b"version", b"lease"
_WATCH = 1.1  # of a lease: clocks of two machines do not run alike
_POLLS = 20


def now_s() -> float:
    """Seconds that also pass while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class StateRow:
    """A shard's row, as its owner or candidate sees it. ``cells``: by column, as of the last successful call."""

    def __init__(self, client: Client, shard: int, lease_s: float, address: str) -> None:
        self.shard = shard
        self.cells: dict[bytes, bytes] = {}
        self.valid_until = 0.0
        self._client = client
        self._key = state_key(shard)
        self._lease_s = lease_s
        self._address = address
        self._lock = threading.RLock()
        self._doubtful: set[bytes] = set()  # versions that may have come true, or may come true later
        self._seen: tuple[bytes, float] | None = None
        self._owned = False
        self._why = f"{self._where} is not owned"

    @property
    def in_force(self) -> bool:
        """Whether nobody else can have changed the row since ``cells`` were seen."""
        return self._owned and now_s() < self.valid_until

    @property
    def version(self) -> bytes:
        """Of the row as it was last seen."""
        return self.cells.get(VERSION, b"")

    def try_to_take(self) -> bool:
        """Take the lease if nobody has it, or if it was not renewed for its whole length since this was first called.

        OwnedError: it is renewed.
        """
        with self._lock:
            self._read()
            if LEASE in self.cells:
                lease = json.loads(self.cells[LEASE])
                if self._seen is None:
                    self._seen = self.version, now_s()
                if self._seen[0] != self.version:
                    self._seen = None
                    raise LeasedError(self._owned_by(lease))
                if now_s() - self._seen[1] < _WATCH * lease["lease_s"]:
                    return False
            self._owned = True
            try:
                self.change({})
            except OwnedError:
                self._owned = False
                return False
            return True

    def change(self, cells: Mapping[bytes, bytes], patience_s: float | None = None) -> None:
        """Write cells, and renew the lease; OwnedError, and nothing is written, if someone else has taken it.

        BackendError: it is open whether they are written, until the next call that succeeds.
        """
        with self._lock:
            self._settle(patience_s)
            self._push({**cells, LEASE: json.dumps(self._lease()).encode()}, patience_s)

    def renew(self) -> None:
        """Renew the lease; as ``change``, but with no more patience than it leaves."""
        self.change({}, self._lease_s / 3)

    def settle(self) -> Mapping[bytes, bytes]:
        """Know whether the last change happened, and that it will not happen later if it did not.

        The cells as this owner left or found them, or OwnedError.
        """
        with self._lock:
            self._settle()
            if not self._owned:
                raise LeasedError(self._why)
            return self.cells

    def release(self) -> None:
        """Give the lease back, as far as that is faster than to let it expire."""
        with self._lock:
            self._settle(self._lease_s / 3)
            self._push({}, self._lease_s / 3, delete=LEASE)
            self._owned, self.valid_until = False, 0.0

    def check(self) -> None:
        """OwnedError unless the lease is in force; one that was not renewed in time is, if nobody took it."""
        if not self._owned:
            raise LeasedError(self._why)
        if not self.in_force:
            try:
                self.renew()
            except OwnedError:
                raise
            except BackendError as error:
                raise LeasedError(f"{self._where}: the lease has expired, and cannot be renewed: {error}") from error

    @property
    def _where(self) -> str:
        return f"{self._client.address.uri}: shard {self.shard}"

    def _lease(self) -> dict[str, Any]:
        return {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "address": self._address,
            "lease_s": self._lease_s,
            "expires": round(time.time() + self._lease_s, 3),
        }

    def _owned_by(self, lease: Mapping[str, Any]) -> str:
        at = f" at {lease['address']}" if lease["address"] else ""
        return (
            f"{self._where} is owned by process {lease['pid']} on {lease['host']}{at}, which renews its lease: "
            f"end it first, or wait {lease['lease_s']:g} s after it ended: a store has one owner"
        )

    def _read(self, patience_s: float | None = None) -> None:
        filters = {"family_name_regex_filter": STATE, "cells_per_column_limit_filter": 1}
        self.cells = {cell.column: cell.value for cell in self._client.cells([self._key], filters, patience_s)}

    def _push(self, cells: Mapping[bytes, bytes], patience_s: float | None = None, delete: bytes | None = None) -> None:
        """Compare and set until it is known to have happened."""
        if not self._owned:
            raise LeasedError(self._why)
        after = os.urandom(16)
        mutations = [cell_mutation(value, STATE, column) for column, value in {**cells, VERSION: after}.items()]
        if delete is not None:
            column = Mutation.DeleteFromColumn(family_name=STATE, column_qualifier=delete)
            mutations.append(Mutation(delete_from_column=column))
        attempts = self._client.attempts(f"lease of shard {self.shard}", patience_s)
        self._doubtful.add(after)
        sent = now_s()  # first: that attempt may be the one that happened
        while True:
            try:
                if self._client.check_and_mutate(self._key, *_is_version(self.version), mutations):
                    break
            except grpc.RpcError as error:
                attempts.failed(*status_of(error))
                continue
            self._read(patience_s)  # not by this attempt: by an earlier one whose answer was lost, or by someone else
            if self.version == after:
                break
            if self.version not in self._doubtful:
                self._lost()
        self._doubtful = set()
        self.cells = {**self.cells, **cells, VERSION: after}
        self.valid_until = sent + self._lease_s

    def _settle(self, patience_s: float | None = None) -> None:
        if not self._doubtful:
            return
        before = self.version
        self._read(patience_s)
        if self.version in self._doubtful:
            self._doubtful = set()
        elif self.version == before:
            self._push({}, patience_s)  # the new version keeps the others from coming true
        else:
            self._lost()

    def _lost(self) -> None:
        self._owned, self.valid_until, self._doubtful = False, 0.0, set()
        by = json.loads(self.cells[LEASE]) if LEASE in self.cells else None
        self._why = self._owned_by(by) if by else f"{self._where} was taken over and given back meanwhile"
        raise LeasedError(self._why)


def _is_version(version: bytes) -> tuple[dict[str, Any], bool]:
    """A filter, and what it must say of a row that has this version (none: of a row without one)."""
    filters: dict[str, Any] = {"family_name_regex_filter": STATE, "column_qualifier_regex_filter": VERSION}
    if version:
        filters["value_range_filter"] = {"start_value_closed": version, "end_value_closed": version}
    return filters, bool(version)


class Leases:
    """The leases of one owner, renewed by a thread of their own until they are given back."""

    def __init__(self, client: Client, lease_s: float) -> None:
        self.rows: dict[int, StateRow] = {}
        self._client = client
        self._lease_s = lease_s
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self, shards: Sequence[int], address: str, wait_s: float) -> None:
        """Become the owner of all of these shards, or of none more than before and OwnedError.

        Waits for leases that are not renewed to expire, and for others until ``wait_s`` are over.
        """
        waiting = [StateRow(self._client, shard, self._lease_s, address) for shard in shards if shard not in self.rows]
        taken: dict[int, StateRow] = {}
        until = now_s() + wait_s
        try:
            while waiting:
                taken |= {row.shard: row for row in waiting if _taken(row, until)}
                waiting = [row for row in waiting if row.shard not in taken]
                if waiting:
                    for row in taken.values():
                        row.check()
                    time.sleep(self._lease_s / _POLLS)
        except BaseException:
            _each(taken.values(), StateRow.release)
            raise
        self.rows |= taken
        if self._thread is None and self.rows:
            self._ended.clear()
            self._thread = threading.Thread(target=self._renew, name="leases", daemon=True)
            self._thread.start()

    def give_back(self, shards: Sequence[int]) -> None:
        """Give back those of them that are owned."""
        rows = [self.rows.pop(shard) for shard in list(self.rows) if shard in shards]
        _each(rows, StateRow.release)

    def close(self) -> None:
        """Give all of them back."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        _each(self.rows.values(), StateRow.release)
        self.rows = {}

    def _renew(self) -> None:
        while not self._ended.wait(self._lease_s / 3):
            _each(list(self.rows.values()), StateRow.renew)


def _taken(row: StateRow, until: float) -> bool:
    try:
        return row.try_to_take()
    except OwnedError:
        if now_s() >= until:
            raise
        return False


def _each(rows: Any, do: Callable[[StateRow], None]) -> None:
    """Do it to all of them, as far as it can be done: a lease that cannot be reached expires."""
    for row in rows:
        try:
            do(row)
        except BackendError:
            continue


def lease_of(cells: Mapping[bytes, bytes]) -> dict[str, Any] | None:
    """The lease in a shard's row, if it was not given back; no clock can say at one look whether it is in force."""
    return json.loads(cells[LEASE]) if LEASE in cells else None


def shard_rows(client: Client) -> dict[int, dict[bytes, bytes]]:
    """The rows of all shards, by number and column."""
    rows: dict[int, dict[bytes, bytes]] = {}
    for cell in client.cells(STATES, {"family_name_regex_filter": STATE, "cells_per_column_limit_filter": 1}):
        rows.setdefault(shard_of_state(cell.key), {})[cell.column] = cell.value
    return rows
