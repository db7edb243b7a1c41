"""What can be wrong with the values of an LMDB store: damage, strays, and sums that do not agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from monobeam.store import chunk
from monobeam.store.backend import BackendError
from monobeam.store.lmdb_contents import DENSE, DENSE_VALUES, LAYOUT, MANIFEST, SEEN, Contents, items, table_names
from monobeam.store.lmdb_reshard import RESHARDING, plan_in
from monobeam.store.manifest import Manifest
from monobeam.store.shard_log import epoch_of, place_of

_UNCHECKED = (MANIFEST, LAYOUT, RESHARDING, DENSE, DENSE_VALUES)


def faults(contents: Contents) -> Iterator[str]:
    """Every value looked at once: each fault with the key it is under."""
    manifest = contents.manifest()
    if manifest is None:
        yield from (f"value {key!r} in a store without a commit" for key, _ in items(contents.txn, b""))
        return
    sizes: Counter[tuple[int, bytes, int]] = Counter()
    for key, value in items(contents.txn, b""):
        if key[:1] in (b"B", b"D"):
            yield from _of_rows(contents, manifest, key, value)
            layout, shard = place_of(key)
            if layout == contents.layout() and shard < len(manifest.epochs):
                sizes[shard, key[:1], epoch_of(key)] += len(value)
        elif key[:1] == SEEN:
            yield from _decoded(key, value, chunk.decode_seen)
        elif key[:1] != b"S" and key[:1] not in _UNCHECKED:
            yield f"value {key!r}: of no kind that there is"
    for shard in range(len(manifest.epochs)):
        yield from _of_state(contents, shard, {of[1:]: size for of, size in sizes.items() if of[0] == shard})


def _of_rows(contents: Contents, manifest: Manifest, key: bytes, value: memoryview) -> Iterator[str]:
    (layout, shard), plan = place_of(key), plan_in(contents.txn)
    if layout != contents.layout():
        if plan is None or layout != plan.layout:
            yield f"value {key!r}: of layout {layout}, where {contents.layout()} is in use"
    elif shard >= len(manifest.epochs):
        yield f"value {key!r}: of shard {shard}, where there are {len(manifest.epochs)}"
    elif epoch_of(key) > manifest.epochs[shard]:
        yield f"value {key!r}: of epoch {epoch_of(key)}, where shard {shard} is at {manifest.epochs[shard]}"
    elif key[:1] == b"B" and epoch_of(key) < contents.log(shard).state().folded:
        yield f"value {key!r}: of a base that shard {shard} has no more"
    yield from _decoded(key, value, chunk.decode)
    tables = len(table_names(manifest))
    if (number := chunk.table_of(value)) >= tables:
        yield f"value {key!r}: of table {number}, where there are {tables}"


def _decoded(key: bytes, value: memoryview, decode: chunk.Decoder) -> Iterator[str]:
    try:
        decode(key, value)
    except BackendError as error:
        yield str(error)


def _of_state(contents: Contents, shard: int, sizes: dict[tuple[bytes, int], int]) -> Iterator[str]:
    state = contents.log(shard).state()
    base = sizes.get((b"B", state.folded), 0)
    deltas = sum(size for (kind, epoch), size in sizes.items() if kind == b"D" and epoch > state.folded)
    if (base, deltas) != (state.base_bytes, state.delta_bytes):
        yield (
            f"shard {shard}: {base} bytes of base and {deltas} of deltas, "
            f"where its state says {state.base_bytes} and {state.delta_bytes}"
        )
