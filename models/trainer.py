"""The trainer: a fold over the examples log into a parameter store, with progressive validation.

One block is one minibatch. Every block is scored before it is learnt from, so the metrics are those of predictions on
examples that the model has not seen (McMahan et al. 2013, section 5.1). The loss is the SUM of the weighted log
losses of the block: a row then learns from each of its examples as much in a large block as in a small one, while
blocks are as large as traffic happens to make them (with the mean, progressive AUC on MovieLens-100k falls by 0.05).

What is learnt does not depend on when commits happen or on how often the trainer is restarted: time comes from the
examples themselves, and dense weights, optimizer state, example keys, sightings, positions and the number of examples
trained, which learning rates depend on, are all in the commit. Ids that have been idle for too long are forgotten when
they come again, whether or not the sweep of a commit has come to them.

With ``training.parallel`` several trainers share one store, each with partitions of its own (``models.shared_dense``).
What they learn then depends on how their steps fall between each other; that each example is trained once does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from monobeam.join.examples import CORRECTION, NEGATIVE
from monobeam.models.admission import Admission
from monobeam.models.arithmetic import fix_threads_and_order, training_arithmetic
from monobeam.models.config import Config
from monobeam.models.deepfm import Model, build, set_bias
from monobeam.models.dense import DenseWeights
from monobeam.models.features import FeatureEncoder
from monobeam.models.progress import Progress
from monobeam.models.rows import Lookups, Pulls
from monobeam.models.shared_dense import SharedDense
from monobeam.models.window import BlockReport, Metrics, Window
from monobeam.store import dense
from monobeam.store.ledger import PARTITIONS
from monobeam.store.parameters import ParameterStore
from monobeam.store.sync import SyncEvent

EXPIRE_BUDGET = 4096  # buckets of each table looked at for idle ids at each commit; at the start, all of them


class Trainer:
    """Trains one model on blocks of examples, in log order; not for several threads at once.

    A store that holds a commit is continued from it, bit for bit. After an exception the store's memory may hold half a
    block: drop both and open them again. ``partition``: the one that it trains on, where trainers work in parallel.
    """

    def __init__(self, config: Config, store: ParameterStore, partition: int | None = None) -> None:
        if config.training.parallel != (partition is not None):
            raise ValueError(f"partition {partition}: to be given where training.parallel, and only there")
        fix_threads_and_order()
        self.config = config
        self.store = store
        self.model = build(config)
        self._encoder = FeatureEncoder(config)
        self._admission = Admission(config, store)
        self._dense = _dense_weights(config, self.model, store)
        self._label = f"_label.{config.model.label}"
        self._partition = partition
        self._positions = {p: at for p, at in store.positions().items() if partition in (None, p)}
        meta = store.meta()
        self._progress = Progress(meta if partition is None else _of(meta, partition), config.join.negative_rate)
        self._others = self._elsewhere()
        self._set_bias()
        # The sweep of the commits begins anew: what it had not come to would stay for ever.
        store.expire(self._progress.clock_s)
        self._advanced = False
        # Of trainers in parallel, others may have said since that nothing waits.
        self._dense_changed = bool(meta.get("dense_waits", False)) or bool(partition is not None and self._positions)
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
        with self.store.block(partition, offset) as kept, training_arithmetic():
            report = self._train(block, partition)
            if self.config.training.parallel:
                kept.update(self._progress.save())
        self._positions[partition] = offset + 1
        self._advanced = True
        return self._window.add(report)

    def score(self, block: pa.RecordBatch) -> npt.NDArray[np.float32]:
        """Logits [B] of a block's rows. Reads only: a row that is not in the store counts as zeros."""
        encoded = self._encoder.encode(block)
        with torch.no_grad():
            with self.store.lock:
                self._dense.look()
                vectors = self.model.embedding(encoded.bags, Lookups(self.store))
            logits: Tensor = self.model(vectors, torch.from_numpy(encoded.numeric))
        return logits.numpy()

    def commit(self, now_us: int, *, final: bool = False) -> tuple[list[SyncEvent], Metrics]:
        """Make everything up to here durable; gives the events for serving and the metrics since the last commit.

        ``final``: publish dense weights now, whatever their own interval. Where nothing changed there is no commit and
        there are no events.
        """
        publish = self._dense_changed and (final or self._dense_is_due(now_us))
        metrics = self._window.metrics(self._progress.rate)
        if not self._advanced and not publish:
            return [], metrics
        with self.store.lock:
            self.store.expire(self._progress.clock_s, EXPIRE_BUDGET)
            if publish:
                self._dense.look()
            state = self._dense.state()
            events = self.store.commit(
                self._positions,
                None if state is None else dense.encode(state),
                self._dense.values() if publish else None,
                self._window.arrivals(),
                now_us,
                self._meta(now_us, publish),
            )
        if publish:
            self._dense_synced_us, self._dense_changed = now_us, False
        self._advanced = False
        self._others = self._elsewhere()
        self._window = Window()
        return events, self._with_store(metrics)

    def _set_bias(self) -> None:
        set_bias(self.model, self._progress.base_rate.logit([other.base_rate for other in self._others]))

    def _dense_is_due(self, now_us: int) -> bool:
        """Whether dense weights were published so long ago that it is time again; by any of trainers in parallel."""
        last_us = self._dense_synced_us
        if self.config.training.parallel:
            last_us = self.store.meta().get("dense_synced_us")
        every_us = self.config.store.dense_sync_every_us
        return last_us is None or not 0 <= now_us - last_us < every_us  # below 0 where the clock was put back

    def _meta(self, now_us: int, publish: bool) -> dict[str, Any]:
        waits = {"dense_waits": self._dense_changed and not publish}
        if not self.config.training.parallel:
            return {**self._progress.save(), **waits}
        synced = {"dense_synced_us": now_us if publish else self.store.meta().get("dense_synced_us")}
        return {"rate": self._progress.rate, **waits, **synced}  # the rest is said partition by partition

    def _elsewhere(self) -> list[Progress]:
        """How far the trainers of other partitions had come by the last commit."""
        if self._partition is None:
            return []
        meta = self.store.meta()
        others = {int(p) for p in meta.get(PARTITIONS, {})} - {self._partition}
        return [Progress(_of(meta, p), self.config.join.negative_rate) for p in sorted(others)]

    def _with_store(self, metrics: Metrics) -> Metrics:
        """The metrics of a commit, with what the store is after it."""
        store = {"rows": self.store.rows, "memory_bytes": self.store.memory_bytes, "epoch": min(self.store.epochs)}
        return {**metrics, "values": metrics["values"] | {name: float(value) for name, value in store.items()}}

    def _train(self, block: pa.RecordBatch, partition: int) -> BlockReport:
        decided_s = np.asarray(block.column("_decided")) // 1_000_000
        forgotten = self._forgotten(block, partition, decided_s)
        self._progress.clock_s = max(self._progress.clock_s, int(decided_s.max(initial=0)))
        self._progress.reach.advance(block, partition)
        unseen = ~forgotten
        unseen[unseen] = self.store.unseen(np.asarray(block.column("_key"))[unseen], self._progress.clock_s)
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
        retention_s = self.config.training.example_retention_us // 1_000_000
        old: npt.NDArray[np.bool_] = decided_s <= self._progress.clock_s - retention_s
        return old & self._progress.reach.includes(block, partition) if old.any() else old

    def _learn(self, block: pa.RecordBatch, report: BlockReport) -> BlockReport:
        progress, training = self._progress, self.config.training
        progress.trained += block.num_rows
        encoded = self._encoder.encode(block)
        labels, weights = (np.array(block.column(name)) for name in (self._label, "_weight"))
        self.store.expire_keys(encoded.bags.keys, progress.clock_s)
        rows = Pulls(self.store, self._admission, progress.clock_s)
        self._dense.refresh(progress.clock_s)
        logits = self.model(self.model.embedding(encoded.bags, rows), torch.from_numpy(encoded.numeric))
        loss = binary_cross_entropy_with_logits(
            logits, torch.from_numpy(labels), torch.from_numpy(weights), reduction="sum"
        )
        self._dense.clear()
        torch.autograd.backward(loss)
        trained = progress.trained + sum(other.trained for other in self._others)
        rows.push(training.sparse.rate(trained))
        self._dense.step(training.dense.rate(trained))
        progress.base_rate.add(labels, weights)
        self._set_bias()
        self._dense_changed = True
        sampled = np.asarray(block.column("_rate"))[np.asarray(block.column("_kind")) == NEGATIVE]
        progress.rate = float(sampled.min()) if len(sampled) else progress.rate
        corrections = self._window.observe(block, logits.detach().numpy(), labels, weights)
        return replace(
            report,
            examples=block.num_rows,
            corrections=corrections,
            positives=int((labels > 0.5).sum()),
            ids=len(encoded.bags.keys),
            loss=loss.item(),
        )


def _of(meta: Mapping[str, Any], partition: int) -> Mapping[str, Any]:
    """What the trainer of a partition said when it had ended its last block."""
    found: Mapping[str, Any] = meta.get(PARTITIONS, {}).get(str(partition), {})
    return found


def _dense_weights(config: Config, model: Model, store: ParameterStore) -> DenseWeights | SharedDense:
    """The weights of a module as the store has them: its rows, or what the last trainer put into its commit."""
    if config.training.parallel:
        return SharedDense(model, config.training.dense, store)
    own = DenseWeights(model, config.training.dense)
    if (state := store.dense()) is not None:
        own.restore(dense.decode(state))
    return own
