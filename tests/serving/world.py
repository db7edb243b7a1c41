"""What a server lives in: a store that a real trainer writes, its logs, and the server's process."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from monobeam.logs.log import Appender, open_log
from monobeam.models.config import Config, parse
from monobeam.models.trainer import Trainer
from monobeam.models.window import Metrics
from monobeam.native import Table
from monobeam.store.backend import Backend, open_backend
from monobeam.store.changes import values_of
from monobeam.store.store import Store
from monobeam.store.sync import SYNC, SyncEvent
from tests.models.streams import block

CONFIG = """
[store]
shards = 2
dense_sync_every = "1ms"
[join]
window = "1s"
negative_rate = 0.5
[[labels]]
name = "like"
action = "like"
[[slots]]
feature = "user_id"
[[slots]]
feature = "country"
[[slots]]
feature = "item_id"
expire = "1h"
[[slots]]
feature = "tags"
[[slots]]
features = ["country", "item_id"]
[[numerics]]
feature = "age"
[[numerics]]
feature = "price"
transform = "log1p"
[model]
name = "test"
label = "like"
dim = 4
hidden = [8]
[training]
"""
RATE = 0.5
COUNTRIES, TAGS = ("de", "fr", "it"), ("a", "b", "c", "d", "e")
START_S = 1_700_000_000


def features(seed: int, rows: int) -> dict[str, list[Any]]:
    """Columns of features for every slot and numeric of CONFIG, some of them null."""
    rng = np.random.default_rng(seed)
    return {
        "user_id": rng.integers(0, 50, rows).tolist(),
        "country": [COUNTRIES[i] if i < 3 else None for i in rng.integers(0, 4, rows)],
        "item_id": rng.integers(0, 200, rows).tolist(),
        "tags": [[TAGS[i] for i in rng.integers(0, 5, n)] for n in rng.integers(0, 4, rows)],
        "age": rng.integers(18, 80, rows).astype(float).tolist(),
        "price": rng.uniform(0, 10, rows).tolist(),
    }


def request(seed: int, candidates: int = 10, **more: Any) -> dict[str, Any]:
    """A valid request about one user and some items."""
    columns = features(seed, candidates)
    user = {name: columns[name][0] for name in ("user_id", "country", "age")}
    items = [{name: columns[name][row] for name in ("item_id", "tags", "price")} for row in range(candidates)]
    return {"features": user, "candidates": items, **more}


class World:
    """A folder with a configuration, a store, a trainer and logs."""

    def __init__(self, folder: Path, config: str = CONFIG) -> None:
        self.folder = folder
        self.config: Config = parse(config)
        self.config_file = folder / "model.toml"
        self.config_file.write_text(config)
        self.store = Store(self.config.store_spec(), open_backend(self.uri("store")))
        self.trainer = Trainer(self.config, self.store)
        self.sync: Appender = open_log(self.uri("sync"), partitions=1).appender(0, SYNC)
        self._by_shard: dict[int, Appender] = {}
        self._offset = 0
        self.metrics = Metrics(values={}, arrays={})  # of the last commit

    def uri(self, name: str) -> str:
        """The address of the store or of a log."""
        return f"{'lmdb' if name == 'store' else 'file'}:{self.folder / name}"

    def backend(self) -> Backend:
        """The store, opened for reading."""
        return open_backend(self.uri("store"))

    def commit(self, seed: int, rows: int = 60, later_s: int = 0, partition: int = 0) -> list[SyncEvent]:
        """Train one block, made from the seed and decided so much later than others, and commit it."""
        columns = features(seed, rows)
        labels = (np.asarray(columns["item_id"]) % 3 == 0).astype(np.float32)
        first_key = 1 + seed * 10_000 + later_s * 1000
        self.trainer.train(block(labels, columns, first_key, rate=RATE), partition, self._offset)
        self._offset += 1
        events, self.metrics = self.trainer.commit(time.time_ns() // 1000)
        return events

    def publish(self, events: Sequence[SyncEvent]) -> None:
        """Append events to the sync log."""
        if not (self.folder / "sync").exists():
            self.sync = open_log(self.uri("sync"), partitions=1).appender(0, SYNC)
        self.sync.append([event.to_record() for event in events])

    def publish_by_shard(self, events: Sequence[SyncEvent]) -> None:
        """Append events to the partitions of their shards, as a pipeline does, in a sync log of its own."""
        for event in events:
            if event.shard not in self._by_shard:
                self._by_shard[event.shard] = open_log(self.uri("sync_by_shard")).appender(event.shard, SYNC)
            self._by_shard[event.shard].append([event.to_record()])

    def delete_sync(self) -> None:
        """Delete the sync log; the next ``publish`` begins it anew, folder and first record at once, as jobs do."""
        self.sync.close()
        shutil.rmtree(self.folder / "sync")

    def reopen(self, shards: int, reshard: Callable[[], None]) -> None:
        """End the trainer, let the store be cut anew, and start it with a configuration that says so."""
        self.store.close()
        reshard()
        self.config = replace(self.config, store=replace(self.config.store, shards=shards))
        self.store = Store(self.config.store_spec(), open_backend(self.uri("store")))
        self.trainer = Trainer(self.config, self.store)
        self._offset = self.trainer.positions.get(0, 0)

    def step(self, seed: int, rows: int = 60) -> None:
        """Train, commit, publish."""
        self.publish(self.commit(seed, rows))

    def expected(self, asked: Mapping[str, Any]) -> npt.NDArray[np.float64]:
        """The trainer's own opinion of a request: probabilities by candidate."""
        rows = [{**asked["features"], **candidate} for candidate in asked["candidates"]]
        logits = self.trainer.score(pa.RecordBatch.from_pylist(rows)).astype(np.float64) + np.log(RATE)
        return 1 / (1 + np.exp(-logits))

    def close(self) -> None:
        """Give everything back."""
        for appender in (self.sync, *self._by_shard.values()):
            appender.close()
        self.store.close()


