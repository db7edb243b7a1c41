"""Copying an LMDB store as a whole while it is written, so that the copy is there entirely or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from monobeam.store.backend import BackendError
from monobeam.store.lmdb import LmdbBackend

_DRAFT = "unfinished-"


def copy(store: LmdbBackend, place: Path | None) -> str:
    """Copy the last commit to a directory (None: where its snapshot belongs, once); the address of the copy."""
    if store.manifest() is None:
        raise BackendError(f"{store.uri}: holds no commit yet")
    if place is not None and (place / "data.mdb").exists():
        raise BackendError(f"lmdb:{place}: holds a store already; choose another place, or remove it")
    try:
        with draft_in(folder_of(store) if place is None else place.parent) as draft:
            store.copy(draft)
            epoch = _epoch(draft)
            target = Path(store.snapshot_uri(epoch).removeprefix("lmdb:")) if place is None else place
            if place is not None or not target.exists():
                draft.rename(target)
            return f"lmdb:{target}"
    except BackendError:
        raise
    except OSError as error:
        raise BackendError(f"{store.uri}: cannot be copied: {error}") from error


def folder_of(store: LmdbBackend) -> Path:
    """Where the snapshots of a store are."""
    return Path(store.snapshot_uri(0).removeprefix("lmdb:")).parent


def _epoch(directory: Path) -> int:
    copied = LmdbBackend(directory)
    try:
        manifest = copied.manifest()
    finally:
        copied.close()
    assert manifest is not None
    return max(manifest.epochs)


@contextmanager
def draft_in(folder: Path) -> Iterator[Path]:
    """A directory to write to, which goes unless it was renamed; those of processes that were killed go first."""
    folder.mkdir(parents=True, exist_ok=True)
    for draft in folder.glob(f"{_DRAFT}*"):
        with _locked(draft) as dead:
            if dead:
                shutil.rmtree(draft)
    draft = folder / f"{_DRAFT}{os.getpid()}"
    draft.mkdir()
    with _locked(draft):
        try:
            yield draft
        finally:
            shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def _locked(draft: Path) -> Iterator[bool]:
    """Hold the draft's lock, if nobody else does."""
    descriptor = os.open(draft / "owner", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)
