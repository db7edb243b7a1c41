"""Training with rows in fp16 and bf16: as good as the same to the eye, and not a bit changes with restarts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from monobeam.models import optimizers
from monobeam.models.config import Config
from monobeam.models.tails import NARROW, SIGHTINGS, TABLE
from monobeam.models.trainer import Trainer
from monobeam.store.memory import MemoryBackend
from monobeam.store.room import TableFullError
from monobeam.store.spec import DTYPES
from tests.models.streams import START_US, block, config
from tests.models.test_tails import dense_of
from tests.models.trainers import opened, rows_of, stream
from tests.native.formats import nearest

BLOCKS = stream(12)
TAILS = {
    "user": 'tail = "compose"\ntail_rows = 7\nadmit_count = 3',
    "item": 'tail = "narrow"\nadmit_count = 2',
}


def settings(rows: str, more: str = "") -> Config:
    return config(
        ["user", "item", "tags"],
        "dim = 4\nhidden = [8]\nseed = 3\ntail_dim = 2",
        f'sparse = {{ rows = "{rows}", learning_rate = 0.1{more} }}\ndense = {{ learning_rate = 0.01 }}',
        ["price"],
        TAILS,
    )


@pytest.mark.parametrize("rows", DTYPES)
@pytest.mark.parametrize("optimizer", optimizers.SPARSE)
def test_a_run_that_stops_anywhere_is_an_undisturbed_one(rows: str, optimizer: str) -> None:
    given = settings(rows, f', optimizer = "{optimizer}"')
    backend = MemoryBackend()
    straight, stopped = opened(config=given), opened(backend, given)
    for number, each in enumerate(BLOCKS):
        straight.train(each, 0, number)
        stopped.train(each, 0, number)
        if number % 3 == 1:
            stopped.commit(START_US + number)
            stopped.store.close()
            stopped = opened(backend, given)
    assert rows_of(stopped) == rows_of(straight)
    assert dense_of(stopped) == dense_of(straight)


@pytest.mark.parametrize("rows", DTYPES)
def test_every_table_with_embeddings_has_the_format(rows: str) -> None:
    formats = {table.name: table.row_format for table in settings(rows).store_spec().tables}
    assert formats == {TABLE: rows, NARROW: rows, SIGHTINGS: "fp32"}
    trainer = opened(config=settings(rows))
    for number, each in enumerate(BLOCKS):
        trainer.train(each, 0, number)
    for name in (TABLE, NARROW):
        table = trainer.store.host.shards[0].tables[name]
        values = np.asarray(table.lookup(table.keys())[0])
        assert len(values) > 20
        np.testing.assert_array_equal(nearest(rows, values), values)


def test_scores_of_short_rows_are_near_those_of_fp32() -> None:
    scores = {}
    for rows in DTYPES:
        trainer = opened(config=settings(rows))
        for number, each in enumerate(BLOCKS):
            trainer.train(each, 0, number)
        scores[rows] = trainer.score(BLOCKS[0])
    for rows, apart in (("fp16", 0.03), ("bf16", 0.15)):
        assert 0 < np.abs(scores[rows] - scores["fp32"]).max() < apart


def test_a_store_goes_on_in_another_format() -> None:
    backend = MemoryBackend()
    for number, (rows, each) in enumerate(zip(("fp32", "bf16", "fp16", "fp32"), BLOCKS, strict=False)):
        trainer = opened(backend, settings(rows))
        assert trainer.positions == ({} if number == 0 else {0: number})
        trainer.train(each, 0, number)
        trainer.commit(START_US + number)
        trainer.store.close()


def train_new_users(trainer: Trainer, number: int, count: int = 4000) -> None:
    """The block of a number, with users that no other has."""
    names = [f"u{number * count + i}" for i in range(count)]
    trainer.train(block(np.arange(count) % 2, {"user": names}, 1 + number * count), 0, number)


def test_a_trainer_that_is_full_says_so_and_goes_on_with_more() -> None:
    none = config(["user"], "hidden = [4]")
    little, much = (replace(none, store=replace(none.store, memory_limit=limit)) for limit in (12 * 2**20, 10**9))
    backend = MemoryBackend()

    trainer, number = opened(backend, little), 0
    with pytest.raises(TableFullError, match=r'table .* has no room to grow within store.memory_limit = "12MiB"'):
        while True:
            train_new_users(trainer, number)
            trainer.commit(START_US + number)
            number += 1
    assert number >= 3
    trainer.store.close()
    resumed, undisturbed = opened(backend, much), opened(config=none)
    assert resumed.positions == {0: number}
    for again in range(number + 3):
        train_new_users(undisturbed, again)
        train_new_users(resumed, again)  # what was committed is skipped
    assert rows_of(resumed) == rows_of(undisturbed)
    assert dense_of(resumed) == dense_of(undisturbed)
