"""A deployment: logs, a store, and the processes around them, for the length of a round."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from socket import socket

from benchmarks._faults.archive import USERS, Archive
from benchmarks._faults.keeper import Keeper, Role
from benchmarks._faults.nursery import Nursery
from benchmarks._faults.plan import Plan
from benchmarks._faults.relay import Relay
from benchmarks._faults.visitors import Visitors, ask
from monobeam.models.config import Config, parse
from monobeam.store.backend import Backend, open_backend
from monobeam.store.manifest import Manifest

SERVERS = ("serving0", "serving1")
PATIENCE_S = 60.0
GROW_EVERY_S = 0.02


class World:
    """Everything that runs and lies about in a round. ``begin`` and ``end`` it."""

    def __init__(self, plan: Plan, nursery: Nursery, folder: Path, prism: str) -> None:
        self.plan = plan
        self.folder = folder
        (folder / "model.toml").write_text(plan.config)
        self.config: Config = parse(plan.config)
        self.store = f"lmdb:{folder / 'store'}"
        self.archive = Archive(f"file:{folder / 'examples'}", self.config, plan.seed)
        self.relayed = f"file:{folder / 'relayed'}"
        self.relay = Relay(f"file:{folder / 'sync'}", self.relayed, plan.shards)
        self.ports = dict(zip(SERVERS, free_ports(len(SERVERS)), strict=True))
        self.trainer = self._trainer(prism)
        self.serving = [self._server(name) for name in SERVERS]
        self.keeper = Keeper(nursery, [self.trainer, *self.serving])
        self.visitors = Visitors(list(self.ports.values()), self.request)
        self._backend: Backend | None = None
        self._growing = threading.Event()
        self._ended = threading.Event()
        self._grower = threading.Thread(target=self._grow, name="grower", daemon=True)

    def begin(self) -> None:
        """Start everything; back when the first commit is served and visitors come."""
        self.archive.grow()
        self.keeper.start()
        self.wait("a first commit to be served", lambda: all(self.epoch_of(name) > 0 for name in SERVERS))
        self.visitors.start()
        self._grower.start()

    def end(self) -> None:
        """Stop everything."""
        self._ended.set()
        self._growing.set()
        if self._grower.is_alive():
            self._grower.join()
            self.visitors.stop()
        self.keeper.stop()
        self.relay.close()
        self.archive.close()
        if self._backend is not None:
            self._backend.close()

    def grow(self, on: bool) -> None:
        """Whether the archive grows."""
        if on:
            self._growing.set()
        else:
            self._growing.clear()

    @property
    def backend(self) -> Backend:
        """The store, for reading."""
        if self._backend is None:
            self._backend = self.open_backend()
        return self._backend

    def open_backend(self) -> Backend:
        """The store, for another reader."""
        return open_backend(self.store)

    def manifest(self) -> Manifest | None:
        """What the last commit says."""
        return self.backend.manifest()

    def is_trained(self) -> bool:
        """Whether the store includes the whole archive, and its dense weights are published."""
        manifest = self.manifest()
        return (
            manifest is not None
            and {number: offset for number, offset in manifest.positions.items() if offset} == self.archive.ends
            and not manifest.meta["dense_waits"]
        )

    def epoch_of(self, server: str) -> int:
        """The epoch that a server answers from; -1 where it does not answer."""
        with suppress(OSError, HTTPException, ValueError, KeyError):
            return int(json.loads(ask(self.ports[server], "GET", "/ready")[1])["epoch"])
        return -1

    def request(self, number: int) -> bytes:
        """A user who is shown what is new."""
        items = self.archive.items[-20:]
        return self.body(number % USERS, items)

    def body(self, user: int, items: list[str]) -> bytes:
        """A request about one user and some items."""
        features = {"user": f"u{user}", "price": 0.5}
        candidates = [{"item": item, "tags": [f"t{number % 8}"]} for number, item in enumerate(items)]
        return json.dumps({"features": features, "candidates": candidates, "log": False}).encode()

    def wait(self, what: str, condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
        """Until the condition holds; TimeoutError where it does not."""
        deadline = time.monotonic() + patience_s
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {patience_s:g} s in vain for {what}")
            time.sleep(0.01)

    def _trainer(self, prism: str) -> Role:
        runner = []
        if self.plan.runner == "prism":
            runner = ["--runner=PrismRunner", "--streaming", f"--prism_location={prism}"]
        places = [f"--{name}=file:{self.folder / name}" for name in ("examples", "sync", "metrics")]
        options = [f"--config={self.folder / 'model.toml'}", f"--store={self.store}", *places, *runner]
        role = Role("trainer", "monobeam.pipelines.train", options, self.folder)
        if self.plan.runner != "prism":  # a bounded run, started again when there is more
            role.wanted = lambda: not self.is_trained()
        return role

    def _server(self, name: str) -> Role:
        places = [f"--store={self.store}", f"--sync={self.relayed}"]
        options = [f"--config={self.folder / 'model.toml'}", f"--port={self.ports[name]}", *places]
        return Role(name, "monobeam.serving", options, self.folder)

    def _grow(self) -> None:
        while not self._ended.wait(GROW_EVERY_S):
            if self._growing.wait() and not self._ended.is_set():
                self.archive.grow()


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses now, all different."""
    sockets = [socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()
