"""An LMDB environment as this process uses it: opened once, grown when full, followed when others grow it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import lmdb

from monobeam.store.backend import BackendError

T = TypeVar("T")

# Address space, not memory or disk: LMDB's file has only the pages that were written.
MAP_BYTES = 64 << 30
MIN_MAP_BYTES = 1 << 20
MAX_READERS = 512
RETRIES = 32


class Environment:
    """Transactions on one directory.

    Several of them in a process share one LMDB environment, as LMDB demands. The map must not move under a reader of
    this process, so growing waits until they are done.
    """

    def __init__(self, directory: Path, map_bytes: int, durable: bool) -> None:
        self._directory = directory
        self._shared = _Shared.open(directory, map_bytes, durable)

    @contextlib.contextmanager
    def read(self) -> Iterator[Any]:
        """A transaction that sees the last commit; its values are buffers that end with it."""
        txn, ticket = self._begin()
        try:
            yield txn
        except lmdb.Error as error:
            raise BackendError(f"{self._directory}: cannot read: {error}") from error
        finally:
            txn.abort()
            self._shared.readers.leave(ticket)

    def write(self, work: Callable[[Any], T]) -> T:
        """Run ``work(transaction)`` and commit; again from the start if the map had to grow first."""
        for _ in range(RETRIES):
            try:
                with self._shared.lmdb.begin(write=True, buffers=True) as txn:
                    return work(txn)
            except lmdb.MapFullError:
                self._resize(2 * int(self._shared.lmdb.info()["map_size"]))
            except lmdb.MapResizedError:
                self._resize(0)
            except lmdb.Error as error:
                raise BackendError(
                    f"{self._directory}: cannot commit: {error}; the store stays as its last commit left it"
                ) from error
        raise BackendError(
            f"{self._directory}: no room for the commit in a map of {self._shared.lmdb.info()['map_size']} bytes"
        )

    def copy(self, directory: Path) -> None:
        """Write what the last commit left to a directory, without free pages, and wait for the disk."""
        with self.read() as txn:
            try:
                self._shared.lmdb.copy(str(directory), compact=True, txn=txn)
                for path in (directory / "data.mdb", directory):
                    _sync(path)
            except (OSError, lmdb.Error) as error:
                raise BackendError(f"{directory}: cannot be written: {error}") from error

    def take_over(self) -> None:
        """Learn what a writer that was killed last committed: readers see it only once another has had its lock."""
        self.write(lambda _: None)
        self.forget_dead_readers()

    def forget_dead_readers(self) -> None:
        """Free the snapshots of processes that died while reading: LMDB would keep their pages for ever."""
        self._shared.lmdb.reader_check()

    def close(self) -> None:
        """Close the environment with the last of those that share it."""
        self._shared.release()

    def _begin(self) -> tuple[Any, int]:
        for _ in range(RETRIES):
            ticket = self._shared.readers.enter()
            try:
                return self._shared.lmdb.begin(buffers=True), ticket
            except lmdb.MapResizedError:
                self._shared.readers.leave(ticket)
                self._resize(0)
            except lmdb.Error as error:
                self._shared.readers.leave(ticket)
                raise BackendError(f"{self._directory}: cannot read: {error}") from error
        raise BackendError(f"{self._directory}: the map grew {RETRIES} times while a reader tried to follow")

    def _resize(self, map_bytes: int) -> None:
        """Set the size of the map; 0 takes over what another process has set."""
        with self._shared.readers.none():
            try:
                self._shared.lmdb.set_mapsize(map_bytes)
            except lmdb.Error as error:
                raise BackendError(f"{self._directory}: no address space for {map_bytes} bytes: {error}") from error


class _Readers:
    """The open read transactions of this process, by thread."""

    def __init__(self) -> None:
        self._open: Counter[int] = Counter()
        self._resizing = False
        self._changed = threading.Condition()

    def enter(self) -> int:
        """Wait while the map is resized, unless this thread reads already; the ticket to leave with."""
        ticket = threading.get_ident()
        with self._changed:
            self._changed.wait_for(lambda: not self._resizing or self._open[ticket] > 0)
            self._open[ticket] += 1
        return ticket

    def leave(self, ticket: int) -> None:
        with self._changed:
            self._open[ticket] -= 1
            self._changed.notify_all()

    @contextlib.contextmanager
    def none(self) -> Iterator[None]:
        """Let no new ones in, and wait until there is none."""
        with self._changed:
            if self._open[threading.get_ident()] > 0:
                raise BackendError("the map must grow while this thread reads: finish or close what load() gave it")
            self._changed.wait_for(lambda: not self._resizing)
            self._resizing = True
            self._changed.wait_for(lambda: self._open.total() == 0)
            try:
                yield
            finally:
                self._resizing = False
                self._open.clear()
                self._changed.notify_all()


class _Shared:
    """The one LMDB environment of this process on a directory, and how many use it."""

    _opened: dict[str, _Shared] = {}  # noqa: RUF012
    _lock = threading.Lock()

    def __init__(self, name: str, environment: Any) -> None:
        self.name = name
        self.lmdb = environment
        self.readers = _Readers()
        self.users = 0

    @classmethod
    def open(cls, directory: Path, map_bytes: int, durable: bool) -> _Shared:
        name = os.path.realpath(directory)
        with cls._lock:
            if name not in cls._opened:
                cls._opened[name] = cls(name, _open(name, map_bytes, durable))
            shared = cls._opened[name]
            shared.users += 1
            return shared

    def release(self) -> None:
        with self._lock:
            self.users -= 1
            if self.users == 0:
                del self._opened[self.name]
                self.lmdb.close()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open(directory: str, map_bytes: int, durable: bool) -> Any:
    """Open with as much address space as there is, up to ``map_bytes``; read-only where the files are."""
    file = Path(directory) / "data.mdb"
    readonly = not os.access(file if file.exists() else directory, os.W_OK)
    while True:
        try:
            return lmdb.open(
                directory,
                map_size=map_bytes,
                max_readers=MAX_READERS,
                readonly=readonly,
                create=not readonly,
                sync=durable,
                metasync=durable,
                meminit=False,
            )
        except lmdb.MemoryError as error:
            if map_bytes <= MIN_MAP_BYTES:
                raise BackendError(f"{directory}: no address space for a map of {map_bytes} bytes") from error
            map_bytes //= 2
        except lmdb.Error as error:
            raise BackendError(f"{directory}: cannot open the store: {error}") from error