def rows_of(table: Table) -> dict[int, bytes]:
    """Every row of a table as bytes, by fid."""
    keys = table.keys()
    return {int(key): row.tobytes() for key, row in zip(keys, table.lookup(keys)[0], strict=True)}


def rows_in(backend: Backend, shards: int, dim: int) -> dict[int, bytes]:
    """Every embedding that a store's last commit holds, by fid."""
    found: dict[int, bytes] = {}
    for shard in range(shards):
        for part in backend.load(shard).blocks:
            values = np.ascontiguousarray(values_of(part.rows, dim))
            found |= {int(key): row.tobytes() for key, row in zip(part.keys, values, strict=True)}
    return found


class ServerProcess:
    """A running server and a client for it."""

    def __init__(self, world: World, *options: str) -> None:
        command = [sys.executable, "-m", "monobeam.serving", f"--config={world.config_file}", "--port=0"]
        command += [f"--{name}={world.uri(name)}" for name in ("store", "sync", "served", "metrics")]
        self.log_file = world.folder / "server.log"
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("serving on http://127.0.0.1:"), line + self.log_file.read_text()
        self.url = line.split()[-1]
        self.client = httpx.Client(base_url=self.url, timeout=20)

    def rank(self, asked: object) -> httpx.Response:
        """Post a request; bytes go as they are."""
        content = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
        return self.client.post("/rank", content=content)

    def scores(self, asked: Mapping[str, Any]) -> npt.NDArray[np.float64]:
        """The answer's scores by candidate."""
        answer = self.rank(asked)
        assert answer.status_code == 200, answer.text
        by_index = {result["index"]: result["score"] for result in answer.json()["results"]}
        return np.array([by_index[index] for index in range(len(asked["candidates"]))])

    def stats(self) -> Any:
        """The figures of the page."""
        return self.client.get("/stats.json").json()

    def until(self, holds: Callable[[], bool], what: str) -> None:
        """Wait until it holds."""
        deadline = time.monotonic() + 15
        while not holds():
            assert time.monotonic() < deadline, f"{what} did not come: {self.stats()}\n{self.log_file.read_text()}"
            time.sleep(0.02)

    def until_epoch(self, world: World) -> None:
        """Wait until the server is where the store is."""
        self.until(lambda: self.client.get("/ready").json()["epoch"] == min(world.store.epochs), "the store's epoch")

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End the process; its exit status."""
        self.client.close()
        self.process.send_signal(how)
        status = self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status


@contextlib.contextmanager
def running(world: World, *options: str) -> Iterator[ServerProcess]:
    """A server that ends with the block, whatever happens in it."""
    server = ServerProcess(world, *options)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(server.process.pid, signal.SIGKILL)
            server.process.wait()
        server.client.close()
        if server.process.stdout is not None:
            server.process.stdout.close()
