"""Every optimizer, with its schedule in mid-course, goes on after a restart as if there had been none."""

from __future__ import annotations

import pytest

from monobeam.models import optimizers
from monobeam.models.config import Config
from monobeam.store.memory import MemoryBackend
from tests.models.streams import START_US, config
from tests.models.trainers import assert_equal, opened, parameters, stream

BLOCKS = stream(6)  # of 16 examples
SCHEDULES = [
    "",
    'kind = "polynomial", warmup = 24, examples = 48, power = 2',
    'kind = "exponential", examples = 24, end_rate = 1e-4',
    'kind = "cosine", warmup = 24, examples = 48',
    'kind = "inverse_sqrt", examples = 24, warmup = 24',
]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimizer", ['"sgd"', '"sgd", momentum = 0.9', '"adagrad"', '"adam"'])
def test_every_dense_optimizer_continues_where_it_was(optimizer: str, schedule: str) -> None:
    dense = f"dense = {{ optimizer = {optimizer}, clip_norm = 1, schedule = {{ {schedule} }} }}"
    goes_on_where_it_was(config(["user"], "dim = 2\nhidden = [4]", dense))


@pytest.mark.parametrize("optimizer", optimizers.SPARSE)
def test_every_sparse_optimizer_continues_where_it_was(optimizer: str) -> None:
    schedule = 'schedule = { kind = "cosine", warmup = 24, examples = 60, end_rate = 0.01 }'
    sparse = f'sparse = {{ optimizer = "{optimizer}", clip_norm = 1, weight_decay = 0.1, {schedule} }}'
    goes_on_where_it_was(config(["user", "tags"], "dim = 2\nhidden = [4]", sparse))


def goes_on_where_it_was(settings: Config) -> None:
    backend = MemoryBackend()
    straight, stopped = opened(config=settings), opened(backend, settings)
    for number in range(6):
        straight.train(BLOCKS[number], 0, number)
        stopped.train(BLOCKS[number], 0, number)
        stopped.commit(START_US + number)
        stopped.store.close()
        stopped = opened(backend, settings)
    assert_equal(parameters(straight, BLOCKS), parameters(stopped, BLOCKS))
