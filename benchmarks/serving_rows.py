"""What rows in fp16, bf16 and int8 cost and save, in serving and in training: quality, memory, speed of lookups.

The model of benchmarks/tails.py on MovieLens, without admission. For each seed it learns nine tenths of the ratings in
time order, once with rows of each format that can learn; these are the progressive figures. Then replicas of the store
that was trained in fp32 score the other tenth, drawn by chance, with rows of each format that can serve. A seed is one
of first values and of the tenth; differences to fp32 are paired, with 95 % intervals of Student's t.

Memory and speed are those of tables with a million rows, of the model's width and of a wide one: bytes are all of a
table's memory divided by its rows, in training with Adagrad's state; lookups are of bags of four random ids, on one
thread, the formats taking turns, by CPU time.

    python -m benchmarks.serving_rows [--data folder-or-zip] [--seeds 3] [--ratings n] [--rows 1048576]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from benchmarks._collision_runs import exact_auc, random_tenth
from benchmarks._experiment import add_options, check_options, half_width
from benchmarks.tails import BLOCK, Contestant, blocks, progressive
from examples.movielens.dataset import Ratings, read
from monobeam.models.config import Config
from monobeam.models.features import FeatureEncoder
from monobeam.models.tails import TABLE
from monobeam.models.trainer import Trainer
from monobeam.serving.predictor import ReplicaRows
from monobeam.serving.replica import Replica
from monobeam.store.bags import Bags
from monobeam.store.memory import MemoryBackend
from monobeam.store.spec import DTYPES, ROW_FORMATS
from monobeam.store.store import Store
from monobeam.store.sync import SyncEvent, TableChange

EXACT = "fp32"
WIDE = 64
BAG, KEYS, ROUNDS, CALLS = 4, 4096, 15, 20

Floats = npt.NDArray[np.float32]
Figures = dict[str, dict[str, float]]


def in_format(config: Config, *, training: str = EXACT, serving: str = EXACT) -> Config:
    """The same model with rows of these formats."""
    sparse = replace(config.training.sparse, rows=training)
    return replace(
        config,
        training=replace(config.training, sparse=sparse),
        serving=replace(config.serving, rows=serving),
    )


@dataclass(frozen=True)
class Scored:
    """One model on some examples."""

    auc: float
    log_loss: float
    logits: Floats | None = None


def train(config: Config, examples: Sequence[pa.RecordBatch]) -> tuple[Scored, MemoryBackend]:
    """One pass: its progressive figures, and where it left the model."""
    backend = MemoryBackend()
    store = Store(config.store_spec(), backend)
    scores = progressive(Trainer(config, store), examples)
    store.close()
    return Scored(scores.auc(), scores.log_loss()), backend


def serve(config: Config, backend: MemoryBackend, examples: Sequence[pa.RecordBatch]) -> Scored:
    """A replica's scores of examples that were not trained on."""
    replica, encoder = Replica(config), FeatureEncoder(config)
    replica.load(backend)
    rows, module, parts = ReplicaRows(replica.tables), replica.dense.module, []
    with torch.inference_mode():
        for block in examples:
            encoded = encoder.encode(block)
            parts.append(module(module.embedding(encoded.bags, rows), torch.from_numpy(encoded.numeric)).numpy())
    logits = np.concatenate(parts)
    labels = np.concatenate([np.asarray(block.column("_label.like")) for block in examples])
    loss = np.logaddexp(0.0, np.where(labels > 0.5, -logits, logits).astype(np.float64)).mean()
    return Scored(exact_auc(logits, labels), float(loss), logits)


def split(ratings: Ratings, seed: int) -> tuple[list[pa.RecordBatch], list[pa.RecordBatch]]:
    """Blocks in time order to learn, and the tenth to score."""
    held_out = np.zeros(len(ratings), np.bool_)
    held_out[random_tenth(len(ratings), seed).test] = True
    learnt, scored = [], []
    for number, block in enumerate(blocks(ratings)):
        part = held_out[number * BLOCK : number * BLOCK + block.num_rows]
        learnt.append(block.filter(pa.array(~part)))
        scored.append(block.filter(pa.array(part)))
    return learnt, scored


