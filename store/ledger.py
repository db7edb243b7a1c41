"""What is one for all shards of a store: positions, example keys, the trainer's bytes, and the next commit of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from monobeam.store.backend import Backend, Commit, ShardCommit
from monobeam.store.bags import Keys
from monobeam.store.manifest import Manifest
from monobeam.store.room import TableRoom
from monobeam.store.seen import SeenExamples
from monobeam.store.spec import StoreSpec, check_fingerprint

PARTITIONS = "partitions"


class Ledger:
    """As of the last commit, and what came to it since: example keys, ended blocks."""

    def __init__(self, spec: StoreSpec, room: TableRoom) -> None:
        self.manifest = Manifest(spec.fingerprint(), (0,) * spec.shards, {}, 0, 0)
        self.dense: bytes | None = None
        self._seen = SeenExamples(spec.example_retention_us, room)
        self._positions: dict[int, int] = {}
        self._meta: dict[str, Any] = {}

    def load(self, backend: Backend) -> None:
        """Take over the last commit; SpecError where it is of another store."""
        stored = backend.manifest()
        if stored is None:
            return
        check_fingerprint(backend.uri, stored.fingerprint, self.manifest.fingerprint)
        for seen in backend.seen():
            self._seen.restore(seen)
        self.dense = backend.dense()
        self.manifest = stored
        self._meta = dict(stored.meta.get(PARTITIONS, {}))

    @property
    def memory_bytes(self) -> int:
        """Bytes held by example keys."""
        return self._seen.memory_bytes

    def position(self, partition: int) -> int:
        """The next offset to train on, blocks included that are not yet committed."""
        return self._positions.get(partition, self.manifest.positions.get(partition, 0))

    def ended(self, partition: int, position: int, meta: Mapping[str, Any]) -> None:
        """A block was trained on; ``position`` is the next offset, ``meta`` (if any) what its trainer says there."""
        self._positions[partition] = position
        if meta:
            self._meta[str(partition)] = dict(meta)

    def unseen(self, example_keys: Keys, now_s: int) -> npt.NDArray[np.bool_]:
        """Which examples, bool[n], were not trained on before; marks them as seen."""
        return self._seen.mark(example_keys, now_s)

    def expire(self, now_s: int, budget: int) -> None:
        """Forget example keys that are too old, in up to ``budget`` buckets."""
        self._seen.expire(now_s, budget)

    def next(self, positions: Mapping[int, int], publishes: bool, now_us: int, meta: Mapping[str, Any]) -> Manifest:
        """The manifest of the next commit."""
        before = self.manifest
        given = {int(partition): int(offset) for partition, offset in positions.items()}
        return Manifest(
            fingerprint=before.fingerprint,
            epochs=tuple(max(epoch + 1, now_us // 1000) for epoch in before.epochs),
            positions={**before.positions, **self._positions, **given},
            dense_version=before.dense_version + publishes,
            time_us=now_us,
            meta={**meta, PARTITIONS: dict(self._meta)} if self._meta else dict(meta),
        )

    def commit(
        self, manifest: Manifest, shards: Sequence[ShardCommit], dense: bytes | None, dense_values: bytes | None
    ) -> Commit:
        """The commit that makes the manifest true."""
        return Commit(manifest, shards, self._seen.new(), self._seen.forget_s, dense, dense_values)

    def committed(self, commit: Commit) -> None:
        """The commit is durable."""
        self.manifest = commit.manifest
        self.dense = self.dense if commit.dense is None else commit.dense
        self._seen.committed()
        self._positions.clear()
