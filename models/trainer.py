"""The trainer: a fold over the examples log into a parameter store, with progressive validation.

One block is one minibatch. Every block is scored before it is learnt from, so the metrics are those of predictions on
examples that the model has not seen (McMahan et al. 2013, section 5.1). The loss is the SUM of the weighted log
losses of the block: a row then learns from each of its examples as much in a large block as in a small one, while
blocks are as large as traffic happens to make them (with the mean, progressive AUC on MovieLens-100k falls by 0.05).

What is learnt does not depend on when commits happen or on how often the trainer is restarted: time comes from the
examples themselves, and dense weights, optimizer state, example keys, sightings, positions and the number of examples
trained, which learning rates depend on, are all in the commit. Ids that have been idle for too long are forgotten when
they come again, whether or not the sweep of a commit has come to them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from monobeam.join.examples import CORRECTION, NEGATIVE
from monobeam.models.admission import Admission
from monobeam.models.arithmetic import fix_threads_and_order, training_arithmetic
from monobeam.models.base_rate import BaseRate
from monobeam.models.config import Config
from monobeam.models.deepfm import build, set_bias
from monobeam.models.dense import DenseWeights
from monobeam.models.features import FeatureEncoder
from monobeam.models.reach import Reach
from monobeam.models.rows import Lookups, Pulls
from monobeam.models.window import BlockReport, Metrics, Window
from monobeam.store import dense
from monobeam.store.parameters import ParameterStore
from monobeam.store.sync import SyncEvent

EXPIRE_BUDGET = 4096  # buckets of each table looked at for idle ids at each commit; at the start, all of them


class Trainer:
    """Trains one model on blocks of examples, in log order; not for several threads at once.

    A store that holds a commit is continued from it, bit for bit. After an exception the store's memory may hold half a
    block: drop both and open them again.
    """

    def __init__(self, config: Config, store: ParameterStore) -> None:
        fix_threads_and_order()
        self.config = config
        self.store = store
        self.model = build(config)
        self._encoder = FeatureEncoder(config)
        self._admission = Admission(config, store)
        self._dense = DenseWeights(self.model, config.training.dense)
        if (state := store.dense()) is not None:
            self._dense.restore(dense.decode(state))
        self._label = f"_label.{config.model.label}"
        self._positions = dict(store.positions())
        meta = store.meta()
        self._clock_s = int(meta.get("clock_s", 0))
        self._trained = int(meta.get("trained", 0))
        self._rate = float(meta.get("rate", config.join.negative_rate))
        self._reach = Reach(meta.get("reach", {}))
        self._base_rate = BaseRate(meta.get("base_rate", (1.0, 1.0)))
        store.expire(self._clock_s)  # the sweep of the commits begins anew: what it had not come to would stay for ever
        self._advanced = False
        self._dense_changed = bool(meta.get("dense_waits", False))
        self._dense_synced_us: int | None = None
        self._window = Window()

    @property
    def positions(self) -> dict[int, int]:
        """The next offset of each partition of the examples log."""
        return dict(self._positions)

    def train(self, block: pa.RecordBatch, partition: int, offset: int) -> BlockReport:
        """Score and learn one block, the record at ``offset`` of the examples log; a repeated offset is skipped."""
        if offset < self._positions.get(partition, 0):
            return self._window.add(BlockReport(skipped=block.num_rows))
        with self.store.block(partition, offset), training_arithmetic():
            report = self._train(block, partition)
        self._positions[partition] = offset + 1
        self._advanced = True
        return self._window.add(report)

    def score(self, block: pa.RecordBatch) -> npt.NDArray[np.float32]:
        """Logits [B] of a block's rows. Reads only: a row that is not in the store counts as zeros."""
        encoded = self._encoder.encode(block)
        with torch.no_grad():
            with self.store.lock:
                vectors = self.model.embedding(encoded.bags, Lookups(self.store))
            logits: Tensor = self.model(vectors, torch.from_numpy(encoded.numeric))
        return logits.numpy()

    def commit(self, now_us: int, *, final: bool = False) -> tuple[list[SyncEvent], Metrics]:
        """Make everything up to here durable; gives the events for serving and the metrics since the last commit.

        ``final``: publish dense weights now, whatever their own interval. Where nothing changed there is no commit and
        there are no events.
        """
        last_us, every_us = self._dense_synced_us, self.config.store.dense_sync_every_us
        is_due = last_us is None or not 0 <= now_us - last_us < every_us  # below 0 where the clock was put back
        publish = self._dense_changed and (final or is_due)
        metrics = self._window.metrics(self._rate)
        if not self._advanced and not publish:
            return [], metrics
        with self.store.lock:
            self.store.expire(self._clock_s, EXPIRE_BUDGET)
            events = self.store.commit(
                self._positions,
                dense.encode(self._dense.state()),
                self._dense.values() if publish else None,
                self._window.arrivals(),
                now_us,
                {
                    "trained": self._trained,
                    "rate": self._rate,
                    "clock_s": self._clock_s,
                    "reach": self._reach.save(),
                    "base_rate": self._base_rate.save(),
                    "dense_waits": self._dense_changed and not publish,
                },
            )
        if publish:
            self._dense_synced_us, self._dense_changed = now_us, False
        self._advanced = False
        self._window = Window()
        return events, self._with_store(metrics)

    def _with_store(self, metrics: Metrics) -> Metrics:
        """The metrics of a commit, with what the store is after it."""
        store = {"rows": self.store.rows, "memory_bytes": self.store.memory_bytes, "epoch": min(self.store.epochs)}
        return {**metrics, "values": metrics["values"] | {name: float(value) for name, value in store.items()}}

    def _train(self, block: pa.RecordBatch, partition: int) -> BlockReport:
        decided_s = np.asarray(block.column("_decided")) // 1_000_000
        forgotten = self._forgotten(block, partition, decided_s)
        self._clock_s = max(self._clock_s, int(decided_s.max(initial=0)))
        self._reach.advance(block, partition)
        unseen = ~forgotten
        unseen[unseen] = self.store.unseen(np.asarray(block.column("_key"))[unseen], self._clock_s)
        wanted = np.asarray(block.column(self._label).is_valid())  # null: a correction of other labels
        if self.config.training.corrections == "skip":
            wanted = wanted & (np.asarray(block.column("_kind")) != CORRECTION)
        report = BlockReport(
            repeated=int((~unseen & ~forgotten).sum()),
            forgotten=int(forgotten.sum()),
            passed_over=int((unseen & ~wanted).sum()),
        )
        kept = unseen & wanted
        if not kept.any():
            return report
        return self._learn(block if kept.all() else block.filter(pa.array(kept)), report)

    def _forgotten(
        self, block: pa.RecordBatch, partition: int, decided_s: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.bool_]:
        """Which rows are repetitions from a time whose example keys the store may have forgotten."""
        old: npt.NDArray[np.bool_] = decided_s <= self._clock_s - self.config.training.example_retention_us // 1_000_000
        return old & self._reach.includes(block, partition) if old.any() else old

    def _learn(self, block: pa.RecordBatch, report: BlockReport) -> BlockReport:
        self._trained += block.num_rows
        training = self.config.training
        encoded = self._encoder.encode(block)
        labels, weights = (np.array(block.column(name)) for name in (self._label, "_weight"))
        self.store.expire_keys(encoded.bags.keys, self._clock_s)
        rows = Pulls(self.store, self._admission, self._clock_s)
        logits = self.model(self.model.embedding(encoded.bags, rows), torch.from_numpy(encoded.numeric))
        loss = binary_cross_entropy_with_logits(
            logits, torch.from_numpy(labels), torch.from_numpy(weights), reduction="sum"
        )
        self._dense.clear()
        torch.autograd.backward(loss)
        rows.push(training.sparse.rate(self._trained))
        self._dense.step(training.dense.rate(self._trained))
        self._base_rate.add(labels, weights)
        set_bias(self.model, self._base_rate.logit)
        self._dense_changed = True
        sampled = np.asarray(block.column("_rate"))[np.asarray(block.column("_kind")) == NEGATIVE]
        self._rate = float(sampled.min()) if len(sampled) else self._rate
        corrections = self._window.observe(block, logits.detach().numpy(), labels, weights)
        return replace(
            report,
            examples=block.num_rows,
            corrections=corrections,
            positives=int((labels > 0.5).sum()),
            ids=len(encoded.bags.keys),
            loss=loss.item(),
        )
