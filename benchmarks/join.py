"""Events per CPU-second of the join, beside the same join one element at a time on Beam state.

Ours: two real Avro logs in files -> bulk decode -> shard split -> Arrow blocks as bytes -> one engine per shard, with
its cold store in LMDB -> blocks of examples as bytes. A tick of a second at a time, as a streaming run does it. The
stream has disorder, a few per cent of duplicates, of actions that come after the window (they need the cold store), of
records behind the watermark, and of actions without an impression.

One element at a time: the DoFn that a Beam user would write first, keyed by impression id, with the impression in
ReadModifyWrite state, its actions in a bag and an event-time timer for its window, on the in-process FnApiRunner with
the state cache off (it is faster so), reading the first part of the same logs by fastavro. It has no cold store and
does not look for late duplicates, which makes it faster than the same join would be. The time of an empty pipeline of
the same shape is taken off.

    python -m benchmarks.join [--events 400000] [--elements 30000]
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.coders import PickleCoder
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import worker_handlers
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Timestamp

from monobeam.join.engine import JoinEngine
from monobeam.join.lmdb_cold import LmdbCold
from monobeam.join.settings import JoinSettings, Label
from monobeam.join.shards import split
from monobeam.logs import block, columns, schemas
from monobeam.logs.log import Chunk, Log, open_log, records

START_US = 1_700_000_000_000_000
SECOND_US = 1_000_000
RATE = 10_000  # impressions a second
WINDOW_US = 5 * SECOND_US
DISORDER_US = 500_000
SHARDS = 2
CHUNK = 4096
SETTINGS = JoinSettings(
    window_us=WINDOW_US,
    retention_us=60 * SECOND_US,
    tick_us=SECOND_US,
    labels=(Label("click", "click"), Label("watch", "watch", 10.0)),
    negative_rate=0.5,
)
FEATURES = {
    "user": "string",
    "item": "string",
    "tags": {"type": "array", "items": "string"},
    "hour": "long",
    "price": "double",
}
IMPRESSIONS = schemas.impressions(FEATURES)


def shown(rng: np.random.Generator, count: int) -> list[dict[str, Any]]:
    """Impressions in order of time."""
    times = START_US + np.arange(count) * SECOND_US // RATE
    users, items = rng.integers(0, 50_000, count), rng.zipf(1.3, count) % 20_000
    return [
        {
            "impression_id": f"{users[i]:05x}-{i:09d}",
            "time": int(times[i]),
            "user": f"u{users[i]}",
            "item": f"i{items[i]}",
            "tags": [f"t{items[i] % 40}", f"t{items[i] % 7}"],
            "hour": int(i // RATE % 24),
            "price": float(items[i] % 100),
        }
        for i in range(count)
    ]


def done(rng: np.random.Generator, impressions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Actions of some impressions: 3 % after the window, 1 % to impressions that nobody knows."""
    actions = []
    for i in np.flatnonzero(rng.random(len(impressions)) < 0.35).tolist():
        delay = rng.exponential(0.2) if rng.random() < 0.97 else rng.uniform(1.0, 8.0)
        actions.append(
            {
                "impression_id": impressions[i]["impression_id"] if rng.random() < 0.99 else f"nobody-{i}",
                "time": int(impressions[i]["time"] + delay * WINDOW_US),
                "type": "click" if rng.random() < 0.6 else "watch",
                "value": float(rng.integers(1, 30)),
                "ingest_time": None,
            }
        )
    return actions


