"""Slots that come and go: what was learnt of those that stay is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from monobeam.models.columns import Columns
from monobeam.models.deepfm import build
from monobeam.models.trainer import Trainer
from monobeam.store import dense
from monobeam.store.store import open_store
from tests.models import streams

MODEL = "dim = 2\nhidden = [3]"
FIRST = np.full((3, 7), -1, np.float32)  # three slots and a number


def test_columns_move_with_their_slots_and_new_ones_begin() -> None:
    value = np.arange(15, dtype=np.float32).reshape(3, 5)  # slots 7 and 2, a number
    stored = {"slots/w": np.array([7, 2], np.float32), "weight/w": value, "exp_avg/w": value, "step/w": np.float32(4)}
    found = Columns("w", (2, 9, 7), 2).arranged(stored, FIRST, {})
    assert found["weight/w"][0].tolist() == [2, 3, -1, -1, 0, 1, 4]
    assert found["exp_avg/w"][1].tolist() == [7, 8, 0, 0, 5, 6, 9]
    assert found["step/w"] == 4


@pytest.mark.parametrize("shape", [(3, 6), (2, 5)])
def test_what_else_has_changed_is_left_to_be_refused(shape: tuple[int, int]) -> None:
    """Another number of numbers, or of units."""
    stored = {"slots/w": np.array([7, 2], np.float32), "weight/w": np.zeros(shape, np.float32)}
    assert Columns("w", (7, 2, 9), 2).arranged(stored, FIRST, {})["weight/w"].shape == shape


def test_a_state_that_does_not_say_whose_its_columns_are_stays_as_it_is() -> None:
    stored = {"weight/w": np.zeros((3, 5), np.float32)}
    assert Columns("w", (7, 2, 9), 2).arranged(stored, FIRST, {})["weight/w"].shape == (3, 5)


def test_a_store_goes_on_with_one_slot_more_and_one_less(tmp_path: Path) -> None:
    uri, blocks = f"lmdb:{tmp_path}/store", {"user": ["a", "b"], "item": ["x", "y"]}
    trained, more = (streams.config(names, MODEL) for names in (["user", "item"], ["user", "item", "page"]))
    store = open_store(trained.store_spec(), uri)
    before = Trainer(trained, store)
    for offset in range(5):
        before.train(streams.block([1, 0], blocks, 1 + offset), 0, offset)
    before.commit(1, final=True)
    weights = {name: value.detach().numpy().copy() for name, value in before.model.named_parameters()}
    scores = before.score(streams.block([1], {"user": ["a"], "item": ["x"]}, 9))
    store.close()

    store = open_store(more.store_spec(), uri)
    after = Trainer(more, store)
    now = {name: value.detach().numpy() for name, value in after.model.named_parameters()}
    first = build(more).state_dict()["deep.0.weight"].numpy()
    assert np.array_equal(now["deep.0.weight"], np.hstack([weights["deep.0.weight"], first[:, 4:]]))
    assert all(np.array_equal(now[name], weights[name]) for name in weights if name != "deep.0.weight")
    kept = after.score(streams.block([1], {"user": ["a"], "item": ["x"], "page": ["p"]}, 9))
    assert np.allclose(kept, scores, atol=1e-6)
    after.train(streams.block([1, 0], blocks | {"page": ["p", "q"]}, 9), 0, 5)
    after.commit(2, final=True)
    assert dense.decode(store.dense() or b"")["slots/deep.0.weight"].tolist() == [1, 2, 3]
    store.close()

    store = open_store(trained.store_spec(), uri)
    again = dict(Trainer(trained, store).model.named_parameters())["deep.0.weight"]
    assert again.shape == weights["deep.0.weight"].shape
    store.close()


def test_new_columns_begin_as_the_optimizer_does() -> None:
    """With nothing but an accumulator to divide by, 0 in its place would make weights of nothing at all."""
    stored = {"weight/w": np.ones((3, 2), np.float32), "sum/w": np.full((3, 2), 5, np.float32)}
    stored["slots/w"] = np.array([7], np.float32)
    found = Columns("w", (7, 9), 2).arranged(stored, FIRST[:, :4], {"sum": 0.25})
    assert found["sum/w"].tolist() == [[5, 5, 0.25, 0.25]] * 3
