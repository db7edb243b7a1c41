"""Examples per CPU-second of the whole training path, beside a bare torch loop on the same batches.

Ours: a real examples log of Arrow blocks in files -> decode -> encode -> exactly-once train step -> a commit to LMDB
for every second of CPU, with its sync event appended to a file log. The bare loop gets batches that are encoded
already, ids renumbered to rows of one preallocated ``EmbeddingBag`` with sparse gradients, and nothing else to do:
the same model, the same loss, torch's own sparse Adagrad and Adam. Rounds alternate between the two; one thread;
process CPU time. The stream has Criteo's shape: 26 categorical features with its numbers of values (3 to 10 million,
34 million in all) under Zipf's law, and 13 numbers.

    python -m benchmarks.train [--blocks 192] [--rounds 12]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from monobeam.logs import block
from monobeam.logs.log import Log, open_log, records
from monobeam.logs.schemas import EXAMPLES
from monobeam.models.config import Config, parse
from monobeam.models.deepfm import build
from monobeam.models.features import FeatureEncoder
from monobeam.models.memory import keep_freed_memory
from monobeam.models.trainer import Trainer
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
        key = np.arange(number * ROWS, (number + 1) * ROWS)
        times = START_US + key * 100
        columns = {
            "_key": pa.array(key.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)),
            "_id": pa.array([f"impression-{k}" for k in key]),
            "_time": pa.array(times),
            "_decided": pa.array(times + 1_000_000),
            "_kind": pa.array((labels < 0.5).astype(np.uint8)),
            "_weight": pa.array(np.ones(ROWS, np.float32)),
            "_rate": pa.array(np.ones(ROWS, np.float32)),
            "_arrival": pa.array(np.where(labels > 0.5, times + 400_000, 0)),
            "_label.click": pa.array(labels),
        }
        columns |= {f"c{i}": pa.array([f"{r * 2654435761 % 2**32:08x}" for r in ranks[i]]) for i in range(len(VALUES))}
        columns |= {f"n{i}": pa.array(rng.exponential(20.0, ROWS)) for i in range(NUMERICS)}
        yield pa.record_batch(columns)


def zipf(rng: np.random.Generator, values: int, count: int) -> npt.NDArray[np.int64]:
    """Ranks from 1 to ``values``, each with a probability of rank ** -ZIPF, by inversion."""
    cumulative = np.cumsum(np.arange(1, values + 1, dtype=np.float64) ** -ZIPF)
    return np.searchsorted(cumulative, rng.random(count) * cumulative[-1]) + 1


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
    """The training loop that a torch user would write first."""

    def __init__(self, config: Config, batches: Sequence[Batch], rows: int) -> None:
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
        self._dense = torch.optim.Adam(self._model.parameters(), dense.learning_rate)

    def run(self, start: int, stop: int) -> None:
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
    parser.add_argument("--rounds", type=int, default=12, help="rounds of each of the two (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(options.blocks, options.rounds, options.seed, Path(folder))))


def measure(blocks: int, rounds: int, seed: int, folder: Path) -> dict[str, float]:
    settings, examples = config(), open_log(f"file:{folder / 'examples'}", 1)
    write(examples, stream(blocks, seed))
    batches, distinct = encoded(settings, examples, blocks)
    print(f"{blocks * ROWS:,} examples, {distinct:,} distinct ids, {len(VALUES)} slots, {NUMERICS} numbers")
    ours, bare = OnlineTraining(settings, examples, folder), BareLoop(settings, batches, distinct)
    spent = {"ours": 0.0, "bare": 0.0}
    ratios = []
    for number in range(rounds):
        start, stop = number * blocks // rounds, (number + 1) * blocks // rounds
        took = {}
        for name, loop in (("ours", ours), ("bare", bare)):
            began = time.process_time()
            loop.run(start, stop)
            if name == "ours" and number == rounds - 1:
                ours.commit()
            took[name] = time.process_time() - began
            spent[name] += took[name]
        ratios.append(took["bare"] / took["ours"])
        rates = {name: (stop - start) * ROWS / seconds for name, seconds in took.items()}
        print(f"round {number + 1}: {rates['ours']:8,.0f} /CPU-s, bare loop {rates['bare']:8,.0f} /CPU-s")
    assert ours.rows == distinct
    print(f"{ours.commits} commits, {ours.rows:,} rows")
    return {
        "examples_per_cpu_second": round(blocks * ROWS / spent["ours"], 1),
        "bare_loop_examples_per_cpu_second": round(blocks * ROWS / spent["bare"], 1),
        "ratio_to_bare_loop": round(spent["bare"] / spent["ours"], 3),
        "median_round_ratio": round(float(np.median(ratios)), 3),
    }


if __name__ == "__main__":
    main()
