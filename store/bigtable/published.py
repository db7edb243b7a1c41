"""What a commit makes true in Bigtable, and what is on its way to it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from monobeam.store.bigtable.wire import prefixes_of_shard
from monobeam.store.manifest import Manifest

PUBLISHED, INTENT = b"published", b"intent"  # columns
REMEMBER_VOID_MS = 7 * 86_400_000


class Void(NamedTuple):
    """Cells with this stamp are of a commit never published, in rows with prefixes ``first`` to before ``end``.

    They are deleted, but whoever was paused while it wrote them may write them again: readers pass over them, and once
    more they are deleted before that is forgotten.
    """

    stamp: int
    first: int
    end: int


class Parts(NamedTuple):
    """Bytes that lie in ``pieces`` rows of one stamp; ``version``: of dense weights."""

    stamp: int
    pieces: int
    version: int = 0


@dataclass(frozen=True)
class Published:
    """The manifest and where everything that it means is found; one cell of the row of shard 0.

    ``stamps``: of the newest cells of every shard, its epoch or later where the clock went back; ``horizons``: readers
    of earlier epochs find no history any more; ``seen_rows``: rows of example keys, besides those that are
    ``superseded``: these are still there for who reads an earlier manifest; ``layouts``: all numbers of shards that the
    store ever had, the last one its own.
    """

    manifest: Manifest
    stamps: tuple[int, ...]
    horizons: tuple[int, ...]
    void: tuple[Void, ...] = ()
    dense: Parts | None = None
    values: Parts | None = None
    superseded: tuple[str, ...] = ()
    layouts: tuple[int, ...] = ()
    seen_rows: int = 0

    def encode(self) -> bytes:
        """As JSON text."""
        fields = {name: value for name, value in vars(self).items() if name != "manifest"}
        return json.dumps({"manifest": json.loads(self.manifest.encode()), **fields}).encode()

    @staticmethod
    def decode(data: bytes) -> Published:
        """ValueError where this version cannot read the store's format."""
        stored = json.loads(data)
        return Published(
            manifest=Manifest.decode(json.dumps(stored["manifest"]).encode()),
            stamps=tuple(stored["stamps"]),
            horizons=tuple(stored["horizons"]),
            void=tuple(Void(*void) for void in stored["void"]),
            dense=stored["dense"] and Parts(*stored["dense"]),
            values=stored["values"] and Parts(*stored["values"]),
            superseded=tuple(stored["superseded"]),
            layouts=tuple(stored["layouts"]),
            seen_rows=stored["seen_rows"],
        )

    @property
    def shards(self) -> int:
        """Their number."""
        return len(self.stamps)

    def stamp_at(self, prefix: int) -> int:
        """The stamp of the shard that has a prefix."""
        return self.stamps[prefix * self.shards >> 16]

    def is_void(self, stamp: int, prefix: int) -> bool:
        """Whether a cell of this stamp, in a row of this prefix, is of a commit that was never published."""
        return any(void.stamp == stamp and void.first <= prefix < void.end for void in self.void)

    def is_published(self, stamp: int, prefix: int) -> bool:
        """Whether it is of one that was."""
        return stamp <= self.stamp_at(prefix) and not self.is_void(stamp, prefix)

    @property
    def old_void(self) -> frozenset[Void]:
        """Those that are so old that nobody can be about to write them."""
        return frozenset(void for void in self.void if void.stamp <= self.stamps[0] - REMEMBER_VOID_MS)

    def without_history(self) -> Published:
        """The same, for readers as of now alone."""
        return replace(self, horizons=self.manifest.epochs)

    def resharded(self, intents: Sequence[Intent], shards: int) -> Published:
        """The same, in so many shards; ``intents``: of the shards there are."""
        epoch = max(self.manifest.epochs) + 1
        stamp = max(epoch, *(1 + max(intent.stamp, *self.stamps) for intent in intents))
        late = (intent.next(epoch, was, 0).void for intent, was in zip(intents, self.stamps, strict=True))
        fingerprint = {**self.manifest.fingerprint, "shards": shards}
        return replace(
            self,
            manifest=replace(self.manifest, fingerprint=fingerprint, epochs=(epoch,) * shards),
            stamps=(stamp,) * shards,
            horizons=(epoch,) * shards,
            layouts=(*self.layouts, shards),
            void=(*self.void, *voids(late)),
        )


def voids(stamps: Iterable[Sequence[int]]) -> Iterator[Void]:
    """The void stamps of every shard, with its prefixes."""
    by_shard = list(stamps)
    for shard, of_shard in enumerate(by_shard):
        for stamp in of_shard:
            yield Void(stamp, *prefixes_of_shard(shard, len(by_shard)))


@dataclass(frozen=True)
class Intent:
    """Recorded in a shard's row before any cell is written: with this stamp, and this epoch if it is ever published.

    ``void``: the stamps of the shard since the last that was published; ``horizon``: of the shard, once this one is.
    """

    stamp: int
    epoch: int
    void: tuple[int, ...] = ()
    horizon: int = 0

    def encode(self) -> bytes:
        """As JSON text."""
        return json.dumps(vars(self)).encode()

    @staticmethod
    def decode(data: bytes) -> Intent:
        """The other way."""
        stored = json.loads(data)
        return Intent(**{**stored, "void": tuple(stored["void"])})

    def next(self, epoch: int, published: int, horizon: int) -> Intent:
        """The intent after this one; its stamp is one that was never written. ``published``: the stamp that is."""
        void = tuple(stamp for stamp in (*self.void, self.stamp) if stamp > published)
        return Intent(max(epoch, self.stamp + 1, published + 1), epoch, void, horizon)
