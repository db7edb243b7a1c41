"""Join impressions and actions: the engine of ``monobeam.join`` on Beam state and timers."""

from __future__ import annotations

import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.coders import BytesCoder
from apache_beam.metrics import Metrics
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import Duration, Timestamp

from monobeam.join.cold import ColdStore, open_cold
from monobeam.join.engine import Advanced, JoinEngine
from monobeam.join.settings import JoinSettings
from monobeam.logs import block, schemas
from monobeam.transforms.append import Run, run_of
from monobeam.transforms.measures import measure
from monobeam.transforms.pace import Pace
from monobeam.transforms.read import KeyedBlock

DEAD_LETTERS = "dead_letters"
METRICS = "metrics"
END_OF_TIME_US = (1 << 62) - 1

_ADD, _ADVANCE = b"B", b"A"
_SNAPSHOT_MIN_BYTES = 1 << 20


@dataclass
class Join(beam.PTransform[Any, Any]):
    """Blocks of impressions and actions to blocks of examples, per join shard.

    Main output: ``Run`` for the examples log, partition = shard, in canonical order (DESIGN 5). Output
    ``dead_letters``: ``Run`` of actions that never matched. Output ``metrics``: ``Run`` of the conservation counters.
    With ``tailed`` time moves by event-time timers; otherwise everything is decided once all input has been seen.
    ``behind_us``: how far behind the runner's watermark records may be (one of a source that knows no disorder).
    """

    settings: Mapping[int, JoinSettings]
    cold: str
    tailed: bool
    behind_us: int = 0

    def expand(self, blocks: beam.PCollection[KeyedBlock]) -> Any:
        """Wire the one stateful step."""
        join = _JoinBlocks(dict(self.settings), self.cold, self.tailed, self.behind_us)
        steps = beam.ParDo(join).with_output_types(Run, **{DEAD_LETTERS: Run, METRICS: Run})
        return blocks | "Blocks" >> steps.with_outputs(DEAD_LETTERS, METRICS, main="examples")


@dataclass
class _Cached:
    """An engine and the token of the Beam state that it mirrors."""

    engine: JoinEngine
    pace: Pace
    token: bytes = b""
    logged_bytes: int = 0
    snapshot_bytes: int = 0
    reported: dict[str, int] = field(default_factory=dict)


