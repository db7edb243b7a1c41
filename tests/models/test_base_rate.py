"""What the model says of a request of which it knows nothing."""

from __future__ import annotations

import numpy as np
import pytest

from monobeam.models.base_rate import BaseRate
from monobeam.models.trainer import Trainer
from monobeam.store.memory import MemoryBackend
from monobeam.store.store import Store
from tests.models.streams import block, config


def chance(trainer: Trainer) -> float:
    """The predicted probability for ids that nobody has seen."""
    return float(1 / (1 + np.exp(-trainer.score(block([0], {"user": ["nobody"], "item": ["nothing"]}))[0])))


@pytest.mark.parametrize("kind", ["deepfm", "fm", "lr"])
@pytest.mark.parametrize("rate", [0.02, 0.25, 0.9])
def test_an_unknown_request_has_the_base_rate(kind: str, rate: float) -> None:
    settings = config(["user", "item"], f'kind = "{kind}"')
    trainer = Trainer(settings, Store(settings.store_spec(), MemoryBackend()))
    rng, rows = np.random.default_rng(1), 100
    for offset in range(60):
        users, items = (rng.integers(0, 50, rows).astype(str).tolist() for _ in range(2))
        made = block(rng.random(rows) < rate, {"user": users, "item": items}, first_key=1 + offset * rows)
        trainer.train(made, 0, offset)
    assert chance(trainer) == pytest.approx(rate, rel=0.2, abs=0.01)


def test_blocks_that_begin_with_positives_alone_do_not_lead_astray() -> None:
    base = BaseRate()
    base.add(np.ones(50, np.float32), np.ones(50, np.float32))
    for _ in range(100):
        base.add(np.repeat(np.float32([1, 0]), [10, 30]), np.ones(40, np.float32))
    assert 1 / (1 + np.exp(-base.logit())) == pytest.approx(0.25, abs=0.02)


def test_weights_count_and_the_counts_continue() -> None:
    base = BaseRate()
    base.add(np.float32([1, 0]), np.float32([2, 8]))
    assert base.logit() == pytest.approx(np.log(3 / 9))
    assert BaseRate(base.save()).logit() == base.logit()


def test_old_times_fade() -> None:
    base = BaseRate()
    for label in (0, 1):
        for _ in range(40):
            base.add(np.full(2**18, label, np.float32), np.ones(2**18, np.float32))
    assert base.logit() > 3
