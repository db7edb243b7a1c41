"""Latency of ``/rank`` with 100 candidates over HTTP, alone and while sync events are applied; the bare forward pass.

A real server process on the loopback interface, one keep-alive connection, one request at a time; the best 20 are shown
and logged. The sync log gets 10 events a second of 500 rows each, with dense weights. The last line is JSON.

    python -m benchmarks.serving [--seconds 15] [--rows 200000]
"""

from __future__ import annotations

import argparse
import http.client
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from monobeam.logs.log import open_log
from monobeam.models.config import Config, parse
from monobeam.models.deepfm import build
from monobeam.models.features import HASH_SEED
from monobeam.models.tails import TABLE
from monobeam.native import hash_ints
from monobeam.store import dense
from monobeam.store.spec import SLOT_SHIFT
from monobeam.store.sync import SYNC, SyncEvent, TableChange

CANDIDATES, SHOWN = 100, 20
EVENTS_PER_S = 10
EVENT_ROWS = 500
USER_FEATURES = ("user_id", "age_decade", "occupation")
ITEM_FEATURES = ("item_id", "year", "publisher", "genre", "hour")
FEATURES = (*USER_FEATURES, *ITEM_FEATURES)
USERS, ITEMS, OTHERS = 100_000, 100_000, 50
CONFIG = """
[join]
window = "1s"
[[labels]]
name = "like"
action = "like"
{slots}
[model]
name = "bench"
label = "like"
dim = 10
hidden = [64, 64]
[training]
"""


class Events:
    """Sync events with random values for ids that requests ask for."""

    def __init__(self, config: Config) -> None:
        self._random = np.random.default_rng(1)
        self._dense = dense.encode({name: value.numpy() for name, value in build(config).state_dict().items()})
        self._dim = 1 + config.model.dim
        self._epoch = 0

    def next(self, keys: npt.NDArray[np.uint64]) -> SyncEvent:
        """An event that follows the one before."""
        values = self._random.normal(0, 0.1, (len(keys), self._dim)).astype(np.float32)
        previous, self._epoch = self._epoch, self._epoch + 1
        change = TableChange(keys, values, keys[:0])
        now_us = time.time_ns() // 1000
        arrivals = np.full(50, now_us, np.int64)
        return SyncEvent("bench", 0, self._epoch, previous, now_us, {TABLE: change}, self._epoch, self._dense, arrivals)

    def some(self) -> SyncEvent:
        """An event of as many rows as a commit of a tenth of a second has."""
        slots = self._random.integers(0, len(FEATURES), EVENT_ROWS)
        values = self._random.integers(0, USERS, EVENT_ROWS)
        keys = np.concatenate([fids(slot, values[slots == slot]) for slot in range(len(FEATURES))])
        return self.next(np.unique(keys))


