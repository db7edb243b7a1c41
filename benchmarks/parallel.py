"""What trainers in parallel lose against one: MovieLens, trained by 1, 2 and 4 processes over one store.

Trainers share a store in a shard server and work asynchronously: a gradient may be of rows and dense weights that
others have moved meanwhile (Dean et al. 2012, section 4.1). The same examples in the same order are trained by one
trainer with its own store and dense weights, and by several processes that share both, through a real shard server;
each of them has the examples that chance gives it, as each partition of a join's output has. Measured are the
progressive AUC of all examples, and the AUC of the last tenth in time, which is held out; over seeds (of initial values
and of the split), with paired 95 % intervals.

    python -m benchmarks.parallel [--data folder-or-zip] [--seeds 3] [--trainers 1 2 4] [--quick]
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks._collision_runs import BLOCK_ROWS, EXAMPLE_US, START_US, Examples, exact_auc, last_tenth
from benchmarks._contestants import Ints
from benchmarks._examples import columns
from benchmarks._experiment import add_options, check_options, half_width
from benchmarks._sharing import Done, train
from examples.movielens.dataset import Ratings, read
from monobeam.logs import block, schemas
from monobeam.logs.log import open_log
from monobeam.models.config import load
from monobeam.models.metrics import ScoreHistogram
from monobeam.models.trainer import Trainer
from monobeam.store.backend import open_backend
from monobeam.store.store import Store

ALONE = "one, with its own store"
QUICK = {"ratings": 2000, "seeds": 2, "trainers": [1, 2]}
CONFIG = """
[join]
window = "1s"
shards = {partitions}
[[labels]]
name = "like"
action = "like"
[[slots]]
feature = "user"
[[slots]]
feature = "item"
[model]
name = "parallel"
label = "like"
dim = 10
hidden = [32]
seed = {seed}
[training]
parallel = {parallel}
sparse = {{ optimizer = "adagrad", learning_rate = 0.05, initial_accumulator = 0.01 }}
dense = {{ optimizer = "adam", learning_rate = 0.003 }}
"""


@dataclass(frozen=True)
class Run:
    """What one training reached.

    ``online``, ``last``: AUC of all examples before they were learnt, and of the held-out last tenth. ``rate``:
    examples a second, of all trainers together, who begin at the same moment.
    """

    online: float
    last: float
    rate: float


@dataclass(frozen=True)
class Training:
    """One training of the first nine tenths, in a folder of its own; not ``shared``: by one trainer, all its own."""

    folder: Path
    examples: Examples
    seed: int
    trainers: int
    shared: bool

    def run(self) -> Run:
        """Train, and measure."""
        text = CONFIG.format(partitions=self.trainers, seed=self.seed, parallel=str(self.shared).lower())
        (self.folder / "model.toml").write_text(text)
        split = last_tenth(len(self.examples))
        owners = np.random.default_rng([self.seed, 7]).integers(0, self.trainers, len(split.train))
        for partition in range(self.trainers):
            self._write(partition, split.train[owners == partition])
        store = f"lmdb:{self.folder}/store"
        if self.shared:
            with _server(store) as uri:
                done = self._train(uri)
        else:
            done = self._train(store)
        scores = functools.reduce(ScoreHistogram.merge, (each.scores for each in done))
        rate = sum(each.examples for each in done) / max(each.seconds for each in done)
        return Run(scores.auc(), self._auc(store, split.test), rate)

    def _write(self, partition: int, which: Ints) -> None:
        """The examples log of a partition, in blocks in time order."""
        with open_log(f"file:{self.folder}/examples").appender(partition, schemas.EXAMPLES) as appender:
            for tick, start in enumerate(range(0, len(which), BLOCK_ROWS)):
                batch = self._batch(which[start : start + BLOCK_ROWS])
                record = {"shard": partition, "tick": tick, "count": batch.num_rows, "block": block.encode(batch)}
                appender.append([record])

    def _batch(self, which: Ints) -> pa.RecordBatch:
        found = columns(which, START_US + which * EXAMPLE_US, self.examples.labels[which], keys=which + 1)
        for slot, places in self.examples.places.items():
            found[slot] = pa.array(self.examples.ids[slot]).take(pa.array(places[which]))
        return pa.record_batch(found)

    def _train(self, store: str) -> list[Done]:
        """What a process for each partition says when all are done."""
        processes = multiprocessing.get_context("forkserver")
        processes.set_forkserver_preload(["benchmarks._sharing"])  # torch is slow to import
        with processes.Manager() as manager, ProcessPoolExecutor(self.trainers, processes) as pool:
            together = manager.Barrier(self.trainers)
            asked = [pool.submit(train, self.folder, store, number, together) for number in range(self.trainers)]
            return [each.result() for each in asked]

    def _auc(self, store: str, which: Ints) -> float:
        """Of examples that were not trained on."""
        config = load(self.folder / "model.toml")
        opened = Store(config.store_spec(), open_backend(store))
        trainer = Trainer(config, opened, 0 if self.shared else None)
        scores = [trainer.score(self._batch(which[start : start + 4096])) for start in range(0, len(which), 4096)]
        opened.close()
        return exact_auc(np.concatenate(scores), self.examples.labels[which])


@contextmanager
def _server(store: str) -> Iterator[str]:
    """A shard server; its address."""
    command = [sys.executable, "-m", "monobeam.store.server", "--shards=0", f"--store={store}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def measure(ratings: Ratings, seeds: int, trainers: Sequence[int]) -> dict[str, Any]:
    """Run everything; gives what the last line says."""
    examples = Examples.of(ratings)
    contestants = {ALONE: (1, False)} | {f"{count} sharing a store": (count, True) for count in trainers}
    runs: dict[str, list[Run]] = {name: [] for name in contestants}
    for seed in range(1, seeds + 1):
        for name, (count, shared) in contestants.items():
            with tempfile.TemporaryDirectory() as folder:
                runs[name].append(Training(Path(folder), examples, seed, count, shared).run())
            done = runs[name][-1]
            print(f"seed {seed}: {name:24} AUC {done.online:.4f} online, {done.last:.4f} last tenth", flush=True)
    found = {name: _figures(done, runs[ALONE]) for name, done in runs.items()}
    return {"data": ratings.layout, "examples": len(examples), "seeds": seeds, "trainers": found}


def _figures(runs: Sequence[Run], base: Sequence[Run]) -> dict[str, Any]:
    found: dict[str, Any] = {"examples_per_second": round(float(np.median([run.rate for run in runs])))}
    for measure in ("online", "last"):
        values, others = ([getattr(run, measure) for run in some] for some in (runs, base))
        differences = np.subtract(values, others)
        mean, half = float(differences.mean()), half_width(differences)
        found[f"{measure}_auc"] = {
            "mean": round(float(np.mean(values)), 5),
            "difference": round(mean, 5),
            "low": round(mean - half, 5),
            "high": round(mean + half, 5),
        }
    return found


def table(found: Mapping[str, Any]) -> str:
    """The figures for people."""
    lines = [
        f"{'trainers':24}{'AUC, online':>13}{'difference [95 % interval]':>30}{'AUC, last tenth':>17}{'difference':>30}"
    ]
    for name, of in found.items():
        cells = ""
        for measure, width in (("online_auc", 13), ("last_auc", 17)):
            at = of[measure]
            gap = "" if name == ALONE else f"{at['difference']:+.4f} [{at['low']:+.4f}, {at['high']:+.4f}]"
            cells += f"{at['mean']:{width}.4f}{gap:>30}"
        lines.append(f"{name:24}{cells}{of['examples_per_second']:13,}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    options = _options(argv)
    ratings = read(options.data)
    found = measure(ratings.head(options.ratings or len(ratings)), options.seeds, options.trainers)
    print(f"\n{table(found['trainers'])}")
    print(json.dumps(found))


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, default_seeds="3")
    parser.add_argument("--trainers", type=int, nargs="+", help="numbers of trainers (default: 1 2 4)")
    parser.add_argument("--quick", action="store_true", help=f"a trial: {QUICK}")
    options = parser.parse_args(argv)
    defaults: Mapping[str, Any] = QUICK if options.quick else {"ratings": None, "seeds": 3, "trainers": [1, 2, 4]}
    for name, default in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, default)
    check_options(parser, options)
    if min(options.trainers) < 1:
        parser.error(f"--trainers {options.trainers}: must be at least 1")
    return options


if __name__ == "__main__":
    main()