class _Engines:
    """The engines of this process: a cache of Beam state that any bundle may rebuild."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cached: dict[tuple[str, int], _Cached] = {}
        self._cold: dict[str, ColdStore] = {}

    def get(self, job: str, shard: int, token: bytes | None, rebuild: Callable[[], _Cached]) -> _Cached:
        with self._lock:
            cached = self._cached.get((job, shard))
        if cached is None or not token or cached.token != token:
            cached = rebuild()
            with self._lock:
                self._cached[job, shard] = cached
        return cached

    def cold(self, uri: str) -> ColdStore:
        with self._lock:
            if uri not in self._cold:
                self._cold[uri] = open_cold(uri)
            return self._cold[uri]

    def close(self) -> None:
        with self._lock:
            self._cached.clear()
            for uri in [uri for uri in self._cold if uri != "memory:"]:
                self._cold.pop(uri).close()


_engines = _Engines()


def close_all() -> None:
    """Forget the engines of this process, and close their cold stores (the end of a pipeline)."""
    _engines.close()


class _JoinBlocks(beam.DoFn):
    """Keeps a journal of what the engine was told (and now and then a snapshot) in Beam state.

    Engine state = snapshot + journal, always. The token changes with every bundle that writes; a cached engine with
    another token than the state's was left behind by a retried or moved bundle and is rebuilt.
    """

    JOURNAL = BagStateSpec("journal", BytesCoder())
    SNAPSHOT = ReadModifyWriteStateSpec("snapshot", BytesCoder())
    TOKEN = ReadModifyWriteStateSpec("token", BytesCoder())
    DUE = TimerSpec("due", TimeDomain.WATERMARK)

    def __init__(self, settings: dict[int, JoinSettings], cold: str, tailed: bool, behind_us: int = 0) -> None:
        self._settings = settings
        self._cold = cold
        self._tailed = tailed
        self._behind_us = behind_us
        self._job = uuid.uuid4().hex

    def process(
        self,
        keyed: KeyedBlock,
        journal: Any = beam.DoFn.StateParam(JOURNAL),
        snapshot: Any = beam.DoFn.StateParam(SNAPSHOT),
        token: Any = beam.DoFn.StateParam(TOKEN),
        due: Any = beam.DoFn.TimerParam(DUE),
    ) -> Iterator[Any]:
        shard, data = keyed
        cached = self._open(shard, journal, snapshot, token)
        batch = block.decode(data)
        _measure_lateness(batch, cached.engine.watermark_us)
        cached.engine.add(batch)
        self._write(cached, _ADD + data, journal, snapshot, token)
        self._schedule(cached, due)
        self._count(cached)
        if block.kind(batch) == "rejects":  # no timer will ever fire for them
            yield self._report(shard, cached)

    @on_timer(DUE)
    def advance(
        self,
        shard: int = beam.DoFn.KeyParam,
        fired: Timestamp = beam.DoFn.TimestampParam,
        journal: Any = beam.DoFn.StateParam(JOURNAL),
        snapshot: Any = beam.DoFn.StateParam(SNAPSHOT),
        token: Any = beam.DoFn.StateParam(TOKEN),
        due: Any = beam.DoFn.TimerParam(DUE),
    ) -> Iterator[Any]:
        watermark_us = fired.micros - self._behind_us if self._tailed else END_OF_TIME_US
        cached = self._open(shard, journal, snapshot, token)
        advanced = cached.engine.advance(watermark_us)
        self._write(cached, _ADVANCE + struct.pack("<q", watermark_us), journal, snapshot, token)
        self._count(cached)
        if self._tailed:
            cached.pace.fired(watermark_us, time.time_ns() // 1000)
            self._schedule(cached, due)
        yield from self._emit(shard, cached, advanced)

    def _open(self, shard: int, journal: Any, snapshot: Any, token: Any) -> _Cached:
        """The engine as the state has it. Until ``_write`` it mirrors none: whatever raises leaves it halfway."""
        cached = _engines.get(self._job, shard, token.read(), lambda: self._rebuild(shard, journal, snapshot))
        cached.token = b""
        return cached

    def _rebuild(self, shard: int, journal: Any, snapshot: Any) -> _Cached:
        engine = JoinEngine(self._settings[shard], _engines.cold(self._cold))
        cached = _Cached(engine, Pace(self._settings[shard].tick_us))
        saved = snapshot.read()
        if saved:
            engine.restore(saved)
            cached.snapshot_bytes = len(saved)
        for entry in journal.read():
            cached.logged_bytes += len(entry)
            if entry[:1] == _ADD:
                engine.add(block.decode(entry[1:]))
            else:
                engine.advance(struct.unpack("<q", entry[1:])[0])
        cached.reported = dict(engine.counters)
        return cached

    def _write(self, cached: _Cached, entry: bytes, journal: Any, snapshot: Any, token: Any) -> None:
        """Journal the entry, or replace the journal by a snapshot once that is smaller: amortised O(1) a byte."""
        cached.logged_bytes += len(entry)
        if cached.logged_bytes > max(_SNAPSHOT_MIN_BYTES, 2 * cached.snapshot_bytes):
            saved = cached.engine.snapshot()
            snapshot.write(saved)
            journal.clear()
            cached.snapshot_bytes, cached.logged_bytes = len(saved), 0
        else:
            journal.add(entry)
        cached.token = uuid.uuid4().bytes
        token.write(cached.token)

    def _schedule(self, cached: _Cached, due: Any) -> None:
        if not self._tailed:
            due.set(GlobalWindow().max_timestamp() - Duration(micros=1000))
            return
        next_due = cached.engine.next_due()
        if next_due is not None:
            # Beam carries timers in milliseconds and cuts off the rest: one that fires too early finds nothing due.
            at_us = cached.pace.next(next_due) + self._behind_us
            due.set(Timestamp(micros=-(-at_us // 1000) * 1000))

    def _emit(self, shard: int, cached: _Cached, advanced: Advanced) -> Iterator[Any]:
        for examples in advanced.examples:
            measure("join", "block_examples", examples.num_rows)
            yield run_of(shard, schemas.EXAMPLES, _example_record(shard, examples))
        if advanced.dead_letters:
            yield beam.pvalue.TaggedOutput(DEAD_LETTERS, run_of(0, schemas.DEAD_LETTERS, *advanced.dead_letters))
        yield self._report(shard, cached)

    def _report(self, shard: int, cached: _Cached) -> beam.pvalue.TaggedOutput:
        """The conservation counters as they are now, for the log of metrics."""
        record = {
            "component": "join",
            "key": str(shard),
            "position": 0,
            "time": time.time_ns() // 1000,
            "values": {name: float(count) for name, count in cached.engine.counters.items()},
            "arrays": {},
        }
        return beam.pvalue.TaggedOutput(METRICS, run_of(0, schemas.METRICS, record))

    def _count(self, cached: _Cached) -> None:
        """Tell Beam what the counters have gained in this bundle; of earlier ones a rebuilt engine knows nothing."""
        counters = cached.engine.counters
        for name, count in counters.items():
            difference = count - cached.reported.get(name, 0)
            if difference:
                Metrics.counter("monobeam.join", name).inc(difference)
        cached.reported = counters


def _measure_lateness(batch: pa.RecordBatch, watermark_us: int) -> None:
    """How far behind event time the latest record of a block is, if it is."""
    if block.kind(batch) == "rejects" or not batch.num_rows:
        return
    behind_us = watermark_us - pc.min(batch.column("_time")).as_py()
    if behind_us > 0:
        measure("join", "late_ms", behind_us / 1000)


def _example_record(shard: int, examples: pa.RecordBatch) -> dict[str, Any]:
    tick = int((examples.schema.metadata or {})[b"tick"])
    return {"shard": shard, "tick": tick, "count": examples.num_rows, "block": block.encode(examples)}