def quality(ratings: Ratings, seeds: int) -> tuple[dict[str, list[Scored]], dict[str, list[Scored]]]:
    """By format, the figures of each seed: progressive ones of training, and those of serving the held-out tenth."""
    learning: dict[str, list[Scored]] = {name: [] for name in DTYPES}
    serving: dict[str, list[Scored]] = {name: [] for name in ROW_FORMATS}
    for seed in range(1, seeds + 1):
        config, (learnt, scored) = Contestant("all").config(seed), split(ratings, seed)
        for name in DTYPES:
            done, backend = train(in_format(config, training=name), learnt)
            learning[name].append(done)
            if name == EXACT:
                for served in ROW_FORMATS:
                    serving[served].append(serve(in_format(config, serving=served), backend, scored))
    return learning, serving


def compared(runs: Mapping[str, Sequence[Scored]]) -> Figures:
    """Means over seeds, differences to fp32 with half of their intervals, and the largest difference of a score."""
    found: Figures = {}
    for name, done in runs.items():
        found[name] = {}
        for measure in ("auc", "log_loss"):
            values, exact = (np.array([getattr(one, measure) for one in some]) for some in (done, runs[EXACT]))
            found[name][measure] = float(values.mean())
            found[name][f"{measure}_difference"] = float((values - exact).mean())
            found[name][f"{measure}_interval"] = half_width(values - exact)
        pairs = [(_probabilities(one), _probabilities(other)) for one, other in zip(done, runs[EXACT], strict=True)]
        if all(len(ours) for ours, _ in pairs):
            found[name]["largest_score_difference"] = max(float(np.abs(a - b).max()) for a, b in pairs)
    return found


def _probabilities(run: Scored) -> npt.NDArray[np.float64]:
    return np.empty(0) if run.logits is None else 1 / (1 + np.exp(-run.logits.astype(np.float64)))


# --- memory and speed ------------------------------------------------------------------------------------------------


def filled(config: Config, rows: int, numbers: int) -> Replica:
    """A replica with so many rows of so many numbers, which came with one event."""
    replica = Replica(replace(config, model=replace(config.model, dim=numbers - 1)))
    keys, rng = np.arange(rows, dtype=np.uint64), np.random.default_rng(1)
    for epoch, part in enumerate(np.array_split(keys, 16), 1):
        values = rng.normal(0, 0.1, (len(part), numbers)).astype(np.float32)
        replica.apply(
            SyncEvent(config.model.name, 0, epoch, epoch - 1, 0, {TABLE: TableChange(part, values, part[:0])}, 0), None
        )
    return replica


def speeds(replicas: Mapping[str, Replica], rows: int) -> Figures:
    """Million ids looked up in a CPU-second, and the median over rounds of its ratio to fp32's."""
    rng = np.random.default_rng(2)
    bags = [
        Bags(rng.integers(0, rows, KEYS).astype(np.uint64), np.arange(0, KEYS + 1, BAG, dtype=np.int64))
        for _ in range(CALLS)
    ]
    took: dict[str, list[float]] = {name: [] for name in replicas}
    for _ in range(ROUNDS + 1):
        for name, replica in replicas.items():
            look = ReplicaRows(replica.tables)
            began = time.process_time()
            for each in bags:
                look.sums(TABLE, each)
            took[name].append(time.process_time() - began)
    exact = np.array(took[EXACT][1:])  # the first round warms up
    return {
        name: {
            "mkeys_per_cpu_second": CALLS * KEYS / 1e6 / float(np.median(seconds[1:])),
            "speed_to_fp32": float(np.median(exact / np.array(seconds[1:]))),
        }
        for name, seconds in took.items()
    }