def fids(slot: int, values: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """The ids of integers in a slot, by place."""
    hashes = hash_ints(np.ascontiguousarray(values, np.int64), HASH_SEED)
    return (hashes & np.uint64(2**SLOT_SHIFT - 1)) | np.uint64((slot + 1) << SLOT_SHIFT)


def bodies(count: int) -> list[bytes]:
    """Requests about random users and items."""
    random = np.random.default_rng(2)

    def values(names: Sequence[str]) -> dict[str, int]:
        return {name: int(random.integers(0, USERS if name.endswith("_id") else OTHERS)) for name in names}

    requests = (
        {
            "features": values(USER_FEATURES),
            "candidates": [values(ITEM_FEATURES) for _ in range(CANDIDATES)],
            "top_k": SHOWN,
        }
        for _ in range(count)
    )
    return [json.dumps(request).encode() for request in requests]


def measure(address: str, asked: Sequence[bytes], seconds: float) -> npt.NDArray[np.float64]:
    """Milliseconds of requests, one after the other for so long; a few before do not count."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"))
    times = list[float]()
    end = time.perf_counter() + seconds
    while (started := time.perf_counter()) < end:
        connection.request("POST", "/rank", asked[len(times) % len(asked)])
        answer = connection.getresponse()
        body = answer.read()
        times.append((time.perf_counter() - started) * 1e3)
        if answer.status != 200:
            raise RuntimeError(f"status {answer.status}: {body[:200]!r}")
        time.sleep(0.002)  # a client that thinks; without it the server would never be idle, and this were throughput
    return np.array(times[50:])


def bare_forward_ms(config: Config) -> float:
    """The median of the model's forward pass alone, on one thread of this process."""
    torch.set_num_threads(1)
    module = build(config).eval()
    pooled = torch.randn(len(FEATURES), CANDIDATES, 1 + config.model.dim)
    numeric = torch.zeros(CANDIDATES, 0)
    times = []
    with torch.inference_mode():
        for _ in range(1000):
            started = time.perf_counter()
            module(pooled, numeric)
            times.append((time.perf_counter() - started) * 1e3)
    return float(np.median(times))


@dataclass
class Publisher:
    """Appends events to the sync log from a thread, at a steady pace, until it is stopped."""

    appender: Any
    events: Events
    published: int = 0

    def __enter__(self) -> Publisher:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(1 / EVENTS_PER_S):
            self.appender.append([self.events.some().to_record()])
            self.published += 1


def run(folder: Path, rows: int, seconds: float) -> Mapping[str, float]:
    """All measurements in one server's life."""
    slots = "".join(f'[[slots]]\nfeature = "{name}"\n' for name in FEATURES)
    (folder / "model.toml").write_text(CONFIG.format(slots=slots))
    config = parse(CONFIG.format(slots=slots))
    events, asked = Events(config), bodies(200)
    with open_log(f"file:{folder / 'sync'}", partitions=1).appender(0, SYNC) as appender:
        options = [
            f"--config={folder / 'model.toml'}",
            f"--store=lmdb:{folder / 'store'}",
            f"--served=file:{folder / 'served'}",
        ]
        command = [sys.executable, "-m", "monobeam.serving", "--port=0", f"--sync=file:{folder / 'sync'}", *options]
        server = subprocess.Popen([*command, f"--metrics=file:{folder / 'metrics'}"], stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            address = server.stdout.readline().split()[-1]
            every = np.arange(rows // 2)
            appender.append([events.next(np.concatenate([fids(0, every), fids(3, every)])).to_record()])
            _until_epoch(address, 1)
            alone = measure(address, asked, seconds)
            with Publisher(appender, events) as publisher:
                during = measure(address, asked, seconds)
            applied = _until_epoch(address, publisher.published + 1)
        finally:
            server.terminate()
            server.wait()
    result = {"bare_forward_ms": bare_forward_ms(config), "requests": float(len(alone)), "events": float(applied - 1)}
    for name, times in (("", alone), ("_during_sync", during)):
        for percent in (50, 99):
            result[f"p{percent}{name}_ms"] = float(np.percentile(times, percent))
    return {name: round(value, 4) for name, value in result.items()}


def _until_epoch(address: str, epoch: int) -> int:
    """Wait until the server has applied that epoch."""
    deadline = time.monotonic() + 60
    connection = http.client.HTTPConnection(address.removeprefix("http://"))
    while True:
        connection.request("GET", "/ready")
        reached = int(json.loads(connection.getresponse().read())["epoch"])
        if reached >= epoch:
            return reached
        if time.monotonic() > deadline:
            raise RuntimeError(f"the server is at epoch {reached}; it should have come to {epoch}")
        time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--seconds", type=float, default=15.0, help="how long each of the two runs takes (default: %(default)s)"
    )
    parser.add_argument("--rows", type=int, default=200_000, help="rows in the table (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = run(Path(folder), options.rows, options.seconds)
    for name, value in result.items():
        sys.stdout.write(f"{name:24} {value:10.3f}\n")
    sys.stdout.write(f"{'during sync / alone':24} {result['p99_during_sync_ms'] / result['p99_ms']:10.3f}\n")
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
