"""Trainers that a head knows: which partitions each has, what it is at, and whether it shows signs of life."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field

from monobeam.store.backend import StaleError


@dataclass
class Session:
    """One trainer. ``partitions``: of the examples log that it has (None: all); times in seconds."""

    name: str
    partitions: frozenset[int] | None
    seen_s: float
    identity: str = field(default_factory=lambda: secrets.token_hex(8))
    blocks: set[int] = field(default_factory=set)  # partitions that it is training a block of
    expires: bool = False  # it has the hosts drop what is too old
    worked: bool = False  # since the last commit

    @property
    def at_work(self) -> bool:
        """Whether a commit must wait for it."""
        return bool(self.blocks) or self.expires

    def shares(self, partitions: frozenset[int] | None) -> bool:
        """Whether others who want these partitions are in its way."""
        if self.partitions is None or partitions is None:
            return True
        return bool(self.partitions & partitions)

    def has(self, partition: int) -> bool:
        """Whether a partition is its own."""
        return self.partitions is None or partition in self.partitions


class Sessions:
    """Sessions by identity. A session whose trainer shows no sign of life for ``ttl_s`` seconds is dead."""

    def __init__(self, ttl_s: float) -> None:
        self.ttl_s = ttl_s
        self.why = "the head of the store was started anew"
        self._live: dict[str, Session] = {}

    def __iter__(self) -> Iterator[Session]:
        return iter(self._live.values())

    def add(self, session: Session) -> None:
        """One more."""
        self._live[session.identity] = session

    def get(self, identity: str, now_s: float) -> Session:
        """A live session, with a sign of life; StaleError, saying why, where it has ended."""
        session = self._live.get(identity)
        if session is None:
            raise StaleError(f"the store was given back or went back to its last commit: {self.why}")
        session.seen_s = max(session.seen_s, now_s)  # who had to wait may come late
        return session

    def remove(self, identity: str) -> Session | None:
        """Forget one; None where it has ended already."""
        return self._live.pop(identity, None)

    def clear(self, why: str) -> None:
        """End all of them."""
        self._live.clear()
        self.why = why

    def dead(self, now_s: float) -> list[Session]:
        """Those without a sign of life for too long."""
        return [session for session in self if now_s - session.seen_s > self.ttl_s]

    @property
    def at_work(self) -> bool:
        """Whether a commit must wait for one of them."""
        return any(session.at_work for session in self)
