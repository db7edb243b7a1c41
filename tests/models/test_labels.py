"""What a model learns of examples with several labels, made by the join."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from monobeam.join.cold import MemoryCold
from monobeam.join.engine import JoinEngine
from monobeam.logs import block as blocks
from monobeam.models.config import Config, parse
from monobeam.models.trainer import Trainer
from monobeam.store.memory import MemoryBackend
from monobeam.store.store import Store
from tests.models.streams import START_US, block, config

SECOND = 1_000_000
LABELS = "".join(f'[[labels]]\nname = "{name}"\naction = "{name}"\n' for name in ("like", "buy"))
SETTINGS = parse(
    f'[join]\nwindow = "10s"\n{LABELS}[[slots]]\nfeature = "user"\n'
    '[model]\nname = "test"\nlabel = "like"\ndim = 2\nhidden = [4]\n[training]\n'
)


def place(count: int) -> dict[str, pa.Array]:
    return {"_partition": pa.array([0] * count, pa.int32()), "_offset": pa.array(range(count), pa.int64())}


def joined(settings: Config, times: list[int], actions: list[tuple[int, str, int]]) -> list[pa.RecordBatch]:
    """The examples of impressions shown at some seconds, and of actions (impression, type, second)."""
    engine = JoinEngine(settings.join_settings(0), MemoryCold())
    shown = {
        "_id": pa.array([f"i{n}" for n in range(len(times))]),
        "_time": pa.array([START_US + time * SECOND for time in times]),
        **place(len(times)),
        "user": pa.array([f"u{n}" for n in range(len(times))]),
    }
    done = {
        "_id": pa.array([f"i{n}" for n, _, _ in actions]),
        "_time": pa.array([START_US + time * SECOND for _, _, time in actions]),
        "_type": pa.array([kind for _, kind, _ in actions]),
        "_value": pa.array([1.0] * len(actions)),
        "_arrival": pa.array([START_US + time * SECOND for _, _, time in actions]),
        **place(len(actions)),
    }
    engine.add(blocks.label(pa.RecordBatch.from_pydict(shown), "impressions", "shown"))
    engine.add(blocks.label(pa.RecordBatch.from_pydict(done), "actions", "acts"))
    return engine.advance(START_US + 1000 * SECOND).examples


def opened(settings: Config) -> Trainer:
    return Trainer(settings, Store(settings.store_spec(), MemoryBackend()))


@pytest.mark.parametrize(("label", "corrections", "passed_over"), [("like", 0, 1), ("buy", 1, 0)])
def test_a_correction_of_one_label_does_not_train_another_again(label: str, corrections: int, passed_over: int) -> None:
    settings = replace(SETTINGS, model=replace(SETTINGS.model, label=label))
    trainer = opened(settings)
    made = joined(settings, [0], [(0, "like", 2), (0, "buy", 60)])
    first, second = (trainer.train(each, 0, offset) for offset, each in enumerate(made))
    assert (first.examples, first.positives) == (1, label == "like")
    assert (second.examples, second.corrections, second.passed_over) == (corrections, corrections, passed_over)
    _, metrics = trainer.commit(START_US)
    assert metrics["values"]["positives"] == 1


def test_the_rate_is_that_of_the_negatives() -> None:
    settings = replace(SETTINGS, join=replace(SETTINGS.join, negative_rate=0.5))
    trainer = opened(settings)
    made = joined(settings, list(range(20)), [(19, "like", 20), (19, "buy", 60)])
    assert sum(each.num_rows for each in made) < 22
    for offset, each in enumerate(made):
        trainer.train(each, 0, offset)
    _, metrics = trainer.commit(START_US)
    assert metrics["values"]["rate"] == 0.5


def test_the_rate_stays_where_a_block_has_no_negatives() -> None:
    trainer = opened(config(["user"]))
    mixed = block([1, 0, 1], {"user": ["u"] * 3})
    at = mixed.schema.get_field_index("_rate")
    mixed = mixed.set_column(at, "_rate", pa.array(np.array([1, 0.25, 1], np.float32)))
    trainer.train(mixed, 0, 0)
    trainer.train(block([1, 1], {"user": ["u"] * 2}, first_key=4), 0, 1)
    assert trainer.commit(START_US)[1]["values"]["rate"] == 0.25
