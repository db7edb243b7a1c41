"""Reading raw logs: what comes out, where it begins, and watermarks that outlive no failed bundle."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.utils.timestamp import Timestamp

from monobeam.logs import block, schemas
from monobeam.logs.log import open_log
from monobeam.transforms import read, resources, spans
from monobeam.transforms.read import Partition, Tail
from monobeam.transforms.spans import ReadSpans
from monobeam.transforms.tracker import Ranges, RangesTracker

SECOND = 1_000_000
T0 = 1_700_000_000 * SECOND
SHOWN = schemas.impressions({"user": "string"})
TAIL = Tail(disorder_us=0, idle_after_us=10**12, poll_us=1000)


class Tracker(RangesTracker):
    """As the runner wraps it."""

    def defer_remainder(self, delay: object) -> None:
        pass


@pytest.fixture
def shown(tmp_path: Path) -> Iterator[str]:
    """A log of impressions: partition 0 has a second's worth of a thousand for each of 20 s, partition 1 one record."""
    uri = f"file:{tmp_path}/shown"
    with open_log(uri).appender(0, SHOWN) as appender:
        for second in range(20):
            appender.append([impression(f"{second}-{n}", second) for n in range(1000)])
    with open_log(uri).appender(1, SHOWN) as appender:
        appender.append([impression("other", 30)])
    yield uri
    resources.close_all()


def impression(name: str, second: float) -> dict[str, Any]:
    return {"impression_id": name, "time": T0 + int(second * SECOND), "user": "u"}


class Bundles:
    """Bundles of one tailed partition, each from an offset and with an estimator of its own."""

    def __init__(self, uri: str) -> None:
        self._reader = read._TailPartitions(1, TAIL)
        self._partitions = (Partition("impressions", uri, 0),)
        self.watermark: Timestamp | None = None

    def run(self, offset: int, seconds: float, commits: bool = True) -> int:
        """Read on from an offset for so long; gives the offset reached. The runner keeps what a bundle commits."""
        self._reader.MAX_SECONDS = seconds
        tracker = Tracker(Ranges((offset,), (1 << 62,)))
        estimator = ManualWatermarkEstimator(self.watermark)
        list(self._reader.process(self._partitions, tracker, estimator))
        if commits:
            self.watermark = estimator.current_watermark()
        return int(tracker._reached[0])

    def reached_s(self) -> float:
        assert self.watermark is not None
        return float((self.watermark.micros - T0) / SECOND)


def test_the_watermark_of_a_failed_bundle_is_forgotten(shown: str) -> None:
    bundles = Bundles(shown)
    assert bundles.run(0, seconds=60, commits=False) == 20_000
    reached = bundles.run(0, seconds=-1)
    assert 0 < reached < 20_000
    assert bundles.reached_s() <= reached / 1000


def test_the_watermark_goes_on_where_the_last_bundle_stopped(shown: str) -> None:
    bundles, reached = Bundles(shown), 0
    while reached < 20_000:
        reached = bundles.run(reached, seconds=-1)
        assert bundles.reached_s() == (reached - 1) // 1000
    resources.close_all()
    read._watermarks.clear()  # another process takes over
    assert bundles.run(reached, seconds=-1) == reached
    assert bundles.reached_s() == 19


def test_each_kind_of_log_has_a_start_of_its_own(shown: str, tmp_path: Path) -> None:
    done = f"file:{tmp_path}/done"
    with open_log(done).appender(0, schemas.ACTIONS) as appender:
        for second in range(20):
            action = {"impression_id": "a", "time": T0 + second * SECOND, "type": "like", "value": 1.0}
            appender.append([action | {"ingest_time": None}])
    starts = {"impressions": T0 + 15 * SECOND, "actions": T0 + 5 * SECOND}
    tail = Tail(TAIL.disorder_us, TAIL.idle_after_us, TAIL.poll_us, starts)
    found = spans.whole([("impressions", shown, 1), ("actions", done, 1)], tail)
    assert [span.stop for span in found] == [20_000, 20]
    assert 10_000 <= found[0].start <= 15_000
    assert 0 < found[1].start <= 5
    followed = read._TailPartitions(1, tail).initial_restriction(tuple(span.partition for span in found))
    assert followed.starts == tuple(span.start for span in found)
    partial = Tail(TAIL.disorder_us, TAIL.idle_after_us, TAIL.poll_us, {"actions": T0 + 5 * SECOND})
    assert spans.whole([("impressions", shown, 1)], partial)[0].start == 0


def test_a_bounded_read_gives_every_record_once_and_names_what_it_cannot_use(
    shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_log(shown).appender(1, SHOWN) as appender:
        appender.append_payload(1, b"\xff\xff\xff")
        appender.append([impression("", 31), impression("last", 32)])
    pipeline = beam.Pipeline(runner="FnApiRunner")
    monkeypatch.setattr(spans, "SPAN_RECORDS", 3000)  # no multiple of what is framed together
    found = pipeline | ReadSpans(spans.whole([("impressions", shown, 2)], TAIL), 3)
    found.blocks | beam.Map(lambda keyed: beam.metrics.Metrics.counter("test", _kind(keyed[1])).inc(_rows(keyed[1])))
    found.dead_letters | beam.Map(lambda run: beam.metrics.Metrics.counter("test", "letters").inc(run[1]))
    found.metrics | beam.Map(lambda run: beam.metrics.Metrics.counter("test", "spans").inc(run[1]))
    result = pipeline.run()
    result.wait_until_finish()
    counts = {counter.key.metric.name: counter.result for counter in result.metrics().query()["counters"]}
    assert counts == {"impressions": 20_002, "rejects": 2, "letters": 2, "spans": 8}


def _kind(data: bytes) -> str:
    return block.kind(block.decode(data))


def _rows(data: bytes) -> int:
    batch = block.decode(data)
    return sum(batch.column("_count").to_pylist()) if _kind(data) == "rejects" else batch.num_rows


def test_a_partition_that_nobody_reads_is_named_once(
    shown: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "LOOK_EVERY_S", 0.0)
    bundles = Bundles(shown)
    with caplog.at_level(logging.WARNING):
        bundles.run(0, seconds=-1)
        bundles.run(0, seconds=-1)
    assert [record.getMessage() for record in caplog.records] == [
        f"{shown}: partition 1 is not read: this job was built for 1; start it again"
    ]
