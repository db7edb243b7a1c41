"""The shards of one shard server: nothing before the head begins a generation, and calls of no other generation."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from monobeam.store.backend import Backend, BackendError, OwnedError, ShardCommit, StaleError, is_shared
from monobeam.store.host import ShardHost
from monobeam.store.publishing import Announcement, SyncLog, events
from monobeam.store.room import TableRoom
from monobeam.store.spec import StoreSpec


class _Current(NamedTuple):
    generation: int
    host: ShardHost


class Hosting:
    """The hosts of one generation after the other, each loaded from the last commit; for several threads at once.

    A caller of an old generation may still be at work in its host when the next begins: that host's tables are its
    own, and nothing of it is committed any more.
    """

    def __init__(self, backend: Backend, numbers: Sequence[int], sync_log: SyncLog | None = None) -> None:
        self.numbers = tuple(numbers)
        self._backend = backend
        self._sync_log = sync_log
        self._current: _Current | None = None
        self._turn = threading.Lock()  # of what reads or writes the backend

    @property
    def generation(self) -> int:
        """The generation that is being served; 0 where there is none."""
        current = self._current
        return 0 if current is None else current.generation

    def begin(self, generation: int, spec: StoreSpec, head: str) -> None:
        """Forget everything that is not committed, and serve a new generation; while nothing is being published.

        ``head``: the address of who says so. OwnedError if that is not, or no longer, the owner of shard 0: another one
        may be publishing what is prepared here.
        """
        numbers = [number for number in self.numbers if number < spec.shards]
        if len(numbers) < spec.shards and not is_shared(self._backend):
            raise ValueError(
                f"{self._backend.uri} has one owner: its server must have all {spec.shards} shards, "
                f"--shards=0-{spec.shards - 1}; this one has {list(self.numbers)}"
            )
        with self._turn:
            self.check()
            if is_shared(self._backend) and (owner := self._backend.owners().get(0)) != head:
                raise OwnedError(f"{head} is not the head of {self._backend.uri}: {owner} is")
            self._current = None
            if is_shared(self._backend):
                self._backend.recover(numbers)
            host = ShardHost(spec, numbers, TableRoom(spec.memory_limit, "store.memory_limit"))
            host.load(self._backend)
            self._current = _Current(generation, host)

    def end(self) -> None:
        """Serve no generation."""
        with self._turn:
            self._current = None

    def at(self, generation: int) -> ShardHost:
        """The host of a generation, or StaleError."""
        current = self._current
        if current is None:
            raise StaleError("the shards here were not loaded since this server started, or went back to a commit")
        if current.generation != generation:
            raise StaleError("the store went back to its last commit")
        return current.host

    def check(self) -> None:
        """OwnedError where this server is not, or no longer, the owner of its shards: it must not answer then."""
        if is_shared(self._backend):
            self._backend.check_owned()

    def prepare(self, generation: int, epochs: Sequence[int]) -> Mapping[int, ShardCommit]:
        """What is to be committed of each shard; where shards have several owners, it is durable now, but not seen."""
        with self._turn:
            commits = self.at(generation).changes(epochs)
            if not is_shared(self._backend):
                return commits
            self._backend.prepare(commits)
            return {number: ShardCommit(commit.epoch, {}) for number, commit in commits.items()}

    def committed(self, generation: int, epochs: Sequence[int], said: Announcement) -> None:
        """What was prepared is true; replicas are told, if that is up to this server."""
        with self._turn:
            host = self.at(generation)
            before = host.epochs
            host.committed(epochs)
            if self._sync_log is not None:
                self._sync_log.append(events(host.spec, before, epochs, host.events(epochs)(), said))


def check_numbers(backend: Backend, numbers: Sequence[int]) -> None:
    """Refuse shards that the store does not have, and a part of a store whose shards cannot have several owners."""
    manifest = backend.manifest()
    if manifest is not None and min(numbers) >= len(manifest.epochs):
        raise BackendError(
            f"{backend.uri} has {len(manifest.epochs)} shards, from 0 on: none of {list(numbers)} is one"
        )
    missing = [] if manifest is None else sorted(set(range(len(manifest.epochs))) - set(numbers))
    if not is_shared(backend) and (missing or 0 not in numbers):
        raise BackendError(f"{backend.uri} has one owner: its server must have all of its shards, from 0 on")
