"""Runs of the real pipelines as processes over logs in a folder, and what they left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from examples import installed
from monobeam.logs import block
from monobeam.logs.log import open_log, records
from monobeam.models.config import Config, load
from monobeam.models.features import FeatureEncoder
from monobeam.store.backend import open_backend
from tests.end_to_end import traffic
from tests.needed import needed

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120.0


def prism() -> str:
    """Beam's local streaming runner."""
    with needed():
        return installed.prism()


DECIDED = (
    "examples",
    "sampled_out",
    "impressions_duplicated",
    "joined",
    "corrections",
    "actions_duplicated",
    "unmatched",
)
"""What becomes of records once and for all, and of each by one run."""


@dataclass(frozen=True)
class Run:
    """One store, one examples log, fed by raw logs that may lie elsewhere."""

    folder: Path
    raw: Path
    shards: int = 1
    policy: str = "settled"

    @staticmethod
    def create(folder: Path, raw: Path, shards: int = 1, policy: str = "settled", config: str = traffic.CONFIG) -> Run:
        """A folder with a configuration in it."""
        folder.mkdir(parents=True)
        (folder / "model.toml").write_text(config.format(policy=policy, shards=shards))
        return Run(folder, raw, shards, policy)

    def change(self, old: str, new: str) -> None:
        """Change something in the description."""
        file = self.folder / "model.toml"
        text = file.read_text()
        assert text.count(old) == 1
        file.write_text(text.replace(old, new))

    @property
    def config(self) -> Config:
        return load(self.folder / "model.toml")

    @property
    def store(self) -> str:
        return f"lmdb:{self.folder / 'store'}"

    def log(self, name: str) -> str:
        """The address of one of the run's own logs."""
        return f"file:{self.folder / name}"

    def raw_log(self, name: str) -> str:
        """The address of one of the logs that feed it."""
        return f"file:{self.raw / name}"

    def command(self, module: str, *options: str) -> list[str]:
        logs = [f"--{name}={self.log(name)}" for name in ("examples", "sync", "dead_letters", "metrics")]
        raw = [f"--{name}={self.raw_log(name)}" for name in ("impressions", "actions")]
        places = [f"--store={self.store}", f"--cold=lmdb:{self.folder / 'cold'}"]
        config = f"--config={self.folder / 'model.toml'}"
        return [sys.executable, "-m", f"monobeam.pipelines.{module}", config, *raw, *logs, *places, *options]

    def backfill(self, *options: str) -> dict[str, dict[str, int]]:
        """A bounded run, in process unless the options say otherwise, to its end; gives its counters."""
        done = subprocess.run(
            self.command("backfill", *options), cwd=self.folder, capture_output=True, text=True, timeout=2 * PATIENCE_S
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found: dict[str, dict[str, int]] = json.loads(done.stdout.splitlines()[-1])
        return found

    @contextmanager
    def streaming(self, *options: str, module: str = "online") -> Iterator[subprocess.Popen[bytes]]:
        """A streaming job on Prism; whatever is left of it at the end is killed."""
        streaming = ["--runner=PrismRunner", f"--prism_location={prism()}", "--streaming"]
        with (self.folder / "pipeline.log").open("ab") as log:
            process = subprocess.Popen(
                self.command(module, *streaming, *options),
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            kill(process)

    def wait(self, process: subprocess.Popen[bytes], condition: Callable[[], bool]) -> None:
        """Until the condition holds; fails if the job ends or takes too long."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert process.poll() is None, f"the job ended: {self.log_tail()}"
            assert time.monotonic() < deadline, f"waited {PATIENCE_S} s in vain: {self.counters()} {self.log_tail()}"
            time.sleep(0.05)

    def log_tail(self) -> str:
        return (self.folder / "pipeline.log").read_text(errors="replace")[-3000:]

    def blocks(self) -> list[pa.RecordBatch]:
        """Every block of the examples log, repeated ones too, partition after partition."""
        log = open_log(self.log("examples"))
        return [block.decode(record["block"]) for number in log.partitions() for record in _all(log, number)]

    def examples(self) -> dict[int, dict[str, Any]]:
        """The distinct examples by key, but for when they arrived; a repeated key must repeat the example."""
        found: dict[int, dict[str, Any]] = {}
        for batch in self.blocks():
            for row in batch.drop_columns(["_arrival"]).to_pylist():
                assert found.setdefault(row["_key"], row) == row
        return found

    def ids(self) -> Counter[int]:
        """How often each fid occurs in the distinct examples."""
        encoder, seen, ids = FeatureEncoder(self.config), set[int](), Counter[int]()
        for batch in self.blocks():
            fresh = [key not in seen and not seen.add(key) for key in batch.column("_key").to_pylist()]  # type: ignore[func-returns-value]
            ids.update(encoder.encode(batch.filter(pa.array(fresh))).bags.keys.tolist())
        return ids

    def counters(self) -> dict[str, int]:
        """The join's conservation counters, summed over shards."""
        last: dict[str, dict[str, float]] = {}
        log = open_log(self.log("metrics"))
        for number in log.partitions():
            for record in _all(log, number):
                if record["component"] == "join":
                    last[record["key"]] = record["values"]
        total: Counter[str] = Counter()
        for values in last.values():
            total.update({name: int(value) for name, value in values.items()})
        return dict(total)

    def settled(self, like: Run, before: Mapping[str, int] = MappingProxyType({})) -> bool:
        """Whether everything is there that the other run gave, and the store includes it.

        Counters, examples and dead letters are logged by steps of their own, and after a kill the old ones are still
        there: none of them tells that the others are done. ``before``: counters of the run that this one goes on from.
        """
        now, whole = self.counters(), like.counters()
        if any(before.get(name, 0) + now.get(name, 0) != whole[name] for name in DECIDED):
            return False
        given = len(self.examples()), len(self.dead_letters())
        return given == (len(like.examples()), len(like.dead_letters())) and self.trained()

    def trained(self) -> bool:
        """Whether the store includes all that is in the examples log."""
        log = open_log(self.log("examples"))
        backend = open_backend(self.store)
        try:
            manifest = backend.manifest()
        finally:
            backend.close()
        ends = {number: log.end(number) for number in log.partitions()}
        return manifest is not None and {k: v for k, v in manifest.positions.items() if v} == ends

    def parameters(self) -> dict[str, Any]:
        """Every row, bit for bit, and the trainer's dense state."""
        backend = open_backend(self.store)
        try:
            manifest = backend.manifest()
            assert manifest is not None
            rows = {
                (found.table, int(key)): row.tobytes()
                for shard in range(len(manifest.epochs))
                for found in backend.load(shard).blocks
                for key, row in zip(found.keys, found.rows, strict=True)
            }
            return {"rows": rows, "dense": backend.dense()}
        finally:
            backend.close()

    def update_counts(self) -> dict[int, int]:
        """The update count of every fid in the store: the last eight bytes of its row."""
        return {key: int.from_bytes(row[-8:], "little") for (_, key), row in self.parameters()["rows"].items()}

    def updates_so_far(self) -> int:
        """The sum of update counts, 0 before the first commit."""
        try:
            return sum(self.update_counts().values())
        except (AssertionError, OSError):
            return 0

    def every_dead_letter(self) -> list[dict[str, Any]]:
        """All dead letters, repeated ones too."""
        log = open_log(self.log("dead_letters"))
        return [record for number in log.partitions() for record in _all(log, number)]

    def dead_letters(self) -> list[dict[str, Any]]:
        """Distinct dead letters, by position."""
        letters = self.every_dead_letter()
        return list({(letter["log"], letter["partition"], letter["offset"]): letter for letter in letters}.values())


def wait_until(condition: Callable[[], bool], running: Future[None] | None = None) -> None:
    """Until it holds; fails if what is running meanwhile ends, or it takes too long."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert running is None or not running.done(), running.exception()
        assert time.monotonic() < deadline, f"waited {PATIENCE_S} s in vain"
        time.sleep(0.01)


def _all(log: Any, number: int) -> list[dict[str, Any]]:
    found, offset = list[dict[str, Any]](), 0
    while chunks := log.read(number, offset, 1 << 40):
        found += records(chunks)
        offset = chunks[-1].end
    return found


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the process and to what it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def law(counters: dict[str, int]) -> None:
    """Asserts both conservation laws."""
    shown = ("examples", "sampled_out", "pending", "impressions_duplicated", "impressions_rejected")
    assert counters["impressions"] == sum(counters[part] for part in shown), json.dumps(counters)
    done = ("joined", "corrections", "actions_duplicated", "unmatched", "waiting", "actions_rejected")
    assert counters["actions"] == sum(counters[part] for part in done), json.dumps(counters)
