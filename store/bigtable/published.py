"""What a commit makes true in Bigtable, and what is on its way to it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import NamedTuple

from monobeam.store.manifest import Manifest

REMEMBER_VOID_MS = 7 * 86_400_000


class Void(NamedTuple):
    """Cells with this stamp are of a commit never published, in rows with prefixes ``first`` to before ``end``.

    They are deleted, but whoever was paused while it wrote them may write them again: readers pass over them.
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
    of earlier epochs find no history any more; ``superseded``: rows of example keys that are to be ignored.
    """

    manifest: Manifest
    stamps: tuple[int, ...]
    horizons: tuple[int, ...]
    void: tuple[Void, ...] = ()
    dense: Parts | None = None
    values: Parts | None = None
    superseded: tuple[str, ...] = ()

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
        )

    @property
    def shards(self) -> int:
        """Their number."""
        return len(self.stamps)

    def is_void(self, stamp: int, prefix: int) -> bool:
        """Whether a cell of this stamp, in a row of this prefix, is of a commit that was never published."""
        return any(void.stamp == stamp and void.first <= prefix < void.end for void in self.void)


def remembered(voids: tuple[Void, ...], now: int) -> tuple[Void, ...]:
    """Without those that are so old that nobody can be about to write them."""
    return tuple(sorted({void for void in voids if void.stamp > now - REMEMBER_VOID_MS}))


@dataclass(frozen=True)
class Intent:
    """Recorded in a shard's row before any cell is written: with this stamp, and this epoch if it is ever published.

    ``void``: earlier stamps of the shard that never were, as far as no manifest says so; ``horizon``: of the shard,
    once the epoch is published.
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

    def next(self, epoch: int, published_stamp: int, known_void: frozenset[int], horizon: int) -> Intent:
        """The intent after this one; its stamp is one that was never written."""
        void = tuple(stamp for stamp in self.void if stamp not in known_void)
        if self.stamp > published_stamp:
            void = (*void, self.stamp)
        return replace(self, stamp=max(epoch, self.stamp + 1), epoch=epoch, void=void, horizon=horizon)
