"""Whether a store holds what a store must: every row readable, in its shard, once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from monobeam.store import dense
from monobeam.store.backend import BackendError, Block
from monobeam.store.bags import Keys, shard_of
from monobeam.store.changes import updates_of
from monobeam.store.manifest import Manifest
from monobeam.store.storage import Committed, Storage

_ROW_END = 16  # bytes of a row after its floats: last seen, zero, number of updates
_NAMED = 5


@dataclass(frozen=True)
class Report:
    """What was looked at, and every fault that was found; ``updates``: of all rows together."""

    rows: int
    updates: int
    example_keys: int
    faults: tuple[str, ...]


def check(storage: Storage) -> Report:
    """Look at everything that the last commit left."""
    faults = dict.fromkeys(storage.faults())  # in order, each once: damage is met again by who reads the rows
    look = _Look()
    with storage.last_commit() as last:
        faults.update(dict.fromkeys(look.at(last)))
    return Report(look.rows, look.updates, look.example_keys, tuple(faults))


class _Look:
    def __init__(self) -> None:
        self.rows = 0
        self.updates = 0
        self.example_keys = 0

    def at(self, last: Committed) -> Iterator[str]:
        manifest = last.manifest()
        if manifest is None:
            return
        if manifest.fingerprint["shards"] != len(manifest.epochs):
            yield f"manifest: {len(manifest.epochs)} epochs of {manifest.fingerprint['shards']} shards"
        for shard in range(len(manifest.epochs)):
            yield from _or_why_not(self._shard(last, manifest, shard), f"shard {shard}")
        yield from _or_why_not(self._seen(last), "example keys")
        yield from _or_why_not(_dense(last), "dense weights")

    def _shard(self, last: Committed, manifest: Manifest, shard: int) -> Iterator[str]:
        tables: Mapping[str, Mapping[str, int]] = manifest.fingerprint["tables"]
        ids: defaultdict[str, list[Keys]] = defaultdict(list)
        widths: dict[str, int] = {}
        for block in last.load(shard).blocks:
            self.rows += len(block.keys)
            self.updates += int(updates_of(block.rows).sum())
            ids[block.table].append(block.keys)
            yield from _misplaced(block, shard, len(manifest.epochs))
            least, width = 4 * int(tables[block.table]["dim"]) + _ROW_END, block.rows.shape[1]
            if width < least or width != widths.setdefault(block.table, width):
                needed = f"others have {widths[block.table]}" if block.table in widths else f"{least} are needed"
                yield f"shard {shard}, table {block.table!r}: rows of {width} bytes, where {needed}"
        for table, keys in ids.items():
            found, counts = np.unique(np.concatenate(keys), return_counts=True)
            if (counts > 1).any():
                yield f"shard {shard}, table {table!r}: {_some(found[counts > 1])} more than once"

    def _seen(self, last: Committed) -> Iterator[str]:
        for block in last.seen():
            self.example_keys += len(block.keys)
        yield from ()


def _misplaced(block: Block, shard: int, shards: int) -> Iterator[str]:
    elsewhere = block.keys[shard_of(block.keys, shards) != shard]
    if len(elsewhere):
        yield f"shard {shard}, table {block.table!r}: {_some(elsewhere)} of other shards"


def _dense(last: Committed) -> Iterator[str]:
    values = last.dense_values()
    for name, array in ({} if values is None else dense.decode(values.values)).items():
        if not np.isfinite(array).all():
            yield f"dense weights: {name} is not finite"


def _or_why_not(faults: Iterator[str], what: str) -> Iterator[str]:
    """The faults that are found, and what ended the search early."""
    try:
        yield from faults
    except BackendError as error:
        yield str(error)
    except ValueError as error:
        yield f"{what}: {error}"
    except LookupError as error:
        yield f"{what}: something that the manifest does not name: {error}"


def _some(ids: Keys) -> str:
    named = ", ".join(f"{key:#x}" for key in ids[:_NAMED].tolist())
    return f"{len(ids)} ids ({named}{', ...' if len(ids) > _NAMED else ''})"
