"""What a model that is trained once and then served for ever would have scored: the baseline of real-time training."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from monobeam.join.examples import CORRECTION
from monobeam.models.config import Config
from monobeam.models.metrics import ScoreHistogram
from monobeam.models.trainer import Trainer
from monobeam.store.memory import MemoryBackend
from monobeam.store.store import Store


class FrozenBaseline:
    """Trains on the first blocks of the examples log, until it has learnt ``examples`` of them, then only scores.

    It is the same model with the same settings as the one in training, in memory; take blocks in the order of the log.
    """

    def __init__(self, config: Config, examples: int) -> None:
        self._trainer = Trainer(config, Store(config.store_spec(), MemoryBackend()))
        self._label = f"_label.{config.model.label}"
        self._left = examples

    @property
    def frozen(self) -> bool:
        """Whether it has learnt all that it ever will."""
        return self._left <= 0

    def add(self, block: pa.RecordBatch, partition: int, offset: int) -> ScoreHistogram | None:
        """Learn a block (None), or score it: the histogram of its new rows without corrections."""
        if not self.frozen:
            self._left -= self._trainer.train(block, partition, offset).examples
            return None
        decided_s = int(np.asarray(block.column("_decided")).max(initial=0)) // 1_000_000
        fresh = self._trainer.store.unseen(np.asarray(block.column("_key")), decided_s)
        block = block.filter(pa.array(fresh & (np.asarray(block.column("_kind")) != CORRECTION)))
        labels, weights = (np.asarray(block.column(name)) for name in (self._label, "_weight"))
        return ScoreHistogram.of(self._trainer.score(block), labels, weights)
