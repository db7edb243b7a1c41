"""A deployment: logs, a store, and the processes around them, for the length of a round."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

from benchmarks._faults.archive import USERS, Archive
from benchmarks._faults.deployment import SERVING, Deployment
from benchmarks._faults.keeper import Keeper, Role
from benchmarks._faults.nursery import Nursery
from benchmarks._faults.plan import Plan
from benchmarks._faults.relay import Relay
from benchmarks._faults.visitors import Visitors, ask
from monobeam.models.config import Config, parse
from monobeam.store.backend import Backend, open_backend
from monobeam.store.bigtable import create, drop
from monobeam.store.manifest import Manifest

PATIENCE_S = 60.0
GROW_EVERY_S = 0.05


class World:
    """Everything that runs and lies about in a round. ``begin`` and ``end`` it."""

    def __init__(self, plan: Plan, nursery: Nursery, folder: Path, emulator: str, prism: str) -> None:
        self.plan = plan
        self.folder = folder
        (folder / "model.toml").write_text(plan.config)
        self.config: Config = parse(plan.config)
        self.deployment = Deployment.of(plan, folder, emulator, prism)
        self.ports = {name: self.deployment.ports[name] for name in SERVING}
        self.archive = Archive(self.deployment.log("examples"), self.config, plan.seed)
        self.relayed = self.deployment.log("relayed")
        self.relay = Relay(self.deployment.log("sync"), self.relayed, plan.shards)
        self.trainer = self.deployment.trainer()
        if plan.runner != "prism":  # a bounded run, started again when there is more
            self.trainer.wanted = lambda: not self.is_trained()
        self.serving, self.servers = list(self.deployment.serving()), list(self.deployment.servers())
        proxies = list(self.deployment.proxies())
        self.keeper = Keeper(nursery, [*proxies, *self.servers, self.trainer, *self.serving])
        self.visitors = Visitors(list(self.ports.values()), self.request)
        self._backend: Backend | None = None
        self._growing = threading.Event()
        self._ended = threading.Event()
        self._grower = threading.Thread(target=self._grow, name="grower", daemon=True)

    def begin(self) -> None:
        """Start everything; back when the first commit is served and visitors come."""
        if self.plan.store == "bigtable":
            create(self.deployment.store)
        self.archive.grow()
        self.keeper.start()
        self.wait("a first commit to be served", lambda: all(self.epoch_of(name) > 0 for name in SERVING))
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
        if self.plan.store == "bigtable":
            drop(self.deployment.store)

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
        return open_backend(self.deployment.store)

    def manifest(self) -> Manifest | None:
        """What the last commit says."""
        return self.backend.manifest()

    def owner(self) -> Role:
        """The process that writes an embedded store, as far as that can be seen."""
        return next((role for role in self.servers if role.child is not None and role.child.has_said), self.trainer)

    def is_trained(self) -> bool:
        """Whether the store includes the whole archive, and its dense weights are published."""
        manifest = self.manifest()
        return (
            manifest is not None
            and {number: offset for number, offset in manifest.positions.items() if offset} == self.archive.ends
            and not manifest.meta["dense_waits"]
        )

    def epoch_of(self, server: str) -> int:
        """The epoch that a server answers from; -1 where it does not answer, or is still reading the store."""
        with suppress(OSError, HTTPException, ValueError, KeyError):
            status, said = ask(self.ports[server], "GET", "/ready")
            return int(json.loads(said)["epoch"]) if status == 200 else -1
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

    def _grow(self) -> None:
        while not self._ended.wait(GROW_EVERY_S):
            if self._growing.wait() and not self._ended.is_set():
                self.archive.grow()
