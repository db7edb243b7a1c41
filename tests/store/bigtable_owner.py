"""Run as a program, with what to do and an address, this is another process that owns a store in Bigtable."""

from __future__ import annotations

import sys
import time

from monobeam.store.backend import BackendError
from monobeam.store.bigtable import BigtableBackend
from tests.store.history import commit

LEASE_S = 1.0


def opened(uri: str) -> BigtableBackend:
    """The store, owned, with a short lease."""
    backend = BigtableBackend(uri, lease_s=LEASE_S, keep_epochs=8)
    backend.own(address="somewhere:1")
    return backend


def write(uri: str) -> None:
    """Commit for ever, going on where the store stands."""
    backend = opened(uri)
    stored = backend.manifest()
    number = 0 if stored is None else stored.positions[0]
    while True:
        number += 1
        backend.commit(commit(number))
        print(number, flush=True)


def prepare(uri: str) -> None:
    """Commit once; prepare the next commit, say so, and publish it when told to."""
    backend = opened(uri)
    backend.commit(commit(1))
    backend.prepare(dict(enumerate(commit(2).shards)))
    print("prepared", flush=True)
    sys.stdin.readline()
    for attempt in (lambda: backend.publish(commit(2)), backend.check_owned, lambda: backend.commit(commit(9))):
        try:
            attempt()
            print("done", flush=True)
        except BackendError as error:
            print(type(error).__name__, error, flush=True)


def hold(uri: str) -> None:
    """Own it until killed."""
    opened(uri)
    print("owned", flush=True)
    time.sleep(3600)


if __name__ == "__main__":
    {"write": write, "prepare": prepare, "hold": hold}[sys.argv[1]](sys.argv[2])