def disordered(rng: np.random.Generator, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As they are logged: within the bound on disorder but for 0.5 %; 2 % are logged twice."""
    again = [events[i] for i in np.flatnonzero(rng.random(len(events)) < 0.02).tolist()]
    events = events + again
    lag = rng.uniform(0, DISORDER_US, len(events))
    lag[rng.random(len(events)) < 0.005] += 4 * SECOND_US
    lag[-len(again) :] += rng.uniform(0, SECOND_US, len(again))
    order = np.argsort([event["time"] + lag[i] for i, event in enumerate(events)], kind="stable")
    return [events[i] for i in order.tolist()]


def write(log: Log, schema: dict[str, Any], events: Sequence[dict[str, Any]]) -> None:
    with log.appender(0, schema) as appender:
        for start in range(0, len(events), 1000):
            appender.append(events[start : start + 1000])


class BlockJoin:
    """The join of the pipeline without the runner."""

    def __init__(self, impressions: Log, actions: Log, folder: Path) -> None:
        self._logs = {"impressions": impressions, "actions": actions}
        self._decoders = {"impressions": columns.impressions, "actions": columns.actions}
        self._offsets = dict.fromkeys(self._logs, 0)
        self._seen = dict.fromkeys(self._logs, 0)
        cold = LmdbCold(folder)
        self.engines = [JoinEngine(SETTINGS, cold) for _ in range(SHARDS)]
        self.examples = 0

    def run(self) -> None:
        """Read the log that is behind, a chunk at a time, and let time move on."""
        while (kind := min(self._seen, key=self._seen.__getitem__)) and self._seen[kind] < 1 << 62:
            chunks = self._logs[kind].read(0, self._offsets[kind], CHUNK)
            for chunk in chunks:
                self._offsets[kind] += chunk.count
                self._add(kind, chunk)
            if not chunks:
                self._seen[kind] = 1 << 62
            self._advance(min(self._seen.values()) - DISORDER_US)

    def _add(self, kind: str, chunk: Chunk) -> None:
        batch = self._decoders[kind](chunk, kind, START_US + 86_400 * SECOND_US).batch
        self._seen[kind] = max(self._seen[kind], int(batch.column("_time").to_numpy().max()))
        for shard, part in split(batch, SHARDS):
            self.engines[shard].add(block.decode(block.encode(part)))

    def _advance(self, watermark: int) -> None:
        for engine in self.engines:
            while (due := engine.next_due()) is not None and due <= watermark:
                for batch in engine.advance(due).examples:
                    self.examples += batch.num_rows
                    block.encode(batch)


def block_join(impressions: Log, actions: Log) -> tuple[float, dict[str, int]]:
    """(CPU-seconds, counters of all shards)."""
    with tempfile.TemporaryDirectory() as folder:
        join = BlockJoin(impressions, actions, Path(folder))
        start = time.process_time()
        join.run()
        spent = time.process_time() - start
    totals = [engine.counters for engine in join.engines]
    return spent, {name: sum(counters[name] for counters in totals) for name in totals[0]}


class ElementJoin(beam.DoFn):
    """One impression and its actions in the state of their key; the timer closes the window."""

    IMPRESSION = ReadModifyWriteStateSpec("impression", PickleCoder())
    ACTIONS = BagStateSpec("actions", PickleCoder())
    WINDOW = TimerSpec("window", TimeDomain.WATERMARK)

    def process(
        self,
        element: tuple[str, dict[str, Any]],
        impression: Any = beam.DoFn.StateParam(IMPRESSION),
        actions: Any = beam.DoFn.StateParam(ACTIONS),
        window: Any = beam.DoFn.TimerParam(WINDOW),
    ) -> None:
        _, record = element
        if "type" in record:
            actions.add(record)
        elif impression.read() is None:
            impression.write(record)
        window.set(Timestamp(micros=record["time"] + WINDOW_US))

    @on_timer(WINDOW)
    def decide(
        self,
        impression: Any = beam.DoFn.StateParam(IMPRESSION),
        actions: Any = beam.DoFn.StateParam(ACTIONS),
    ) -> Iterator[dict[str, Any]]:
        record = impression.read()
        met = {(a["type"], a["time"], a["value"]) for a in actions.read()}
        if record is not None:
            met = {a for a in met if 0 <= a[1] - record["time"] <= WINDOW_US}
            labels = {
                label.name: any(a[0] == label.action and a[2] >= (label.min_value or 0) for a in met)
                for label in SETTINGS.labels
            }
            yield {**record, "labels": labels}
        impression.clear()
        actions.clear()


def element_join(chunks: Sequence[Chunk]) -> float:
    """CPU-seconds of the Beam pipeline over some chunks."""
    worker_handlers.STATE_CACHE_SIZE_MB = 0

    def keyed(record: dict[str, Any]) -> TimestampedValue:
        record["time"] = record["time"] if isinstance(record["time"], int) else _micros(record["time"])
        return TimestampedValue((record["impression_id"], record), Timestamp(micros=record["time"]))

    start = time.process_time()
    with beam.Pipeline("FnApiRunner", PipelineOptions([])) as pipeline:
        _ = (
            pipeline
            | beam.Create(list(chunks), reshuffle=False)
            | beam.FlatMap(lambda chunk: records([chunk]))
            | beam.Map(keyed).with_output_types(tuple[str, Any])
            | beam.ParDo(ElementJoin())
            | beam.combiners.Count.Globally()
        )
    return time.process_time() - start


def _micros(moment: Any) -> int:
    return int(moment.timestamp()) * SECOND_US + int(moment.microsecond)


def first(log: Log, share: float) -> list[Chunk]:
    """About the first records of a log."""
    wanted, chunks = int(log.end(0) * share), list[Chunk]()
    while (offset := sum(chunk.count for chunk in chunks)) < wanted:
        chunks += log.read(0, offset, min(CHUNK, wanted - offset))
    return chunks


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--events", type=int, default=400_000, help="impressions and actions that the block join reads")
    parser.add_argument("--elements", type=int, default=30_000, help="how many of them the elementwise join reads")
    options = parser.parse_args(argv)
    logging.disable(logging.WARNING)

    rng = np.random.default_rng(11)
    with tempfile.TemporaryDirectory() as folder:
        impressions, actions = (open_log(f"file:{folder}/{name}", 1) for name in ("impressions", "actions"))
        events = shown(rng, round(options.events / 1.35 / 1.02))
        write(impressions, IMPRESSIONS, disordered(rng, events))
        write(actions, schemas.ACTIONS, disordered(rng, done(rng, events)))
        count = impressions.end(0) + actions.end(0)

        spent = min((block_join(impressions, actions) for _ in range(3)), key=lambda result: result[0])
        ours, counters = count / spent[0], spent[1]
        chunks = [chunk for log in (impressions, actions) for chunk in first(log, options.elements / count)]
        empty = element_join([])
        elements = sum(chunk.count for chunk in chunks)
        theirs = elements / (element_join(chunks) - empty)

    print(f"{count:,} events through decode, split, join and cold store: {spent[0]:.2f} CPU-seconds")
    print("  " + ", ".join(f"{name} {value:,}" for name, value in counters.items() if value))
    print(f"  blocks, monobeam                 {ours:>12,.0f} events per CPU-second")
    print(f"  elements, Beam state ({elements:,})    {theirs:>12,.0f} events per CPU-second  (1 : {ours / theirs:.0f})")
    result = {
        "events": count,
        "events_per_cpu_second": round(ours),
        "elementwise_events": elements,
        "elementwise_events_per_cpu_second": round(theirs),
        "ratio_to_elementwise": round(ours / theirs, 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
