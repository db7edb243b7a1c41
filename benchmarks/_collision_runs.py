"""One contestant of ``benchmarks.collisions`` with one seed: what the system's own trainer and table reach with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from benchmarks._contestants import Contestant, Ints, shared
from benchmarks._examples import columns
from examples.movielens.dataset import Ratings
from monobeam.models.config import Config, parse
from monobeam.models.metrics import ScoreHistogram
from monobeam.models.trainer import Trainer
from monobeam.store.memory import MemoryBackend
from monobeam.store.store import Store

Floats = npt.NDArray[np.float64]

LIKED = 3.5  # stars from which a rating is positive, as in the paper
BLOCK_ROWS = 128
SCORED_ROWS = 4096
START_US = 1_700_000_000_000_000
EXAMPLE_US = 1000  # of event time from one example to the next

# The demo's model and rates (examples/movielens/model.toml), on the two features that the paper hashes.
CONFIG = """
[join]
window = "1s"
[[labels]]
name = "like"
action = "like"
[[slots]]
feature = "user"
{slot}
[[slots]]
feature = "item"
{slot}
[model]
name = "collisions"
label = "like"
dim = 10
hidden = [32]
seed = {seed}
[training]
sparse = {{ optimizer = "adagrad", learning_rate = 0.05, initial_accumulator = 0.01 }}
dense = {{ optimizer = "adam", learning_rate = 0.003 }}
"""


@dataclass(frozen=True)
class Examples:
    """Labelled ratings in time order: by slot the distinct ids, and for each example the place of its id, int64[N]."""

    ids: Mapping[str, list[str]]
    places: Mapping[str, Ints]
    labels: npt.NDArray[np.float32]

    @classmethod
    def of(cls, ratings: Ratings) -> Examples:
        """Positive where the rating is at least LIKED stars."""
        slots = {"user": (ratings.user, ratings.users["user_id"]), "item": (ratings.item, ratings.items["item_id"])}
        named = {name: np.unique(places, return_inverse=True) for name, (places, _) in slots.items()}
        return cls(
            {name: column.take(pa.array(named[name][0])).to_pylist() for name, (_, column) in slots.items()},
            {name: inverse.astype(np.int64) for name, (_, inverse) in named.items()},
            (ratings.rating >= LIKED).astype(np.float32),
        )

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Split:
    """Which examples are trained on, and which are held out."""

    train: Ints
    test: Ints


def last_tenth(count: int) -> Split:
    """Holds out what comes last in time."""
    order = np.arange(count)
    return Split(order[: count - count // 10], order[count - count // 10 :])


def random_tenth(count: int, seed: int) -> Split:
    """Holds out a tenth by chance."""
    order = np.random.default_rng([seed, 1]).permutation(count)
    return Split(np.sort(order[count // 10 :]), np.sort(order[: count // 10]))


@dataclass(frozen=True)
class Run:
    """What one contestant reached with one seed.

    Attributes:
        rows: of the table after one pass over everything.
        ids_sharing: share of the ids that share their row with another one.
        ids_lost: 1 - rows used / ids, which is what the paper calls collision rate.
        examples_sharing: share of the examples with at least one such id.
        online: progressive AUC of all examples up to each checkpoint, float64[C].
        online_log_loss: nats.
        last: AUC of the held-out last tenth after each epoch, float64[E].
        random: AUC of a held-out random tenth after each epoch, float64[E].
    """

    rows: int
    ids_sharing: float
    ids_lost: float
    examples_sharing: float
    online: Floats
    online_log_loss: float
    last: Floats
    random: Floats


class Learner:
    """A trainer on an in-memory store, fed with examples by their places."""

    def __init__(self, contestant: Contestant, examples: Examples, seed: int) -> None:
        self._examples = examples
        self.owners = {slot: contestant.owners(slot, ids, seed) for slot, ids in examples.ids.items()}
        config = settings(contestant, seed)
        self._trainer = Trainer(config, Store(config.store_spec(), MemoryBackend()))
        self._next = 0  # every pass is new examples to the trainer, which learns none twice

    @property
    def rows(self) -> int:
        """Rows of the table."""
        return self._trainer.store.rows

    def learn(self, which: Ints) -> ScoreHistogram:
        """Score, then learn, each block in turn; gives the scores."""
        for block in _sliced(self._batch(which), BLOCK_ROWS):
            self._trainer.train(block, 0, self._next)
            self._next += block.num_rows
        _, metrics = self._trainer.commit(START_US + self._next * EXAMPLE_US)
        return ScoreHistogram.from_arrays(metrics["arrays"])

    def auc(self, which: Ints) -> float:
        """Exact AUC of the model as it is; an id that has no row counts as a row of zeros."""
        logits = [self._trainer.score(block) for block in _sliced(self._batch(which), SCORED_ROWS)]
        return exact_auc(np.concatenate(logits), self._examples.labels[which])

    def _batch(self, which: Ints) -> pa.RecordBatch:
        number = np.arange(self._next, self._next + len(which))
        found = columns(number, START_US + number * EXAMPLE_US, self._examples.labels[which])
        for slot, owners in self.owners.items():
            ids = pa.array(self._examples.ids[slot])
            found[slot] = ids.take(pa.array(owners[self._examples.places[slot][which]]))
        return pa.record_batch(found)


def settings(contestant: Contestant, seed: int) -> Config:
    """The configuration of a contestant; the seed is that of all initial values."""
    return parse(CONFIG.format(slot=contestant.slot, seed=seed))


def run(contestant: Contestant, examples: Examples, seed: int, epochs: int, checkpoints: int) -> Run:
    """All that is measured of one contestant with one seed."""
    learner = Learner(contestant, examples, seed)
    curve, total = [], ScoreHistogram()
    for part in np.array_split(np.arange(len(examples)), checkpoints):
        total = total.merge(learner.learn(part))
        curve.append(total.auc())
    sharing = {slot: shared(owners) for slot, owners in learner.owners.items()}
    touched = np.logical_or.reduce([sharing[slot][places] for slot, places in examples.places.items()])
    rows_used = sum(len(np.unique(owners)) for owners in learner.owners.values())
    ids = sum(map(len, sharing.values()))
    return Run(
        rows=learner.rows,
        ids_sharing=sum(int(which.sum()) for which in sharing.values()) / ids,
        ids_lost=1 - rows_used / ids,
        examples_sharing=float(touched.mean()),
        online=np.array(curve),
        online_log_loss=total.log_loss(),
        last=held_out(contestant, examples, last_tenth(len(examples)), seed, epochs),
        random=held_out(contestant, examples, random_tenth(len(examples), seed), seed, epochs),
    )


def held_out(contestant: Contestant, examples: Examples, split: Split, seed: int, epochs: int) -> Floats:
    """AUC (float64[epochs]) of what is held out after each epoch, in an order that the seed draws for each of them."""
    learner, rng = Learner(contestant, examples, seed), np.random.default_rng([seed, 2])
    aucs = []
    for _ in range(epochs):
        learner.learn(rng.permutation(split.train))
        aucs.append(learner.auc(split.test))
    return np.array(aucs)


def exact_auc(scores: npt.NDArray[np.float32], labels: npt.NDArray[np.float32]) -> float:
    """P(a positive scores above a negative), ties counting half; ValueError unless both labels occur."""
    positive = labels > 0.5
    count, others = int(positive.sum()), int((~positive).sum())
    if not count or not others:
        raise ValueError(f"{count} positives and {others} negatives are held out: AUC needs both; take more ratings")
    ranks = pl.Series(scores).rank("average").to_numpy()
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * others))


def unseen(examples: Examples, split: Split) -> dict[str, float]:
    """By slot, the share of held-out examples whose id occurs in none of those that are trained on."""
    return {
        slot: float(1 - np.isin(places[split.test], places[split.train]).mean())
        for slot, places in examples.places.items()
    }


def _sliced(batch: pa.RecordBatch, rows: int) -> Iterator[pa.RecordBatch]:
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)
