"""What admission and tails cost and give: progressive AUC and bytes of rows, on MovieLens in time order.

The model of examples/movielens, one pass, each block scored before it is learnt. The ids of users, items and of the
cross of users and genres are admitted at their k-th sighting; ids that are not are zeros ("none"), composed of shared
rows, or have narrow rows. "all" admits every id at once. A seed is one of first values; all contestants get the same
ones, so differences are paired. Bytes are those of rows (embedding, optimizer state, time, count), without the index.

    python -m benchmarks.tails [--data folder-or-zip] [--admit 20] [--rows 100] [--seeds 3]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks._examples import columns
from benchmarks._experiment import add_options, check_options, half_width
from examples.movielens.dataset import Ratings, read
from monobeam.models.config import Config, parse
from monobeam.models.metrics import ScoreHistogram
from monobeam.models.section import ConfigError
from monobeam.models.trainer import Trainer
from monobeam.store.memory import MemoryBackend
from monobeam.store.store import Store

BLOCK = 64
COMMIT_EVERY = 256  # blocks

CONFIG = """
[join]
window = "1s"
[[labels]]
name = "like"
action = "like"
[[slots]]
feature = "user_id"
{rule}
[[slots]]
feature = "item_id"
{rule}
[[slots]]
feature = "genres"
[[slots]]
feature = "occupation"
[[slots]]
feature = "gender"
[[slots]]
feature = "age_decade"
[[slots]]
feature = "year"
[[slots]]
features = ["user_id", "genres"]
{rule}
[model]
name = "movielens"
label = "like"
dim = 10
hidden = [32]
seed = {seed}
{tail_dim}
[training]
sparse = {{ optimizer = "adagrad", learning_rate = 0.05, initial_accumulator = 0.01 }}
dense = {{ optimizer = "adam", learning_rate = 0.003 }}
"""


@dataclass(frozen=True)
class Contestant:
    """A rule for the slots with many ids: admission and tail."""

    name: str
    rule: str = ""
    tail_dim: int | None = None  # where the tail is narrow

    def config(self, seed: int) -> Config:
        tail_dim = "" if self.tail_dim is None else f"tail_dim = {self.tail_dim}"
        return parse(CONFIG.format(rule=self.rule, tail_dim=tail_dim, seed=seed))


def contestants(admit: Sequence[int], rows: int, tail_dim: int) -> list[Contestant]:
    compose, narrow = f'tail = "compose"\ntail_rows = {rows}', 'tail = "narrow"'
    found = [Contestant("all")]
    for count in admit:
        rule = f"admit_count = {count}"
        found += [
            Contestant(f"{count}, none", rule),
            Contestant(f"{count}, compose", f"{rule}\n{compose}"),
            Contestant(f"{count}, narrow", f"{rule}\n{narrow}", tail_dim),
        ]
    never = "admit_probability = 0"
    return [
        *found,
        Contestant("never, none", never),
        Contestant("never, compose", f"{never}\n{compose}"),
        Contestant("never, narrow", f"{never}\n{narrow}", tail_dim),
    ]


def blocks(ratings: Ratings) -> Iterator[pa.RecordBatch]:
    """Examples in time order: a rating of four stars or more is a like."""
    table = ratings.table()
    labels = (ratings.rating >= 4).astype(np.float32)
    found = columns(np.arange(len(ratings)), ratings.timestamp * 1_000_000, labels)
    found["age_decade"] = pc.divide(table["age"], 10)
    found |= {name: table[name] for name in ("user_id", "item_id", "genres", "occupation", "gender", "year")}
    return iter(pa.table(found).combine_chunks().to_batches(BLOCK))


@dataclass(frozen=True)
class Run:
    """One pass: progressive AUC and log loss, rows and their bytes at its end (shared rows and counts included)."""

    auc: float
    log_loss: float
    rows: int
    row_bytes: int


def progressive(trainer: Trainer, examples: Iterable[pa.RecordBatch]) -> ScoreHistogram:
    """One pass, with commits: the scores of all blocks, each before it was learnt."""
    scores, count = ScoreHistogram(), 0
    for offset, block in enumerate(examples):
        trainer.train(block, 0, offset)
        count = offset + 1
        if count % COMMIT_EVERY == 0:
            scores = scores.merge(ScoreHistogram.from_arrays(trainer.commit(offset)[1]["arrays"]))
    events, metrics = trainer.commit(count, final=True)
    assert events
    return scores.merge(ScoreHistogram.from_arrays(metrics["arrays"]))


def run(config: Config, ratings: Ratings) -> Run:
    store = Store(config.store_spec(), MemoryBackend())
    scores = progressive(Trainer(config, store), blocks(ratings))
    changed = store.changed(0, 0)
    assert changed is not None
    tables = changed.tables.values()
    return Run(scores.auc(), scores.log_loss(), store.rows, sum(change.rows.nbytes for change in tables))


def main(argv: Sequence[str] | None = None) -> None:
    options, entered = _options(argv)
    ratings = read(options.data)
    ratings = ratings.head(options.ratings or len(ratings))
    print(f"{len(ratings):,} ratings, {options.seeds} seeds; mean, and mean difference to all (95 %: Student's t)")
    print(f"{'admitted at, tail':<18}{'AUC':>8}{'diff':>10}{'+-':>8}{'log loss':>10}{'rows':>9}{'MB':>7}{'of all':>8}")
    figures: dict[str, dict[str, float]] = {}
    baseline: list[Run] = []
    for contestant in entered:
        runs = [run(contestant.config(seed), ratings) for seed in range(1, options.seeds + 1)]
        baseline = baseline or runs
        figures[contestant.name] = row = _figures(runs, baseline)
        print(
            f"{contestant.name:<18}{row['auc']:>8.4f}{row['auc_difference']:>+10.4f}{row['interval']:>8.4f}"
            f"{row['log_loss']:>10.4f}{row['rows']:>9,.0f}{row['row_bytes'] / 1e6:>7.2f}{row['share']:>8.0%}"
        )
    print(json.dumps(figures))


def _options(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[Contestant]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, default_seeds="3")
    parser.set_defaults(seeds=3)
    parser.add_argument("--admit", type=int, nargs="+", default=[20], help="sightings (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=100, help="shared rows of each partition (default: %(default)s)")
    parser.add_argument("--tail-dim", type=int, default=4, help="factors of a narrow row (default: %(default)s)")
    options = parser.parse_args(argv)
    check_options(parser, options)
    entered = contestants(options.admit, options.rows, options.tail_dim)
    try:
        for contestant in entered:
            contestant.config(seed=1)
    except ConfigError as error:
        parser.error(f"--admit {options.admit} --rows {options.rows} --tail-dim {options.tail_dim}: {error}")
    return options, entered


def _figures(runs: Sequence[Run], baseline: Sequence[Run]) -> dict[str, float]:
    differences = np.array([one.auc - other.auc for one, other in zip(runs, baseline, strict=True)])
    row_bytes = float(np.mean([one.row_bytes for one in runs]))
    return {
        "auc": float(np.mean([one.auc for one in runs])),
        "auc_difference": float(differences.mean()),
        "interval": half_width(differences),
        "log_loss": float(np.mean([one.log_loss for one in runs])),
        "rows": float(np.mean([one.rows for one in runs])),
        "row_bytes": row_bytes,
        "share": row_bytes / float(np.mean([one.row_bytes for one in baseline])),
    }


if __name__ == "__main__":
    main()
