"""The join on Beam state and timers: late bundles, retried bundles, a cache that never matters."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import apache_beam as beam
import fastavro
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.test_stream import TestStream
from apache_beam.testing.util import assert_that
from apache_beam.utils.timestamp import Timestamp

from monobeam.join.settings import JoinSettings, Label
from monobeam.logs import block, schemas
from monobeam.transforms import join as transform
from monobeam.transforms.join import Join

SECOND = 1_000_000
T0 = 1_700_000_000 * SECOND
SETTINGS = JoinSettings(2 * SECOND, 20 * SECOND, SECOND // 10, (Label("like", "like"),))


def impressions(*numbers: int) -> tuple[int, bytes]:
    """A block of impressions, number n shown n seconds after T0."""
    batch = pa.RecordBatch.from_pydict(
        {
            "_id": pa.array([f"i{n}" for n in numbers], pa.string()),
            "_time": pa.array([T0 + n * SECOND for n in numbers], pa.int64()),
            "_partition": pa.array([0] * len(numbers), pa.int32()),
            "_offset": pa.array(numbers, pa.int64()),
            "user": pa.array([f"u{n}" for n in numbers], pa.string()),
        }
    )
    return 0, block.encode(block.label(batch, "impressions", "shown"))


def like(number: int, delay_s: float) -> tuple[int, bytes]:
    """A block with one like of impression n."""
    time = T0 + number * SECOND + int(delay_s * SECOND)
    batch = pa.RecordBatch.from_pydict(
        {
            "_id": pa.array([f"i{number}"], pa.string()),
            "_time": pa.array([time], pa.int64()),
            "_type": pa.array(["like"], pa.string()),
            "_value": pa.array([1.0], pa.float64()),
            "_arrival": pa.array([time], pa.int64()),
            "_partition": pa.array([0], pa.int32()),
            "_offset": pa.array([number], pa.int64()),
        }
    )
    return 0, block.encode(block.label(batch, "actions", "done"))


def labels(run: tuple[int, int, bytes]) -> list[tuple[str, float]]:
    """(id, label) of the examples in a run."""
    record = fastavro.schemaless_reader(io.BytesIO(run[2]), fastavro.parse_schema(schemas.EXAMPLES), None)
    rows: Any = block.decode(record["block"]).to_pylist()  # type: ignore[index]
    return [(row["_id"], row["_label.like"]) for row in rows]


def joined(stream: TestStream, cold: Path, expected: list[list[tuple[str, float]]], behind_us: int = 0) -> None:
    options = PipelineOptions()
    options.view_as(StandardOptions).streaming = True
    with TestPipeline(runner="BundleBasedDirectRunner", options=options) as pipeline:
        keyed = pipeline | stream | "Keyed" >> beam.Map(lambda pair: pair).with_output_types(tuple[int, bytes])
        examples = (keyed | "Join" >> Join({0: SETTINGS}, f"lmdb:{cold}", True, behind_us)).examples

        def check(runs: list[Any]) -> None:
            assert [labels(run) for run in runs] == expected, [labels(run) for run in runs]

        assert_that(examples, check)


def at(seconds: float) -> Timestamp:
    return Timestamp(micros=T0 + int(seconds * SECOND))


def test_nothing_leaves_before_the_watermark_and_actions_may_come_first(tmp_path: Path) -> None:
    stream = (
        TestStream()
        .add_elements([like(2, 1.0)])
        .add_elements([impressions(1, 2)])
        .advance_watermark_to(at(3.05))
        .advance_watermark_to(at(3.2))
        .advance_watermark_to(at(10))
        .advance_watermark_to_infinity()
    )
    joined(stream, tmp_path, [[("i1", 0.0)], [("i2", 1.0)]])


def test_a_late_like_becomes_a_correction(tmp_path: Path) -> None:
    stream = (
        TestStream()
        .add_elements([impressions(1)])
        .advance_watermark_to(at(5))
        .add_elements([like(1, 6.0)])
        .advance_watermark_to(at(8))
        .advance_watermark_to_infinity()
    )
    joined(stream, tmp_path, [[("i1", 0.0)], [("i1", 1.0)]])


def test_no_result_depends_on_the_cache(tmp_path: Path, monkeypatch: Any) -> None:
    """Every access rebuilds the engine from state, and every write is a snapshot: the same blocks."""
    monkeypatch.setattr(transform._engines, "get", lambda job, shard, token, rebuild: rebuild())
    monkeypatch.setattr(transform, "_SNAPSHOT_MIN_BYTES", 0)
    stream = (
        TestStream()
        .add_elements([impressions(1, 2), like(1, 0.5), like(3, 1.0)])
        .advance_watermark_to(at(3.2))
        .add_elements([impressions(3), like(2, 1.5)])
        .advance_watermark_to(at(30))
        .advance_watermark_to_infinity()
    )
    joined(stream, tmp_path, [[("i1", 1.0)], [("i2", 1.0)], [("i3", 1.0)]])


@pytest.mark.parametrize(("behind_s", "labels_of"), [(0, [("i1", 0.0), ("i1", 1.0)]), (4, [("i1", 1.0)])])
def test_records_may_be_behind_the_watermark_of_a_source_that_knows_no_disorder(
    behind_s: int, labels_of: list[tuple[str, float]], tmp_path: Path
) -> None:
    stream = (
        TestStream()
        .add_elements([impressions(1)])
        .advance_watermark_to(at(6))
        .add_elements([like(1, 1.0)])
        .advance_watermark_to(at(20))
        .advance_watermark_to_infinity()
    )
    joined(stream, tmp_path, [[each] for each in labels_of], behind_s * SECOND)
