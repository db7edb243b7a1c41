"""Shard servers for tests: in this process, where clocks and failures are at hand, and as processes of their own.

``python -m tests.store.servers SECONDS OPTION...`` is one of a store in Bigtable whose leases last so long.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from monobeam.store import server
from monobeam.store.backend import AwayError, Backend
from monobeam.store.connection import Connection
from monobeam.store.flight_store import FlightStore
from monobeam.store.shard_server import Ownership, ShardServer
from monobeam.store.spec import StoreSpec

PATIENCE_S = 60.0
IMPATIENT = 0.3, 1.0  # seconds between signs of life, and for one
ROOT = Path(__file__).parents[2]


class Served:
    """A server in this process, which owns its shards when ``step`` lets it."""

    def __init__(self, backend: Backend, shards: Sequence[int], secret: str | None = None, sync: str = "") -> None:
        self.server = ShardServer("grpc://127.0.0.1:0", secret)
        self.uri = f"flight://127.0.0.1:{self.server.port}"
        self.ownership = Ownership(self.server, backend, shards, self.uri, sync=sync)
        self.ownership.step(0.0)

    def close(self) -> None:
        """Give the shards back; callers must have ended."""
        self.ownership.close()
        self.server.shutdown()


@contextmanager
def served(backend: Backend, shards: Sequence[int], secret: str | None = None) -> Iterator[Served]:
    """A server in this process."""
    here = Served(backend, shards, secret)
    try:
        yield here
    finally:
        here.close()


class Process:
    """A server as a process of its own; its address when it is ready."""

    def __init__(
        self,
        shards: str,
        store: str,
        *options: str,
        port: int = 0,
        environment: Mapping[str, str] | None = None,
        module: Sequence[str] = ("monobeam.store.server",),
    ) -> None:
        listen = f"--listen=grpc://127.0.0.1:{port}"
        self.popen = subprocess.Popen(
            [sys.executable, "-m", *module, f"--shards={shards}", f"--store={store}", listen, *options],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )

    def ready(self) -> str:
        """Its address, once it owns its shards."""
        assert self.popen.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.popen.stdout, selectors.EVENT_READ)
            address = self.popen.stdout.readline().strip() if selector.select(PATIENCE_S) else ""
        assert address, self.said()
        return address

    def complaint(self) -> str:
        """The next line that it complains with."""
        assert self.popen.stderr is not None
        return self.popen.stderr.readline()

    def said(self) -> str:
        """What it complained of, after its end."""
        self.popen.kill()
        assert self.popen.stderr is not None
        return self.popen.stderr.read()

    def kill(self) -> None:
        """SIGKILL."""
        self.popen.kill()
        self.popen.wait()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for stream in (self.popen.stdout, self.popen.stderr):
            assert stream is not None
            stream.close()


def patiently(spec: StoreSpec, uri: str) -> FlightStore:
    """The store, once its servers let it be opened."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return FlightStore(spec, uri)
        except AwayError:
            assert time.monotonic() < deadline, f"waited {PATIENCE_S} s in vain"
            time.sleep(0.1)


if __name__ == "__main__":
    from monobeam.store.bigtable import BigtableBackend

    Connection.PULSE_S, Connection.PATIENCE_S = IMPATIENT
    os._exit(server.main(sys.argv[2:], lambda uri: BigtableBackend(uri, lease_s=float(sys.argv[1]))))
