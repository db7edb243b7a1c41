"""The commands of ``python -m monobeam.store``: each acts on a store and says what it did."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from monobeam.store import snapshots, storage
from monobeam.store.backend import BackendError
from monobeam.store.check import check
from monobeam.store.manifest import Manifest
from monobeam.store.snapshots import Summary
from monobeam.store.storage import Progress, Storage


@dataclass(frozen=True)
class Figures:
    """Lines for people, and JSON values for scripts."""

    lines: list[str]
    values: Mapping[str, Any]


Command = Callable[[Storage, argparse.Namespace, Progress], Figures]


def create(store: Storage, options: argparse.Namespace, progress: Progress) -> Figures:
    """Make the place."""
    storage.create(store.uri)
    return Figures([f"{store.uri} is there"], {})


def show(store: Storage, options: argparse.Namespace, progress: Progress) -> Figures:
    """What the last commit made true."""
    with store.last_commit() as last:
        manifest = last.manifest()
        if manifest is None:
            return Figures([f"{store.uri} holds no commit yet"], {"epoch": None, "stored_bytes": store.stored_bytes()})
        found, keys = snapshots.summed(store.uri, last), sum(len(block.keys) for block in last.seen())
    lines = [
        _line(found),
        f"  model {manifest.fingerprint['model']}, tables {', '.join(manifest.fingerprint['tables'])}",
        f"  epochs {_listed(manifest.epochs)}, dense version {manifest.dense_version}",
        f"  trained up to {_positions(manifest)}",
        f"  {keys:,} example keys, {store.stored_bytes():,} bytes stored",
    ]
    more = {
        "epochs": manifest.epochs,
        "positions": manifest.positions,
        "dense_version": manifest.dense_version,
        "example_keys": keys,
        "stored_bytes": store.stored_bytes(),
        "fingerprint": manifest.fingerprint,
    }
    return Figures(lines, {**_values(found), **more})


def list_(store: Storage, options: argparse.Namespace, progress: Progress) -> Figures:
    """The store and its snapshots."""
    now, kept = snapshots.summary(store), list(snapshots.kept(store))
    lines = [f"{store.uri} holds no commit yet" if now is None else _line(now)]
    lines += [f"  {_line(found)}" for found in kept] or ["  no snapshots"]
    unfinished = sorted(store.snapshot_uris().keys() - {found.epoch for found in kept})
    lines += [f"  {store.snapshot_uri(epoch)}: unfinished; drop it, unless it is being written" for epoch in unfinished]
    values = {"current": None if now is None else _values(now), "snapshots": [*map(_values, kept)]}
    return Figures(lines, {**values, "unfinished": unfinished})


def keep(store: Storage, options: argparse.Namespace, progress: Progress) -> Figures:
    """Copy the last commit."""
    return _described(snapshots.keep(store, options.to, progress), "kept")


def restore(store: Storage, options: argparse.Namespace, progress: Progress) -> Figures:
    """Bring the store back to a snapshot."""
    uri = options.source or snapshots.snapshot_of(store, options.epoch)
    snapshot = storage.open_storage(uri)
    try:
        if snapshot.manifest() is None:
            raise BackendError(f"{uri}: holds no commit")
        store.own()
        manifest = snapshots.restore(store, snapshot, time.time_ns() // 1000)
    finally:
        snapshot.close()
    found = snapshots.summary(store)
    assert found is not None
    return Figures(
        [f"restored from {uri}: {_line(found)}", f"  training goes on from {_positions(manifest)}"],
        {"source": uri, **_values(found), "positions": manifest.positions},
    )


def check_(store: Storage, options: argparse.Namespace, progress: Progress) -> Figures:
    """Look for faults."""
    report = check(store)
    looked = f"{report.rows:,} rows, updated {report.updates:,} times; {report.example_keys:,} example keys"
    lines = [*report.faults, f"{looked}; {len(report.faults)} faults"]
    return Figures(lines, asdict(report))


def compact(store: Storage, options: argparse.Namespace, progress: Progress) -> Figures:
    """Free what is superseded."""
    _committed(store)
    store.own()
    store.compact(progress)
    return _described(store.uri, "compacted")


def reshard(store: Storage, options: argparse.Namespace, progress: Progress) -> Figures:
    """Cut the store anew."""
    before = len(_committed(store).epochs)
    store.own()
    store.reshard(options.shards, progress)
    figures = _described(store.uri, f"cut from {before} into {options.shards}")
    advice = f"  set shards = {options.shards} under [store] before you train it; servers need nothing"
    return Figures([*figures.lines, advice], {**figures.values, "shards_before": before})


def drop(store: Storage, options: argparse.Namespace, progress: Progress) -> Figures:
    """Remove a snapshot."""
    uri = snapshots.drop(store, options.epoch)
    return Figures([f"{uri} is gone"], {"epoch": options.epoch, "dropped": uri})


COMMANDS: Mapping[str, Command] = {
    "create": create,
    "show": show,
    "list": list_,
    "keep": keep,
    "restore": restore,
    "check": check_,
    "compact": compact,
    "reshard": reshard,
    "drop": drop,
}


def _committed(store: Storage) -> Manifest:
    manifest = store.manifest()
    if manifest is None:
        raise BackendError(f"{store.uri}: holds no commit yet")
    return manifest


def _described(uri: str, what: str) -> Figures:
    """The store at an address, as it is now."""
    store = storage.open_storage(uri)
    try:
        found = snapshots.summary(store)
    finally:
        store.close()
    assert found is not None
    return Figures([f"{what}: {_line(found)}"], _values(found))


def _line(found: Summary) -> str:
    shards = f"{found.shards} shard{'s' if found.shards > 1 else ''}"
    return f"{found.uri}: epoch {found.epoch}, {_when(found)}, {shards}, {found.rows:,} rows, {found.nbytes:,} bytes"


def _values(found: Summary) -> dict[str, Any]:
    return {
        "uri": found.uri,
        "epoch": found.epoch,
        "time": _when(found),
        "shards": found.shards,
        "rows": found.rows,
        "bytes": found.nbytes,
    }


def _when(found: Summary) -> str:
    return datetime.fromtimestamp(found.time_us / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _positions(manifest: Manifest) -> str:
    return _listed([f"offset {at} of partition {number}" for number, at in sorted(manifest.positions.items())])


def _listed(values: Iterable[object]) -> str:
    """Some values, or none."""
    return ", ".join(map(str, values)) or "none"
