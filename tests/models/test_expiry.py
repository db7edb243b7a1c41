"""Idle ids are forgotten in event time: neither commits nor restarts change what is learnt, or what is left."""

from __future__ import annotations

import functools
from collections.abc import Collection

import numpy as np
import pyarrow as pa
import pytest

from monobeam.models.config import Config
from monobeam.models.trainer import Trainer
from monobeam.store.memory import MemoryBackend
from tests.models.streams import START_US, block, config
from tests.models.trainers import opened, rows_of


def forgetful(rule: str) -> Config:
    model = "dim = 2\nhidden = [4]" + ("\ntail_dim = 1" if "narrow" in rule else "")
    return config(["user"], model, "sparse = { learning_rate = 0.1 }", of_slots={"user": rule})


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


RULES = [
    'expire = "2s"',
    'expire = "2s"\nadmit_count = 3',
    'expire = "2s"\nadmit_probability = 0.4',
    'expire = "2s"\nadmit_count = 3\ntail = "compose"\ntail_rows = 3',
    'expire = "2s"\nadmit_count = 2\ntail = "narrow"',
    "admit_count = 3",
    "admit_probability = 0.3",
]


def now_and_then(number: int) -> pa.RecordBatch:
    """A block of ids of which many come again only after they were forgotten."""
    rng = np.random.default_rng(number)
    return ids([f"u{u}" for u in rng.integers(0, 30, 8)], 1 + 700 * number)


BLOCKS = [now_and_then(number) for number in range(20)]


def alive(trainer: Trainer) -> dict[tuple[str, int], bytes]:
    """Every row of every table that is not to be forgotten by now, with state, times and counts."""
    trainer.store.expire(trainer._progress.clock_s)
    return rows_of(trainer)


HAPPENINGS = {
    "commits": ["commit"] * len(BLOCKS),
    "restarts": ["restart"] * len(BLOCKS),
    "some": np.random.default_rng(6).choice(["commit", "restart", "crash", "on"], len(BLOCKS)).tolist(),
}


@pytest.mark.parametrize("happenings", HAPPENINGS)
@pytest.mark.parametrize("rule", RULES)
def test_no_commit_and_no_restart_changes_what_is_learnt(rule: str, happenings: str) -> None:
    described, backend = forgetful(rule), MemoryBackend()
    trainer, losses = opened(backend, described), [0.0] * len(BLOCKS)
    for number, happening in enumerate([*HAPPENINGS[happenings], "on"]):
        for offset in range(trainer.positions.get(0, 0), min(number + 1, len(BLOCKS))):
            losses[offset] = trainer.train(BLOCKS[offset], 0, offset).loss
        if happening in ("commit", "restart"):
            trainer.commit(START_US + number)
        if happening in ("restart", "crash"):
            trainer.store.close()
            trainer = opened(backend, described)
    expected, expected_losses = undisturbed(rule)
    assert losses == expected_losses
    assert alive(trainer) == expected


@functools.cache
def undisturbed(rule: str) -> tuple[dict[tuple[str, int], bytes], list[float]]:
    trainer = opened(config=forgetful(rule))
    losses = [trainer.train(each, 0, offset).loss for offset, each in enumerate(BLOCKS)]
    return alive(trainer), losses
