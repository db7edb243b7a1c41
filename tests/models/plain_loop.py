"""Training as a short torch script would do it: what the trainer's parameters must equal, bit for bit."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import torch

from monobeam.models.config import Config
from monobeam.models.deepfm import build
from monobeam.models.features import FeatureEncoder
from monobeam.models.optimizers import OptimizerConfig

_WORD = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15


class PlainLoop:
    """The same training without any of monobeam's store: a dict of rows, torch autograd, textbook Adagrad.

    It knows linear schedules ("polynomial" with power 1), weight decay and clipping by norm.
    """

    def __init__(self, config: Config) -> None:
        torch.set_num_threads(1)
        self.config = config
        self.model = build(config)
        dense = config.training.dense
        self.adam = torch.optim.Adam(self.model.parameters(), weight_decay=dense.hyper["weight_decay"], fused=True)
        self.trained = 0
        self.rows: dict[int, torch.Tensor] = {}
        self.sums: dict[int, torch.Tensor] = {}
        self.encoder = FeatureEncoder(config)
        self.positives = self.negatives = 1.0

    def step(self, block: pa.RecordBatch) -> None:
        torch.set_flush_denormal(True)
        self._step(block)
        torch.set_flush_denormal(False)

    def _rate(self, optimizer: OptimizerConfig) -> float:
        schedule, rate = optimizer.schedule, optimizer.learning_rate
        if schedule.kind == "constant":
            return rate
        if self.trained < schedule.warmup:
            return rate * self.trained / schedule.warmup
        left = 1 - (self.trained - schedule.warmup) / schedule.examples
        return schedule.end_rate + (rate - schedule.end_rate) * max(left, 0.0)

    def _step(self, block: pa.RecordBatch) -> None:
        self.trained += block.num_rows
        sparse, dense = self.config.training.sparse, self.config.training.dense
        encoded = self.encoder.encode(block)
        keys = encoded.bags.keys
        distinct, place = (torch.from_numpy(a) for a in np.unique(keys, return_inverse=True))
        for key in distinct.tolist():
            self._meet(key)
        rows = torch.stack([self.rows[key] for key in distinct.tolist()])
        sums = torch.stack([self.sums[key] for key in distinct.tolist()])
        bag = torch.from_numpy(np.repeat(np.arange(len(encoded.bags)), np.diff(encoded.bags.offsets)))
        pooled = torch.zeros(len(encoded.bags), rows.shape[1]).index_add_(0, bag, rows[place])
        leaf = pooled.view(-1, block.num_rows, rows.shape[1]).requires_grad_()
        logits = self.model(leaf, torch.from_numpy(encoded.numeric))
        labels, weights = (torch.from_numpy(np.array(block.column(name))) for name in ("_label.like", "_weight"))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, weights, reduction="sum")
        self.adam.zero_grad()
        loss.backward()
        gradients = torch.zeros_like(rows).index_add_(0, place, leaf.grad.reshape(pooled.shape)[bag])
        gradients = _clipped(gradients, sparse.hyper["clip_norm"]) + sparse.hyper["weight_decay"] * rows
        sums = sums + gradients * gradients
        # Not torch.sqrt: MKL's is not correctly rounded, so its last bit is no reference for anybody.
        root = torch.from_numpy(np.sqrt(sums.numpy()))
        rows = rows - self._rate(sparse) * gradients / root
        if dense.hyper["clip_norm"]:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), dense.hyper["clip_norm"])
        self.adam.param_groups[0]["lr"] = self._rate(dense)
        self.adam.step()
        self.positives += float(weights[labels > 0.5].sum())
        self.negatives += float(weights[labels < 0.5].sum())
        self.model.fm.bias.data.fill_(math.log(self.positives / self.negatives))
        for i, key in enumerate(distinct.tolist()):
            self.rows[key], self.sums[key] = rows[i], sums[i]

    def _meet(self, key: int) -> None:
        if key not in self.rows:
            model = self.config.model
            first = _initial_row(key, model.seed, 1 + model.dim, model.init_scale)
            self.rows[key] = torch.from_numpy(first)
            self.sums[key] = torch.full((1 + model.dim,), self.config.training.sparse.hyper["initial_accumulator"])


def _clipped(gradients: torch.Tensor, norm: float) -> torch.Tensor:
    """Rows that are longer than ``norm`` (0: any length) scaled down to it; squares are summed in order."""
    squares = torch.zeros(len(gradients))
    for column in gradients.T:
        squares = squares + column * column
    length = torch.from_numpy(np.sqrt(squares.numpy()))
    ratio = torch.tensor(norm) / length  # not norm / length: torch would round 1 / length first
    scale = torch.where(length > norm, ratio, 1.0) if norm else torch.ones_like(length)
    return gradients * scale[:, None]


def _initial_row(key: int, seed: int, dim: int, scale: float) -> np.ndarray:
    """The definition of a row's first values (native/hash.h), in plain integers: uniform in [-scale, scale)."""
    start = _mix(key ^ _mix(seed + _GOLDEN & _WORD))
    bits = [_mix(start + i * _GOLDEN & _WORD) >> 40 for i in range(1, dim + 1)]
    unit = np.array(bits, np.float32) * np.float32(2**-23) - np.float32(1)
    return unit * np.float32(scale)


def _mix(x: int) -> int:
    x ^= x >> 30
    x = x * 0xBF58476D1CE4E5B9 & _WORD
    x ^= x >> 27
    x = x * 0x94D049BB133111EB & _WORD
    return x ^ x >> 31
