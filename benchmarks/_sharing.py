"""One of several trainer processes that begin at the same moment and share a store."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import NamedTuple

from monobeam.logs import block
from monobeam.logs.log import open_log, records
from monobeam.models.config import load
from monobeam.models.metrics import ScoreHistogram
from monobeam.models.trainer import Trainer
from monobeam.store.store import open_store

COMMIT_EVERY_S = 0.2


class Done(NamedTuple):
    """``scores``: of all its examples before they were learnt; ``seconds``: that it took."""

    scores: ScoreHistogram
    examples: int
    seconds: float


def train(folder: Path, store: str, partition: int, together: threading.Barrier) -> Done:
    """Train on a partition of the examples log in a folder, from when all are ready."""
    config = load(folder / "model.toml")
    log = open_log(f"file:{folder}/examples")
    blocks = [block.decode(record["block"]) for record in records(log.read(partition, 0, 1 << 40))]
    shared = config.training.parallel
    opened = open_store(config.store_spec(), store, [partition] if shared else None)
    trainer, scores = Trainer(config, opened, partition if shared else None), ScoreHistogram()
    together.wait()
    began = committed = time.monotonic()
    for offset, batch in enumerate(blocks):
        trainer.train(batch, partition, offset)
        if time.monotonic() - committed > COMMIT_EVERY_S or offset == len(blocks) - 1:
            _, metrics = trainer.commit(time.time_ns() // 1000)
            scores = scores.merge(ScoreHistogram.from_arrays(metrics["arrays"]))
            committed = time.monotonic()
    seconds = time.monotonic() - began
    opened.close()
    return Done(scores, sum(batch.num_rows for batch in blocks), seconds)
