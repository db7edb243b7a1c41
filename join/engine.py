"""The join of impressions and actions, for one shard: blocks in, blocks of examples out."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from monobeam.join import snapshot
from monobeam.join.advance import Advance, Advanced
from monobeam.join.cold import ColdStore
from monobeam.join.frame import Columns
from monobeam.join.settings import JoinSettings
from monobeam.join.state import State
from monobeam.logs import block

__all__ = ["Advanced", "JoinEngine"]


class JoinEngine:
    """Joins what was shown with what people did, in event time.

    As long as records come before the watermark passes their time, everything that is emitted is a pure function of the
    set of records: not of their order of arrival, how they are cut into blocks or how often ``advance`` is called. Late
    records are taken in with the next tick, and counted.
    """

    def __init__(self, settings: JoinSettings, cold: ColdStore) -> None:
        self._settings = settings
        self._cold = cold
        self._state = State(settings)

    @property
    def counters(self) -> dict[str, int]:
        """What became of every record (``monobeam.join.counters``)."""
        return dict(self._state.counters.counts)

    @property
    def watermark_us(self) -> int:
        """How far event time has been worked through: earlier records that come now are late."""
        return self._state.watermark

    def add(self, batch: pa.RecordBatch) -> None:
        """Take in a block of impressions, actions or rejects, as ``monobeam.logs.columns`` makes them.

        Raises:
            ValueError: on a block of another kind.
        """
        kind = block.kind(batch)
        if kind == "impressions":
            self._add_impressions(batch)
        elif kind == "actions":
            self._add_actions(batch)
        elif kind == "rejects":
            for rejected, count in zip(*(batch.column(name).to_pylist() for name in ("_kind", "_count")), strict=True):
                self._state.counters.rejected(rejected, count)
        else:
            raise ValueError(f"block of kind {kind!r}: must be impressions, actions or rejects")

    def advance(self, watermark_us: int) -> Advanced:
        """Decide all that the watermark, taken down to the tick, has passed; going back does nothing."""
        watermark_us = self._settings.tick_start(watermark_us)
        if self._settings.until_us is not None:
            watermark_us = min(watermark_us, self._settings.tick_start(self._settings.until_us))
        if watermark_us <= self._state.watermark:
            return Advanced([], [])
        return Advance(self._settings, self._state, self._cold, watermark_us).run()

    def next_due(self) -> int | None:
        """The smallest watermark at which ``advance`` has something to do; None while there is nothing."""
        first = self._state.first_due()
        if first is None:
            return None
        due = self._settings.tick_start(first) + self._settings.tick_us
        until = self._settings.until_us
        return None if until is not None and due > self._settings.tick_start(until) else due

    def snapshot(self) -> bytes:
        """Everything that the engine remembers; the cold store is not in it."""
        return snapshot.save(self._settings, self._state)

    def restore(self, data: bytes) -> None:
        """Take the place of the engine that ``snapshot`` was called on; ValueError if the data is not for this join."""
        self._state = snapshot.load(self._settings, data)

    def _add_impressions(self, batch: pa.RecordBatch) -> None:
        columns = self._columns(batch)
        columns["ref"] = self._state.hot.features.add(batch)
        self._state.impressions.push(columns)
        self._state.counters.impressions(batch.num_rows, _late(columns))

    def _add_actions(self, batch: pa.RecordBatch) -> None:
        columns = self._columns(batch)
        columns["type"] = self._state.types.codes(batch.column("_type"))
        columns["value"] = batch.column("_value").to_numpy() + 0.0  # -0.0 and 0.0 are one value
        columns["arrival"] = batch.column("_arrival").to_numpy()
        self._state.actions.push(columns)
        self._state.counters.actions(batch.num_rows, _late(columns))

    def _columns(self, batch: pa.RecordBatch) -> Columns:
        time = batch.column("_time").to_numpy()
        known_from = max(self._state.watermark, block.known_from(batch) or self._state.watermark)
        return {
            "id": batch.column("_id").to_numpy(zero_copy_only=False),
            "time": time,
            "due": np.maximum(time, known_from),
            "log": np.full(len(time), self._state.logs.code(block.log(batch)), np.int64),
            "partition": batch.column("_partition").to_numpy(),
            "offset": batch.column("_offset").to_numpy(),
        }


def _late(columns: Columns) -> int:
    return int(np.count_nonzero(columns["due"] > columns["time"]))
