"""The table of dense weights that several trainers share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monobeam.models.optimizers import COMMON
from monobeam.store.spec import TableSpec

if TYPE_CHECKING:
    from monobeam.models.config import Config

NAME = "dense"
WIDTH = 64  # weights of a row: enough for little overhead, few enough that the rows of a small model have many owners

# The table's name of each optimizer of dense weights. What all have in common, clipping and decay, needs all weights:
# the trainer does it.
_OPTIMIZERS = {"sgd": "momentum", "adagrad": "adagrad", "adam": "adam"}


def tables(config: Config) -> tuple[TableSpec, ...]:
    """The table of a model that is trained in parallel; none of any other.

    A row holds what was learnt, so it begins at zero: the weights are these and the model's first ones, which are a
    pure function of its seed.
    """
    if not config.training.parallel:
        return ()
    dense = config.training.dense
    hyper = {name: value for name, value in dense.hyper.items() if name not in COMMON}
    optimizer = _OPTIMIZERS[dense.optimizer]
    return (TableSpec(NAME, WIDTH, optimizer, dense.learning_rate, hyper, init_scale=0.0, synced=False),)
