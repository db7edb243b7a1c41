"""The head of a store in shard servers: sessions of trainers, positions, example keys, and the commit over all servers.

What is in doubt is never patched. When a trainer is gone with work that is not committed, a server was started anew or
a commit failed, every session ends. The next trainer that opens the store begins a new generation: all servers go back
to the last commit, and the examples log is read again from its positions. A server refuses whoever is of another
generation.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from monobeam.store.backend import (
    Backend,
    Commit,
    LeasedError,
    ShardCommit,
    is_shared,
)
from monobeam.store.bags import Keys, Mask
from monobeam.store.host import Asked
from monobeam.store.ledger import Ledger
from monobeam.store.manifest import Manifest
from monobeam.store.publishing import Announcement
from monobeam.store.room import TableRoom
from monobeam.store.sessions import Session, Sessions
from monobeam.store.spec import StoreSpec, check_fingerprint

TTL_S = 15.0


class Member(Protocol):
    """A shard server as its head sees it; see ``Hosting``."""

    address: str
    numbers: tuple[int, ...]

    def generation(self) -> int: ...  # noqa: D102
    def begin(self, generation: int, spec: StoreSpec) -> Asked[None]: ...  # noqa: D102
    def prepare(self, generation: int, epochs: Sequence[int]) -> Asked[Mapping[int, ShardCommit]]: ...  # noqa: D102
    def committed(self, generation: int, epochs: Sequence[int], said: Announcement) -> Asked[None]: ...  # noqa: D102


@dataclass(frozen=True)
class Opened:
    """What a trainer is told: who has which shards, and what the last commit says."""

    session: str
    generation: int
    servers: Mapping[str, Sequence[int]]
    manifest: Manifest
    dense: bytes | None
    ended: int


class Committed(NamedTuple):
    """The epochs before a commit, what it made true, and whether it published the dense values that came with it."""

    before: tuple[int, ...]
    manifest: Manifest
    published: bool


class Head:
    """For several threads at once. ``members``: gives the servers of a number of shards, or AwayError.

    Calls of a session raise StaleError once it has ended. ``now_s``: seconds, of a clock that never goes back.
    ``ended``: the number of blocks that had ended, of all trainers.
    """

    def __init__(self, backend: Backend, members: Callable[[int], Sequence[Member]], ttl_s: float = TTL_S) -> None:
        self._backend = backend
        self._find_members = members
        self._sessions = Sessions(ttl_s)
        self._turn = threading.Condition()
        self._busy = False  # somebody commits, or opens: no block may begin
        self._doubt: str | None = "it was not loaded yet"
        self._generation = 0
        self._members: Sequence[Member] = ()
        self._spec = b""
        self._ended = 0
        self._published = 0  # so many blocks had ended before the dense values were read that are published
        self._ledger: Ledger

    def open(self, spec: StoreSpec, name: str, partitions: frozenset[int] | None, now_s: float) -> Opened:
        """Begin a session for a trainer; LeasedError where another one has the same partitions, or another ``spec``."""
        with self._alone():
            with self._turn:
                for dead in self._sessions.dead(now_s):
                    self._drop(dead.identity, "showed no sign of life")
                for other in self._sessions:
                    if other.shares(partitions) or spec.encode() != self._spec:
                        raise LeasedError(_taken(other, other.shares(partitions)))
            while True:
                self._refresh(spec)
                with self._turn:
                    if self._doubt is None:  # or another one was dropped meanwhile
                        return self._begin_session(Session(name, partitions, now_s))

    def alive(self, session: str, now_s: float) -> None:
        """A sign of life."""
        with self._turn:
            self._sessions.get(session, now_s)

    def begin(self, session: str, partition: int, offset: int, now_s: float) -> None:
        """A block is about to be trained on; waits while somebody commits."""
        with self._turn:
            self._turn.wait_for(lambda: not self._busy)
            own = self._own(session, partition, now_s)
            if offset != (due := self._ledger.position(partition)):
                raise ValueError(f"offset {offset} of partition {partition}: the next one to train on is {due}")
            if partition in own.blocks:
                raise ValueError(f"offset {offset} of partition {partition}: it is being trained on")
            own.blocks.add(partition)
            own.worked = True

    def end(self, session: str, partition: int, position: int, meta: Mapping[str, Any], now_s: float) -> int:
        """It was trained on; the next one is at ``position``. How many have ended."""
        with self._turn:
            own = self._own(session, partition, now_s)
            if partition not in own.blocks:
                raise ValueError(f"end of a block of partition {partition}: none has begun")
            own.blocks.remove(partition)
            self._ledger.ended(partition, position, meta)
            self._ended += 1
            self._turn.notify_all()
            return self._ended

    def work(self, session: str, now_s: float) -> None:
        """Something outside of blocks is about to be changed."""
        with self._turn:
            self._sessions.get(session, now_s).worked = True

    def unseen(self, session: str, example_keys: Keys, at_s: int, now_s: float) -> Mask:
        """Which examples were not trained on before; marks them as seen at ``at_s``."""
        with self._turn:
            self._outside_commits(session, now_s).worked = True
            return self._ledger.unseen(example_keys, at_s)

    def expire(self, session: str, at_s: int, budget: int, now_s: float) -> None:
        """Forget example keys that are too old; no commit begins until the hosts have done their part: ``expired``.

        What they dropped between the two halves of a commit would be dropped here, and never in the backend.
        """
        with self._turn:
            self._outside_commits(session, now_s).expires = True
            self._ledger.expire(at_s, budget)

    def expired(self, session: str, now_s: float) -> None:
        """The hosts have dropped what is too old."""
        with self._turn:
            self._sessions.get(session, now_s).expires = False
            self._turn.notify_all()

    def commit(
        self,
        session: str,
        positions: Mapping[int, int],
        dense: bytes | None,
        dense_values: bytes | None,
        now_us: int,
        meta: Mapping[str, Any],
        arrivals: npt.NDArray[np.int64],
        ended: int,
        now_s: float,
    ) -> Committed:
        """Make everything of all sessions durable, between their blocks. Of ``positions`` those of its own count.

        ``dense_values`` were read when ``ended`` blocks had. They are not published if those that are were read later.
        After any error it is open whether it was: everybody goes back to what the backend says.
        """
        with self._alone():
            with self._turn:
                own = self._sessions.get(session, now_s)
                if own.blocks:
                    raise ValueError(f"commit within a block of partition {min(own.blocks)}")
                self._turn.wait_for(lambda: not self._sessions.at_work)
                self._sessions.get(session, now_s)
                if ended < self._published:
                    dense_values = None
            manifest = self._ledger.next(
                {p: offset for p, offset in positions.items() if own.has(p)}, dense_values is not None, now_us, meta
            )
            before = self._ledger.manifest.epochs
            said = Announcement(now_us, manifest.dense_version, dense_values, arrivals)
            try:
                self._commit(manifest, dense, said)
            except BaseException as error:
                with self._turn:
                    self._doubts(f"a commit failed: {error}")
                raise
            with self._turn:
                for each in self._sessions:
                    each.worked = False
                if dense_values is not None:
                    self._published = ended
            return Committed(before, manifest, dense_values is not None)

    def close(self, session: str, why: str) -> None:
        """End a session, if it has not ended: its trainer gave it back, or its connection broke."""
        with self._turn:
            self._drop(session, why)

    def tick(self, now_s: float) -> None:
        """Drop sessions without a sign of life that others wait for; to be called every second or so."""
        with self._turn:
            if self._busy:
                for dead in self._sessions.dead(now_s):
                    if dead.at_work:
                        self._drop(dead.identity, "showed no sign of life")

    @property
    def memory_bytes(self) -> int:
        """Bytes held by example keys."""
        return self._ledger.memory_bytes

    def _begin_session(self, session: Session) -> Opened:
        self._sessions.add(session)
        servers = {member.address: member.numbers for member in self._members}
        ledger = self._ledger
        return Opened(session.identity, self._generation, servers, ledger.manifest, ledger.dense, self._ended)

    def _own(self, session: str, partition: int, now_s: float) -> Session:
        own = self._sessions.get(session, now_s)
        if not own.has(partition):
            raise ValueError(f"partition {partition}: this trainer has {sorted(own.partitions or ())}")
        return own

    def _outside_commits(self, session: str, now_s: float) -> Session:
        """The session, when nobody commits, or is about to and waits for it."""
        own = self._sessions.get(session, now_s)
        self._turn.wait_for(lambda: not self._busy or own.at_work)
        return self._sessions.get(session, now_s)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One after the other, and no block begins meanwhile."""
        with self._turn:
            self._turn.wait_for(lambda: not self._busy)
            self._busy = True
        try:
            yield
        finally:
            with self._turn:
                self._busy = False
                self._turn.notify_all()

    def _drop(self, session: str, why: str) -> None:
        dropped = self._sessions.remove(session)
        if dropped is not None and (dropped.worked or dropped.at_work):
            self._doubts(f"{dropped.name} {why}")

    def _doubts(self, why: str) -> None:
        self._doubt = why
        self._sessions.clear(why)
        self._turn.notify_all()

    def _refresh(self, spec: StoreSpec) -> None:
        """Begin a new generation, unless all servers are as the last commit and its sessions left them."""
        members = self._find_members(spec.shards)
        same = {m.address: m.numbers for m in members} == {m.address: m.numbers for m in self._members}
        known = self._doubt is None and same and spec.encode() == self._spec
        if known and all(member.generation() == self._generation for member in members):
            return
        if self._doubt is None:
            with self._turn:
                self._doubts("a shard server was started anew, or the specification changed")
        if is_shared(self._backend):
            self._backend.check_owned()
        stored = self._backend.manifest()
        if stored is not None:
            check_fingerprint(self._backend.uri, stored.fingerprint, spec.fingerprint())
        generation = secrets.randbits(62) + 1
        for asked in [member.begin(generation, spec) for member in members]:
            asked()
        ledger = Ledger(spec, TableRoom(spec.memory_limit, "store.memory_limit"))
        ledger.load(self._backend)
        with self._turn:
            self._members, self._spec, self._ledger = members, spec.encode(), ledger
            self._generation, self._doubt = generation, None

    def _commit(self, manifest: Manifest, dense: bytes | None, said: Announcement) -> None:
        parts: dict[int, ShardCommit] = {}
        for asked in [member.prepare(self._generation, manifest.epochs) for member in self._members]:
            parts |= asked()
        shards = [parts[number] for number in range(len(manifest.epochs))]
        commit = self._ledger.commit(manifest, shards, dense, said.dense)
        self._write(commit)
        self._ledger.committed(commit)
        for told in [member.committed(self._generation, manifest.epochs, said) for member in self._members]:
            told()

    def _write(self, commit: Commit) -> None:
        if is_shared(self._backend):
            self._backend.publish(commit)
        else:
            self._backend.commit(commit)


def _taken(session: Session, shares: bool) -> str:
    if shares:
        return f"{session.name} trains the same partitions; they are free when it ends"
    return f"{session.name} trains with another specification; it must end first"
