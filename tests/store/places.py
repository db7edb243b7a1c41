"""Places for stores of every kind of backend."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

from monobeam.store.lmdb import LmdbBackend
from monobeam.store.memory import MemoryBackend
from monobeam.store.storage import Storage

Opener = Callable[[], Storage]
_numbers = itertools.count()


def memory_place(_: Path) -> Opener:
    name = f"contract-{next(_numbers)}"
    return lambda: MemoryBackend(name, keep_epochs=8, fold_bytes=1 << 14)


def lmdb_place(directory: Path) -> Opener:
    place = directory / f"store-{next(_numbers)}"
    return lambda: LmdbBackend(place, keep_epochs=8, fold_bytes=1 << 14, durable=False, step_bytes=1 << 12)


PLACES = {"memory": memory_place, "lmdb": lmdb_place}
