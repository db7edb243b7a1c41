"""What a store holds as of its last commit, or as of one while others go on committing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from monobeam.store.backend import BackendError, Block, Changed, DenseValues, Loaded, SeenKeys
from monobeam.store.bags import Keys
from monobeam.store.bigtable import extras, history
from monobeam.store.bigtable.client import Client
from monobeam.store.bigtable.history import Delta
from monobeam.store.bigtable.published import Parts, Published
from monobeam.store.bigtable.rows import Moment
from monobeam.store.bigtable.wire import prefixes_of_shard
from monobeam.store.changes import Change, merge
from monobeam.store.manifest import Manifest

_STREAMS = 4


class Committed:
    """All that one commit made true. ``latest``: reads what is published now.

    History is kept for a number of commits: BackendError, if that was not long enough for what was read; then it can
    be read again as of a newer one.
    """

    def __init__(self, client: Client, published: Published | None, latest: Callable[[], Published | None]) -> None:
        self._client = client
        self.published = published
        self._latest = latest

    def manifest(self) -> Manifest | None:
        """See Backend."""
        return self.published.manifest if self.published else None

    def load(self, shard: int) -> Loaded:
        """See Backend."""
        if self.published is None:
            return Loaded(None, iter(()))
        return Loaded(self.published.manifest, self._load(self.published, shard))

    def seen(self) -> Iterator[SeenKeys]:
        """See Backend."""
        if self.published is not None:
            rows = 0
            for block in extras.seen(self._client, self.published):
                yield block
                rows += 1
            if rows != self.published.seen_rows:
                raise self._gone(f"{rows} of {self.published.seen_rows} rows of example keys are there")

    def dense(self) -> bytes | None:
        """See Backend."""
        parts = self.published and self.published.dense
        return self._parts(extras.DENSE, parts) if isinstance(parts, Parts) else None

    def dense_values(self) -> DenseValues | None:
        """See Backend."""
        parts = self.published and self.published.values
        return DenseValues(parts.version, self._parts(extras.VALUES, parts)) if isinstance(parts, Parts) else None

    def changed(self, shard: int, since_epoch: int) -> Changed | None:
        """See Backend."""
        published = self.published
        if published is None:
            return None
        epoch = self._epoch(published, shard)
        complete = not published.horizons[shard] <= since_epoch <= epoch
        tables = self._everything(published, shard) if complete else self._since(published, shard, since_epoch)
        self._check_kept(published, shard, epoch if complete else since_epoch)
        return Changed(published.manifest, shard, complete, tables)

    def _parts(self, kind: bytes, parts: Parts) -> bytes:
        found = extras.parts(self._client, kind, parts)
        if found is None:
            raise self._gone("some parts of dense weights are not there")
        return found

    def _load(self, published: Published, shard: int) -> Iterator[Block]:
        epoch = self._epoch(published, shard)
        yield from Moment.of(published, shard).scan(self._client, _STREAMS)
        self._check_kept(published, shard, epoch)

    def _since(self, published: Published, shard: int, since: int) -> dict[str, Change]:
        touched: dict[str, list[Keys]] = {}
        until = published.manifest.epochs[shard]
        for some in history.read(self._client, len(published.layouts) - 1, shard, since, until):
            if is_published(some.delta, published):
                touched.setdefault(some.table, []).extend((some.written, some.deleted))
        moment = Moment.of(published, shard)
        return {table: moment.get(self._client, table, _union(ids)) for table, ids in sorted(touched.items())}

    def _everything(self, published: Published, shard: int) -> dict[str, Change]:
        by_table: dict[str, list[Change]] = {}
        for block in Moment.of(published, shard).scan(self._client, _STREAMS):
            by_table.setdefault(block.table, []).append(Change(block.keys, block.rows, block.keys[:0]))
        return {table: merge(changes) for table, changes in sorted(by_table.items())}

    def _epoch(self, published: Published, shard: int) -> int:
        if not 0 <= shard < published.shards:
            raise BackendError(f"{self._client.address.uri}: there is no shard {shard}: it has {published.shards}")
        return published.manifest.epochs[shard]

    def _check_kept(self, published: Published, shard: int, epoch: int) -> None:
        """BackendError unless all that was to be read as of this epoch was there to the end."""
        now = self._latest()
        first, end = prefixes_of_shard(shard, published.shards)
        if now is None or any(
            now.horizons[other] > epoch
            for other in range(now.shards)
            if (span := prefixes_of_shard(other, now.shards))[0] < end and first < span[1]
        ):
            raise self._gone(f"epoch {epoch} of shard {shard} was trimmed while it was read")

    def _gone(self, what: str) -> BackendError:
        return GoneError(f"{self._client.address.uri}: {what}: read again, as of a newer commit")


class Held(Committed):
    """With example keys and dense weights in memory: their rows are kept for fewer commits than parameters."""

    def __init__(self, client: Client, published: Published | None, latest: Callable[[], Published | None]) -> None:
        super().__init__(client, published, latest)
        self._held = list(super().seen()), super().dense(), super().dense_values()

    def seen(self) -> Iterator[SeenKeys]:
        """See Backend."""
        return iter(self._held[0])

    def dense(self) -> bytes | None:
        """See Backend."""
        return self._held[1]

    def dense_values(self) -> DenseValues | None:
        """See Backend."""
        return self._held[2]


class GoneError(BackendError):
    """What was to be read is of a commit that is too old by now; or, if it is the last one, damaged."""


def is_published(delta: Delta, published: Published | None) -> bool:
    """Whether what a delta says has ever been true."""
    if published is None or delta.layout >= len(published.layouts):
        return False
    if delta.shard >= published.layouts[delta.layout]:
        return False  # of an attempt at a first commit with another number of shards
    first, _ = prefixes_of_shard(delta.shard, published.layouts[delta.layout])
    return published.is_published(delta.stamp, first)


def _union(ids: Sequence[Keys]) -> Keys:
    return np.unique(np.concatenate(ids))
