"""Examples per CPU-second of the whole training path, beside bare torch loops on the same batches.

Ours: a real examples log of Arrow blocks in files -> decode -> encode -> exactly-once train step -> a commit to LMDB
for every second of CPU, with its sync event appended to a file log. A bare loop gets batches that are encoded
already, ids renumbered to rows of one preallocated ``EmbeddingBag`` with sparse gradients, and nothing else to do:
the same model, the same loss, torch's own sparse Adagrad and Adam. There are two of them: "plain" is what a torch user
would write first, "tuned" has Adam fused and takes denormals for zeros, as ours does; the ratio is to the faster. All
take turns in every round, each first in turn; one thread; process CPU time. The stream has Criteo's shape: 26
categorical features with its numbers of values (3 to 10 million, 34 million in all) under Zipf's law, and 13 numbers.

    python -m benchmarks.train [--blocks 192] [--rounds 12]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from benchmarks._examples import columns
from monobeam.logs import block
from monobeam.logs.log import Log, open_log, records
from monobeam.logs.schemas import EXAMPLES
from monobeam.models.arithmetic import training_arithmetic
from monobeam.models.config import Config, parse
from monobeam.models.deepfm import build
from monobeam.models.features import FeatureEncoder
from monobeam.models.trainer import Trainer
from monobeam.store.heap import keep_freed_memory
from monobeam.store.lmdb import LmdbBackend
from monobeam.store.store import Store
from monobeam.store.sync import SYNC

# Distinct values of Criteo's 26 categorical features (the Kaggle set, as DLRM's documentation counts them).
# fmt: off
VALUES = (
    1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194,
    27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572,
)
# fmt: on
ZIPF, NUMERICS, ROWS = 1.1, 13, 2048
COMMIT_EVERY_S = 1.0
GOAL = 0.9  # of the faster bare loop
START_US = 1_700_000_000_000_000

CONFIG = """
[join]
window = "1s"
[[labels]]
name = "click"
action = "click"
{fields}
[model]
name = "criteo"
label = "click"
dim = 16
hidden = [64, 32]
[training]
sparse = {{ optimizer = "adagrad", learning_rate = 0.02, initial_accumulator = 0.1 }}
dense = {{ optimizer = "adam", learning_rate = 0.001 }}
"""


def config() -> Config:
    slots = "".join(f'[[slots]]\nfeature = "c{i}"\n' for i in range(len(VALUES)))
    numerics = "".join(f'[[numerics]]\nfeature = "n{i}"\ntransform = "log1p"\n' for i in range(NUMERICS))
    return parse(CONFIG.format(fields=slots + numerics))


def stream(blocks: int, seed: int) -> Iterator[pa.RecordBatch]:
    """Blocks of ROWS examples; the label depends on some of the ids."""
    rng = np.random.default_rng(seed)
    drawn = [zipf(rng, count, blocks * ROWS) for count in VALUES]
    for number in range(blocks):
        ranks = [column[number * ROWS : (number + 1) * ROWS] for column in drawn]
        score = sum(np.sin(column * 12.9898) for column in ranks[::3]) - 1.0
        labels = (rng.random(ROWS) < 1 / (1 + np.exp(-score))).astype(np.float32)
        numbers = np.arange(number * ROWS, (number + 1) * ROWS)
        keys = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        found = columns(numbers, START_US + numbers * 100, labels, label="click", wait_us=1_000_000, keys=keys)
        found |= {f"c{i}": pa.array([f"{r * 2654435761 % 2**32:08x}" for r in ranks[i]]) for i in range(len(VALUES))}
        found |= {f"n{i}": pa.array(rng.exponential(20.0, ROWS)) for i in range(NUMERICS)}
        yield pa.record_batch(found)


def zipf(rng: np.random.Generator, values: int, count: int) -> npt.NDArray[np.int64]:
    """Ranks from 1 to ``values``, each with a probability of rank ** -ZIPF, by inversion."""
    cumulative = np.cumsum(np.arange(1, values + 1, dtype=np.float64) ** -ZIPF)
    ranks: npt.NDArray[np.int64] = np.searchsorted(cumulative, rng.random(count) * cumulative[-1])
    return ranks + 1


def write(log: Log, blocks: Iterator[pa.RecordBatch]) -> None:
    with log.appender(0, EXAMPLES) as appender:
        for number, batch in enumerate(blocks):
            record = {"shard": 0, "tick": number, "count": batch.num_rows, "block": block.encode(batch)}
            appender.append([record])


class OnlineTraining:
    """The training path of the pipeline without the runner."""

    def __init__(self, config: Config, examples: Log, folder: Path) -> None:
        keep_freed_memory()
        self._trainer = Trainer(config, Store(config.store_spec(), LmdbBackend(str(folder / "store"))))
        self._examples = examples
        self._sync = open_log(f"file:{folder / 'sync'}", 1).appender(0, SYNC)
        self._since_commit = 0.0
        self.commits = 0

    def run(self, start: int, stop: int) -> None:
        """Train on the records of a range; commits fall where a second of its own CPU time has passed."""
        offset, began = start, time.process_time()
        while offset < stop:
            for record in records(self._examples.read(0, offset, 1)):
                self._trainer.train(block.decode(record["block"]), 0, offset)
                offset += 1
            if self._since_commit + time.process_time() - began >= COMMIT_EVERY_S:
                self.commit()
                began = time.process_time()
        self._since_commit += time.process_time() - began

    def commit(self) -> None:
        self.commits += 1
        events, _ = self._trainer.commit(START_US + self.commits * 1_000_000)
        self._sync.append([event.to_record() for event in events])
        self._since_commit = 0.0

    @property
    def rows(self) -> int:
        return self._trainer.store.rows


@dataclass(frozen=True)
class Batch:
    """What the bare loop trains on: rows of the embedding table, and everything else as tensors."""

    ids: Tensor
    offsets: Tensor
    numeric: Tensor
    labels: Tensor


class BareLoop:
    """The training loop that a torch user would write first; ``tuned``: with what our trainer asks of torch."""

    def __init__(self, config: Config, batches: Sequence[Batch], rows: int, tuned: bool) -> None:
        self._batches = batches
        self._shape = (len(config.slots), ROWS, 1 + config.model.dim)
        self._table = nn.EmbeddingBag(rows, 1 + config.model.dim, mode="sum", sparse=True, include_last_offset=True)
        nn.init.uniform_(self._table.weight, -config.model.init_scale, config.model.init_scale)
        self._model = build(config)
        sparse, dense = config.training.sparse, config.training.dense
        self._sparse = torch.optim.Adagrad(
            self._table.parameters(),
            sparse.learning_rate,
            initial_accumulator_value=sparse.hyper["initial_accumulator"],
            eps=sparse.hyper["epsilon"],
        )
        self._dense = torch.optim.Adam(self._model.parameters(), dense.learning_rate, fused=tuned)
        self._arithmetic = training_arithmetic if tuned else nullcontext

    def run(self, start: int, stop: int) -> None:
        torch.use_deterministic_algorithms(False)  # which our trainer asks for, and may cost
        with self._arithmetic():
            self._run(start, stop)
        torch.use_deterministic_algorithms(True)

    def _run(self, start: int, stop: int) -> None:
        for batch in self._batches[start:stop]:
            pooled = self._table(batch.ids, batch.offsets).view(self._shape)
            loss = binary_cross_entropy_with_logits(self._model(pooled, batch.numeric), batch.labels, reduction="sum")
            self._sparse.zero_grad()
            self._dense.zero_grad()
            torch.autograd.backward(loss)
            self._sparse.step()
            self._dense.step()


def encoded(config: Config, examples: Log, blocks: int) -> tuple[list[Batch], int]:
    """All batches with ids renumbered from 0 in order of size, and the number of distinct ids."""
    encoder, batches = FeatureEncoder(config), []
    found: list[npt.NDArray[np.uint64]] = []
    for offset in range(blocks):
        (record,) = records(examples.read(0, offset, 1))
        batch = block.decode(record["block"])
        features = encoder.encode(batch)
        found.append(features.bags.keys)
        labels = torch.from_numpy(np.array(batch.column("_label.click")))
        offsets, numeric = torch.from_numpy(features.bags.offsets), torch.from_numpy(features.numeric)
        batches.append((offsets, numeric, labels))
    distinct, ids = np.unique(np.concatenate(found), return_inverse=True)
    parts = np.split(ids, np.cumsum([len(keys) for keys in found])[:-1])
    made = [Batch(torch.from_numpy(part.copy()), *rest) for part, rest in zip(parts, batches, strict=True)]
    return made, len(distinct)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=192, help=f"blocks of {ROWS} examples (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=12, help="rounds of each loop (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    if not 1 <= options.rounds <= options.blocks:
        parser.error(f"--rounds {options.rounds}: must be from 1 to --blocks {options.blocks}")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(options.blocks, options.rounds, options.seed, Path(folder))))


def measure(blocks: int, rounds: int, seed: int, folder: Path) -> dict[str, Any]:
    settings, examples = config(), open_log(f"file:{folder / 'examples'}", 1)
    write(examples, stream(blocks, seed))
    batches, distinct = encoded(settings, examples, blocks)
    print(f"{blocks * ROWS:,} examples, {distinct:,} distinct ids, {len(VALUES)} slots, {NUMERICS} numbers")
    ours = OnlineTraining(settings, examples, folder)
    loops: dict[str, OnlineTraining | BareLoop] = {
        "ours": ours,
        "plain": BareLoop(settings, batches, distinct, tuned=False),
        "tuned": BareLoop(settings, batches, distinct, tuned=True),
    }
    spent: dict[str, list[float]] = {name: [] for name in loops}
    for number in range(rounds):
        start, stop = number * blocks // rounds, (number + 1) * blocks // rounds
        for name in np.roll(list(loops), -number).tolist():
            began = time.process_time()
            loops[name].run(start, stop)
            if name == "ours" and number == rounds - 1:
                ours.commit()
            spent[name].append(time.process_time() - began)
        rates = {name: (stop - start) * ROWS / seconds[-1] for name, seconds in spent.items()}
        print(f"round {number + 1}: " + ", ".join(f"{name} {rate:8,.0f}" for name, rate in rates.items()) + " /CPU-s")
    assert ours.rows == distinct
    print(f"{ours.commits} commits, {ours.rows:,} rows")
    return {"examples": blocks * ROWS, **summary(spent, blocks * ROWS)}


def summary(spent: Mapping[str, Sequence[float]], examples: int) -> dict[str, Any]:
    """Rates over all rounds, and our ratio to the faster bare loop: over all of them, and the median of the rounds'."""
    bare = min(("plain", "tuned"), key=lambda name: sum(spent[name]))
    rates = {name: round(examples / sum(seconds), 1) for name, seconds in spent.items()}
    ratio = sum(spent[bare]) / sum(spent["ours"])
    return {
        "examples_per_cpu_second": rates["ours"],
        "bare_loop_examples_per_cpu_second": {name: rates[name] for name in ("plain", "tuned")},
        "faster_bare_loop": bare,
        "ratio_to_bare_loop": round(ratio, 3),
        "median_round_ratio": round(median(a / b for a, b in zip(spent[bare], spent["ours"], strict=True)), 3),
        "goal": {"at_least": GOAL, "met": ratio >= GOAL},
    }


if __name__ == "__main__":
    main()