def tables(config: Config, rows: int, numbers: int) -> Figures:
    """Bytes of a row of so many numbers and speed of lookups, by format of serving."""
    replicas = {name: filled(in_format(config, serving=name), rows, numbers) for name in ROW_FORMATS}
    found = speeds(replicas, rows)
    for name, replica in replicas.items():
        assert replica.bytes_per_row is not None
        found[name]["bytes_per_row"] = replica.bytes_per_row
    return found


def training_bytes(config: Config, rows: int, numbers: int, row_format: str) -> float:
    """Bytes of a row of so many numbers with its optimizer state, in training."""
    wide = replace(config, model=replace(config.model, dim=numbers - 1))
    store = Store(in_format(wide, training=row_format).store_spec(), MemoryBackend())
    for part in np.array_split(np.arange(rows, dtype=np.uint64), 16):
        store.pull(TABLE, Bags(part, np.arange(len(part) + 1)), 0)
    return store.memory_bytes / store.rows


# --- what is printed -------------------------------------------------------------------------------------------------


def lines(learning: Figures, serving: Figures, numbers: int) -> Iterator[str]:
    """The figures for people."""
    widths = f"{f'{numbers} numbers':>20}{f'{WIDE} numbers':>20}"
    yield f"{'serving':<10}{'AUC':>8}{'diff':>10}{'+-':>9}{'log loss':>10}{'diff':>10}{'most apart':>12}{widths}"
    yield f"{'':<69}" + 2 * f"{'bytes a row':>13}{'speed':>7}"
    for name, of in serving.items():
        table = "".join(f"{of[f'bytes_per_row_{n}']:>13.0f}{of[f'speed_to_fp32_{n}']:>7.2f}" for n in (numbers, WIDE))
        yield f"{_quality(name, of)}{of['largest_score_difference']:>12.5f}{table}"
    yield ""
    yield f"{'training':<10}{'AUC':>8}{'diff':>10}{'+-':>9}{'log loss':>10}{'diff':>10}{'':>12}{widths}"
    for name, of in learning.items():
        table = "".join(f"{of[f'bytes_per_row_{n}']:>13.0f}{'':>7}" for n in (numbers, WIDE))
        yield f"{_quality(name, of)}{'':>12}{table}".rstrip()


def _quality(name: str, of: Mapping[str, float]) -> str:
    return (
        f"{name:<10}{of['auc']:>8.4f}{of['auc_difference']:>+10.5f}{of['auc_interval']:>9.5f}"
        f"{of['log_loss']:>10.4f}{of['log_loss_difference']:>+10.5f}"
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, default_seeds="3")
    parser.set_defaults(seeds=3)
    parser.add_argument(
        "--rows", type=int, default=1 << 20, help="of tables for memory and speed (default: %(default)s)"
    )
    options = parser.parse_args(argv)
    check_options(parser, options)
    if options.rows < 1000:
        parser.error(f"--rows {options.rows}: must be at least 1000")
    ratings = read(options.data)
    ratings = ratings.head(options.ratings) if options.ratings else ratings
    print(
        f"{len(ratings):,} ratings, a tenth of them served; {options.seeds} seeds; diff: to fp32, +- 95 %", flush=True
    )
    learning, serving = map(compared, quality(ratings, options.seeds))
    config = Contestant("all").config(1)
    numbers = 1 + config.model.dim
    for width in (numbers, WIDE):
        for name, figures in tables(config, options.rows, width).items():
            serving[name] |= {f"{key}_{width}": value for key, value in figures.items()}
        for name in DTYPES:
            learning[name][f"bytes_per_row_{width}"] = training_bytes(config, options.rows, width, name)
    print("\n".join(lines(learning, serving, numbers)))
    print(json.dumps({"serving": _rounded(serving), "training": _rounded(learning)}))


def _rounded(figures: Figures) -> Figures:
    return {name: {key: round(value, 6) for key, value in of.items()} for name, of in figures.items()}


if __name__ == "__main__":
    main()
