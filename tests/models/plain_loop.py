"""Training as a short torch script would do it: what the trainer's parameters must equal, bit for bit."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from monobeam.models.config import Config, SlotConfig
from monobeam.models.deepfm import build
from monobeam.models.features import FeatureEncoder
from monobeam.models.optimizers import OptimizerConfig
from tests.native.hashes import hash_int, initial_row, uniform_draw

WIDE, NARROW = "embeddings", "narrow"


class PlainLoop:
    """The same training without any of monobeam's store: dicts of rows, torch autograd, textbook Adagrad.

    It knows linear schedules ("polynomial" with power 1), weight decay and clipping by norm.
    """

    def __init__(self, config: Config) -> None:
        torch.set_num_threads(1)
        self.config = config
        self.model = build(config)
        dense = config.training.dense
        self.adam = torch.optim.Adam(self.model.parameters(), weight_decay=dense.hyper["weight_decay"], fused=True)
        self.trained = 0
        self.rows: dict[str, dict[int, Tensor]] = {WIDE: {}, NARROW: {}}
        self.sums: dict[str, dict[int, Tensor]] = {WIDE: {}, NARROW: {}}
        self.updates: dict[str, Counter[int]] = {WIDE: Counter(), NARROW: Counter()}
        self.sightings: Counter[int] = Counter()
        self.admitted: set[int] = set()
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
        bags = [encoded.bags.keys[a:b].tolist() for a, b in pairwise(encoded.bags.offsets)]
        own, others = [], []
        for slot, start in zip(self.config.slots, range(0, len(bags), block.num_rows), strict=True):
            of_slot = [[(key, self._admit(key, slot)) for key in bag] for bag in bags[start : start + block.num_rows]]
            own += [[key for key, admitted in bag if admitted] for bag in of_slot]
            others.append([[key for key, admitted in bag if slot.tail == "narrow" or not admitted] for bag in of_slot])
        pulls = [Pull(self, WIDE, own)]
        vectors = list(pulls[0].leaf.view(len(self.config.slots), block.num_rows, -1))
        for place, slot in enumerate(self.config.slots):
            if slot.tail == "compose":
                pulls.append(
                    Pull(self, WIDE, [[fid for key in bag for fid in shared(key, slot)] for bag in others[place]])
                )
                vectors[place] = vectors[place] + pulls[-1].leaf
            if slot.tail == "narrow":
                pulls.append(Pull(self, NARROW, others[place]))
                projection = self.model.embedding.tails[str(slot.slot)].projection
                u = pulls[-1].leaf[:, 1:]
                lifted = sum(u[:, i, None] * projection[i] for i in range(len(projection)))
                vectors[place] = vectors[place] + torch.cat([pulls[-1].leaf[:, :1], lifted], 1)
        logits = self.model(torch.stack(vectors), torch.from_numpy(encoded.numeric))
        labels, weights = (torch.from_numpy(np.array(block.column(name))) for name in ("_label.like", "_weight"))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, weights, reduction="sum")
        self.adam.zero_grad()
        loss.backward()
        for pull in pulls:
            pull.adagrad(self._rate(sparse))
        if dense.hyper["clip_norm"]:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), dense.hyper["clip_norm"])
        self.adam.param_groups[0]["lr"] = self._rate(dense)
        self.adam.step()
        self.positives += float(weights[labels > 0.5].sum())
        self.negatives += float(weights[labels < 0.5].sum())
        self.model.fm.bias.data.fill_(math.log(self.positives / self.negatives))

    def _admit(self, key: int, slot: SlotConfig) -> bool:
        if slot.admit_count < 2 and slot.admit_probability == 1:
            return True
        self.sightings[key] += 1
        draw = uniform_draw(key, self.sightings[key], self.config.model.seed)
        if self.sightings[key] >= slot.admit_count and draw < slot.admit_probability:
            self.admitted.add(key)
        return key in self.admitted


def _clipped(gradients: torch.Tensor, norm: float) -> torch.Tensor:
    """Rows that are longer than ``norm`` (0: any length) scaled down to it; squares are summed in order, as float64."""
    squares = torch.zeros(len(gradients), dtype=torch.float64)
    for column in gradients.double().T:
        squares = squares + column * column
    length, most = torch.from_numpy(np.sqrt(squares.numpy())), torch.tensor(norm).double()
    ratio = (most / length).float()  # most is a tensor: of a number, torch would round 1 / length first
    scale = torch.where(length > most, ratio, 1.0) if norm else torch.ones_like(ratio)
    return gradients * scale[:, None]


class Pull:
    """Some bags of one table: their sums are a leaf, whose gradient teaches the rows."""

    def __init__(self, loop: PlainLoop, table: str, bags: list[list[int]]) -> None:
        self.loop, self.table = loop, table
        model, sparse = loop.config.model, loop.config.training.sparse
        self.dim = 1 + (model.dim if table == WIDE else model.tail_dim)
        self.keys = [key for bag in bags for key in bag]
        self.bag = torch.tensor([number for number, bag in enumerate(bags) for _ in bag], dtype=torch.int64)
        for key in self.keys:
            if key not in loop.rows[table]:
                first = initial_row(key, model.seed, self.dim, model.init_scale)
                loop.rows[table][key] = torch.from_numpy(first)
                loop.sums[table][key] = torch.full((self.dim,), sparse.hyper["initial_accumulator"])
        rows = torch.stack([loop.rows[table][key] for key in self.keys]) if self.keys else torch.zeros(0, self.dim)
        self.leaf = torch.zeros(len(bags), self.dim).index_add_(0, self.bag, rows).requires_grad_()

    def adagrad(self, rate: float) -> None:
        assert self.leaf.grad is not None
        gradients: defaultdict[int, Tensor] = defaultdict(lambda: torch.zeros(self.dim))
        for key, gradient in zip(self.keys, self.leaf.grad[self.bag], strict=True):
            gradients[key] = gradients[key] + gradient
        if not gradients:
            return
        rows, sums = ([of[self.table][key] for key in gradients] for of in (self.loop.rows, self.loop.sums))
        hyper = self.loop.config.training.sparse.hyper
        before = torch.stack(rows)
        g = _clipped(torch.stack(list(gradients.values())), hyper["clip_norm"]) + hyper["weight_decay"] * before
        summed = torch.stack(sums) + g * g
        # Not torch.sqrt: MKL's is not correctly rounded, so its last bit is no reference for anybody.
        root = torch.from_numpy(np.sqrt(summed.numpy()))
        moved = before - rate * g / root
        self.loop.rows[self.table] |= dict(zip(gradients, moved, strict=True))
        self.loop.sums[self.table] |= dict(zip(gradients, summed, strict=True))
        self.loop.updates[self.table].update(self.keys)


def shared(key: int, slot: SlotConfig) -> list[int]:
    """The shared rows of an id, as docs/formats.md says."""
    return [
        1 << 63 | slot.slot << 33 | partition << 30 | hash_int(key, seed) % slot.tail_rows
        for partition, seed in enumerate((0x72656D61696E, 0x71756F7469656E))
    ]
