"""From a request to scores: encode, look up, one torch forward."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from monobeam.models.config import Config
from monobeam.models.deepfm import Model
from monobeam.models.features import FeatureEncoder
from monobeam.models.tails import TABLE
from monobeam.native import Table
from monobeam.serving.replica import Dense
from monobeam.serving.request import RankRequest
from monobeam.serving.size import check_size
from monobeam.store.bags import Bags, Keys, Mask
from monobeam.store.shard import known

MAX_SPLITS = 256
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Scores:
    """``probabilities`` float64 [N], calibrated for negative sampling; ``order``: the best first, ties by index."""

    probabilities: npt.NDArray[np.float64]
    order: npt.NDArray[np.int64]
    unknown_fids: int
    forward_us: float


@dataclass(frozen=True)
class _Part:
    """Some slots and numerics: their encoder, their places in the model, the user's features they need."""

    encoder: FeatureEncoder
    slots: npt.NDArray[np.int64]
    numerics: npt.NDArray[np.int64]
    user: frozenset[str]


class ReplicaRows:
    """Rows as a replica has them (``monobeam.models.rows.Rows``), while its follower may change them."""

    def __init__(self, tables: Mapping[str, Table]) -> None:
        self._tables = tables

    def known(self, keys: Keys) -> Mask:
        """Which ids have a row of their own."""
        return known(self._tables[TABLE], keys)

    def pooled(self, table: str, bags: Bags) -> torch.Tensor:
        """Sum of the rows of every bag; an id that is gone since it was known counts as zeros."""
        return torch.from_numpy(self.sums(table, bags))

    def sums(self, table: str, bags: Bags) -> Floats:
        """``pooled``, as an array."""
        # One call looks up and sums: between a find and a gather the follower could erase a row and reuse its place.
        return np.asarray(self._tables[table].lookup_pooled(bags.keys, bags.offsets))


class Predictor:
    """Scores requests with the rows of a replica's tables. Use it from one thread at a time."""

    def __init__(self, config: Config, tables: Mapping[str, Table]) -> None:
        self._config = config
        self._rows = ReplicaRows(tables)
        self._has_tails = any(slot.tail != "none" for slot in config.slots)
        self._splits: dict[frozenset[str], tuple[_Part | None, _Part]] = {}

    def score(self, request: RankRequest, dense: Dense) -> Scores:
        """Scores of the N candidates; check the request's size first.

        What belongs to the user alone is encoded and looked up once and broadcast; the result is bit for bit that of N
        examples with the user's features repeated, which is what training sees.
        """
        user, rest = self._split(frozenset(request.user))
        pooled = np.empty((len(self._config.slots), request.count, 1 + self._config.model.dim), np.float32)
        numeric = np.empty((request.count, len(self._config.numerics)), np.float32)
        unknown = 0
        if user is not None:
            unknown += self._fill(pooled, numeric, dense.module, user, _batch(request.user, 1))
        repeated = {
            name: _repeated(column, request.count) for name, column in request.user.items() if name in rest.user
        }
        batch = _batch({**repeated, **request.candidates}, request.count)
        unknown += self._fill(pooled, numeric, dense.module, rest, batch)
        started = time.perf_counter_ns()
        with torch.inference_mode():
            outputs = dense.module(torch.from_numpy(pooled), torch.from_numpy(numeric))
        logits = outputs.numpy().astype(np.float64) + math.log(dense.rate)
        forward_us = (time.perf_counter_ns() - started) / 1000
        return Scores(_sigmoid(logits), np.argsort(-logits, kind="stable"), unknown, forward_us)

    def check_size(self, request: RankRequest) -> None:
        """InvalidRequest where a request would take too long or too much memory."""
        check_size(self._config.slots, request)

    def _fill(self, pooled: Floats, numeric: Floats, model: Model, part: _Part, batch: pa.RecordBatch) -> int:
        """Put a part's vectors into ``pooled`` [S, N, D], its numbers into ``numeric`` [N, K]; counts unknown fids."""
        encoded = part.encoder.encode(batch)
        if self._has_tails:
            with torch.inference_mode():
                pooled[part.slots] = model.embedding(encoded.bags, self._rows, part.slots).numpy()
        else:  # the embedding would only pass the rows on, for a tenth of the time of a request
            sums = self._rows.sums(TABLE, encoded.bags)
            pooled[part.slots] = sums.reshape(len(part.slots), batch.num_rows, -1)
        numeric[:, part.numerics] = encoded.numeric
        return int(np.count_nonzero(~self._rows.known(encoded.bags.keys)))

    def _split(self, user: frozenset[str]) -> tuple[_Part | None, _Part]:
        """The part of the model that only the user's features reach (None: there is no such slot), and the rest."""
        if user not in self._splits:
            if len(self._splits) >= MAX_SPLITS:
                self._splits.clear()
            slots, numerics = self._config.slots, self._config.numerics
            of_user = [user.issuperset(slot.features) for slot in slots]
            if any(of_user) and not all(of_user):
                numeric_of_user = [numeric.feature in user for numeric in numerics]
                parts: tuple[_Part | None, _Part] = (
                    self._part(of_user, numeric_of_user, user),
                    self._part(_inverse(of_user), _inverse(numeric_of_user), user),
                )
            else:
                parts = (None, self._part([True] * len(slots), [True] * len(numerics), user))
            self._splits[user] = parts
        return self._splits[user]

    def _part(self, slots: Sequence[bool], numerics: Sequence[bool], user: frozenset[str]) -> _Part:
        slot_places, numeric_places = np.flatnonzero(slots), np.flatnonzero(numerics)
        config = replace(
            self._config,
            slots=tuple(self._config.slots[i] for i in slot_places),
            numerics=tuple(self._config.numerics[i] for i in numeric_places),
        )
        features = {f for slot in config.slots for f in slot.features} | {
            numeric.feature for numeric in config.numerics
        }
        return _Part(FeatureEncoder(config), slot_places, numeric_places, user & features)


def _inverse(flags: Sequence[bool]) -> list[bool]:
    return [not flag for flag in flags]


def _batch(columns: Mapping[str, pa.Array], rows: int) -> pa.RecordBatch:
    """A batch of that many rows, also when there is no column."""
    return pa.RecordBatch.from_pydict({"_row": pa.nulls(rows), **columns})


def _repeated(column: pa.Array, rows: int) -> pa.Array:
    """The one value of a column in every row, kept and hashed once."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), column)


def _sigmoid(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.exp(-np.logaddexp(0.0, -logits))
