"""Idle ids are forgotten in event time: neither commits nor restarts change what is learnt, or what is left."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pyarrow as pa
import pytest

from monobeam.models.config import Config
from monobeam.models.trainer import Trainer
from monobeam.store.memory import MemoryBackend
from tests.models.streams import START_US, block, config
from tests.models.trainers import opened


def forgetful(rule: str) -> Config:
    return config(["user"], "dim = 2\nhidden = [4]", "sparse = { learning_rate = 0.1 }", of_slots={"user": rule})


def ids(names: list[str], at_ms: int) -> pa.RecordBatch:
    """A block of one example for each id, decided from this millisecond on."""
    return block(np.ones(len(names)), {"user": names}, at_ms)


def trained(
    settings: Config, blocks: list[pa.RecordBatch], commits: Collection[int], restarts: Collection[int]
) -> Trainer:
    """After all blocks, with commits after some of them, and restarts there after some."""
    backend = MemoryBackend()
    trainer = opened(backend, settings)
    for number, each in enumerate(blocks):
        trainer.train(each, 0, number)
        if number in commits:
            trainer.commit(START_US + number)
        if number in restarts:
            trainer.store.close()
            trainer = opened(backend, settings)
    return trainer


@pytest.mark.parametrize("restarts", [(), range(8)])
def test_all_that_is_idle_goes_within_some_commits_however_often_the_trainer_starts(restarts: Collection[int]) -> None:
    """A sweep that began at the same bucket after every start would never come to the others."""
    blocks = [ids([f"u{i}" for i in range(72_000)], 1), *(ids([f"x{i}"], 100_000 + 10 * i) for i in range(7))]
    trainer = trained(forgetful('expire = "1s"'), blocks, range(8), restarts)
    assert trainer.store.rows == 7
