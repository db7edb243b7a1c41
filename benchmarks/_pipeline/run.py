"""One job of a benchmark: its logs and stores, its commands, and how far it has come."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks._pipeline import traffic
from monobeam.logs.log import open_log, records
from monobeam.store.backend import open_backend
from monobeam.transforms import resources

WINDOW_US = 400_000
SHARDS = 2
PARTITIONS = 2
PATIENCE_S = 300.0
OWN_LOGS = ("examples", "sync", "dead_letters", "metrics")
SCHEMAS = {"impressions": traffic.IMPRESSIONS, "actions": traffic.ACTIONS}
CONFIG = """
[logs]
disorder = "50ms"
idle_after = "2s"
poll_every = "{poll}"
partitions = {partitions}
[store]
commit_every = "{commit}"
dense_sync_every = "{commit}"
[join]
window = "{window}us"
retention = "60s"
policy = "settled"
tick = "{tick}"
shards = {shards}
negative_rate = 0.2
[[labels]]
name = "click"
action = "click"
{slots}
[model]
name = "shop"
label = "click"
dim = 16
hidden = [64, 32]
"""


@dataclass(frozen=True)
class Pauses:
    """How long a job waits before it looks, decides, and commits: what freshness costs."""

    poll: str
    tick: str
    commit: str


class Run:
    """Logs at addresses that begin with ``logs`` (``kafka://HOST:PORT/NAME.`` or ``file:FOLDER/``)."""

    def __init__(self, folder: Path, logs: str, pauses: Pauses) -> None:
        self.folder, self._logs = folder, logs
        folder.mkdir(parents=True)
        slots = "\n".join(f'[[slots]]\nfeature = "{feature}"' for feature in traffic.FEATURES)
        shape = {"slots": slots, "shards": SHARDS, "partitions": PARTITIONS, "window": WINDOW_US}
        self.config = folder / "model.toml"
        self.config.write_text(CONFIG.format(**shape, **vars(pauses)))
        for name, schema in SCHEMAS.items():
            (folder / f"{name}.avsc").write_text(json.dumps(schema))
            _make(self.log(name), PARTITIONS)
        for name in OWN_LOGS:
            _make(self.log(name), SHARDS if name == "examples" else 1)
        self._read = 0
        self._last: dict[str, dict[str, float]] = {}

    @property
    def is_kafka(self) -> bool:
        """Whether its logs are topics."""
        return self._logs.startswith("kafka:")

    def log(self, name: str) -> str:
        """The address of a log."""
        schema = f"?schema={self.folder / name}.avsc" if self.is_kafka and name in SCHEMAS else ""
        return f"{self._logs}{name}{schema}"

    @property
    def store(self) -> str:
        """The address of the store."""
        return f"lmdb:{self.folder / 'store'}"

    def command(self, module: str, *options: str) -> list[str]:
        """Of a pipeline."""
        logs = [f"--{name}={self.log(name)}" for name in (*SCHEMAS, *OWN_LOGS)]
        places = [f"--store={self.store}", f"--cold=lmdb:{self.folder / 'cold'}", f"--config={self.config}"]
        return [sys.executable, "-m", f"monobeam.pipelines.{module}", *places, *logs, *options]

    def server(self) -> list[str]:
        """Of a server at a free port."""
        places = [f"--config={self.config}", f"--store={self.store}", f"--sync={self.log('sync')}", "--port=0"]
        return [sys.executable, "-m", "monobeam.serving", *places, f"--metrics={self.log('metrics')}"]

    @contextmanager
    def process(self, name: str, command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
        """A process, interrupted at the end; its output in ``NAME.log``."""
        with self.said(name).open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            yield process
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(PATIENCE_S)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def said(self, name: str) -> Path:
        """Where a process's output is."""
        return self.folder / f"{name}.log"

    def joined(self) -> Counter[str]:
        """The join's counters, as the metrics log has them now."""
        log = open_log(self.log("metrics"))
        while chunks := log.read(0, self._read, 10_000):
            for record in records(chunks):
                if record["component"] == "join":
                    self._last[record["key"]] = record["values"]
            self._read = chunks[-1].end
        total = Counter[str]()
        for values in self._last.values():
            total.update({name: int(value) for name, value in values.items()})
        return total

    def behind(self) -> int:
        """Blocks of the examples log that the store does not include yet."""
        log, backend = open_log(self.log("examples")), open_backend(self.store)
        try:
            manifest = backend.manifest()
        finally:
            backend.close()
        done = {} if manifest is None else manifest.positions
        return sum(log.end(number) - done.get(number, 0) for number in log.partitions())


def _make(uri: str, partitions: int) -> None:
    """A log, once it can be written to."""
    with resources.patiently(lambda: open_log(uri, partitions=partitions).appender(0, traffic.ACTIONS)):
        pass
