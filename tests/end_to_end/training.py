"""A trainer as a process: ``python -m tests.end_to_end.training FOLDER STORE SHARDS``.

It trains to the end of the examples log in the folder, with a commit after every few blocks.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from monobeam.logs import block, schemas
from monobeam.logs.log import open_log
from monobeam.models.config import Config
from monobeam.transforms import train
from monobeam.transforms.tracker import RangesTracker
from tests.models import streams

BLOCKS, ROWS = 200, 16


def configuration(shards: int) -> Config:
    """Ids of three kinds: with rows, with rows after some sightings, with narrow rows first."""
    tails = {"item": 'tail = "narrow"\nadmit_count = 4', "page": 'tail = "compose"\ntail_rows = 8\nadmit_count = 3'}
    model = "dim = 4\ntail_dim = 2\nhidden = [8]\nseed = 3"
    config = streams.config(["user", "item", "page"], model, of_slots=tails)
    return replace(config, store=replace(config.store, shards=shards))


def write(folder: Path) -> None:
    """The examples log."""
    rng = np.random.default_rng(1)
    with open_log(f"file:{folder}/examples").appender(0, schemas.EXAMPLES) as appender:
        for number in range(BLOCKS):
            features = {name: [f"{name}{i}" for i in rng.zipf(1.4, ROWS) % 300] for name in ("user", "item", "page")}
            made = streams.block(rng.random(ROWS) < 0.3, features, 1 + number * ROWS)
            appender.append([{"shard": 0, "tick": number, "count": ROWS, "block": block.encode(made)}])


def fold(folder: Path, store: str, shards: int) -> None:
    """Train to the end of the log."""
    settings = train.TrainSettings(configuration(shards), f"file:{folder}/examples", store, 1, 1)
    reader = train._ReadExamples(settings)
    reader.MAX_BLOCKS = 6
    for _ in reader.process((0,), RangesTracker(reader.initial_restriction((0,)))):
        pass
    train.close_all()


if __name__ == "__main__":
    fold(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
