from __future__ import annotations

import numpy as np
import pyarrow as pa

from monobeam.models.frozen import FrozenBaseline
from monobeam.models.metrics import ScoreHistogram
from monobeam.models.trainer import Trainer
from monobeam.store.memory import MemoryBackend
from monobeam.store.store import Store
from tests.models.streams import START_US, block, config

SETTINGS = config(["user"], "dim = 2\nhidden = [4]", "sparse = { learning_rate = 0.3 }")


def stream(blocks: int, flipped_from: int) -> list[pa.RecordBatch]:
    """Users who like everything or nothing, and change their minds at one point."""
    rng = np.random.default_rng(2)
    made = []
    for number in range(blocks):
        user = rng.integers(0, 10, 20)
        labels = (user < 5) ^ (number >= flipped_from)
        made.append(block(labels, {"user": user}, 1 + 20 * number))
    return made


def test_what_is_frozen_scores_without_learning() -> None:
    frozen = FrozenBaseline(SETTINGS, examples=200)
    scores = [frozen.add(each, 0, offset) for offset, each in enumerate(stream(40, flipped_from=25))]
    assert scores[:10] == [None] * 10
    assert frozen.frozen
    before, after = ScoreHistogram(), ScoreHistogram()
    for each in scores[10:25]:
        before = before.merge(each)
    for each in scores[25:]:
        after = after.merge(each)
    assert before.auc() > 0.95
    assert after.auc() < 0.05


def test_it_scores_as_a_trainer_of_the_same_examples_would() -> None:
    blocks = stream(20, 99)
    frozen, trainer = FrozenBaseline(SETTINGS, 200), Trainer(SETTINGS, Store(SETTINGS.store_spec(), MemoryBackend()))
    for offset, each in enumerate(blocks[:10]):
        assert frozen.add(each, 0, offset) is None
        trainer.train(each, 0, offset)
    trainer.commit(START_US)
    for offset, each in enumerate(blocks[10:], 10):
        expected = ScoreHistogram.of(trainer.score(each), np.asarray(each.column("_label.like")))
        assert np.array_equal(frozen.add(each, 0, offset).positives, expected.positives)


def test_repeats_and_corrections_are_not_scored() -> None:
    frozen = FrozenBaseline(SETTINGS, 0)
    rows = block([1, 0, 1, 1], {"user": [1, 2, 3, 4]}, keys=[5, 6, 5, 7], kinds=[0, 1, 0, 2])
    assert frozen.add(rows, 0, 0).weight == 2
    assert frozen.add(rows, 0, 1).weight == 0
