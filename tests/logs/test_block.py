from __future__ import annotations

import pyarrow as pa
import pytest

from monobeam.logs import block


def test_a_block_comes_back_with_its_labels() -> None:
    batch = pa.RecordBatch.from_pydict({"_id": ["a", None], "genres": [["x", "y"], []]})
    labelled = block.label(batch, "impressions", "served")
    found = block.decode(block.encode(labelled))
    assert found.equals(batch)
    assert (block.kind(found), block.log(found)) == ("impressions", "served")
    assert (block.kind(batch), block.log(batch)) == ("", "")


def test_labels_leave_other_metadata_alone() -> None:
    batch = pa.RecordBatch.from_pydict({"a": [1]}).replace_schema_metadata({b"shard": b"3"})
    assert block.decode(block.encode(block.label(batch, "examples", "x"))).schema.metadata[b"shard"] == b"3"


def test_a_slice_is_encoded_without_the_rest() -> None:
    batch = pa.RecordBatch.from_pydict({"a": list(range(100_000))})
    assert len(block.encode(batch.slice(7, 3))) < 1000
    assert block.decode(block.encode(batch.slice(7, 3)))["a"].to_pylist() == [7, 8, 9]


@pytest.mark.parametrize("data", [b"", b"garbage that is no stream", bytes(100)])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=f"{len(data)} bytes.*must be an Arrow IPC stream"):
        block.decode(data)


def test_a_truncated_block_is_refused() -> None:
    data = block.encode(pa.RecordBatch.from_pydict({"a": list(range(100))}))
    for size in range(0, len(data) - 8, 7):
        with pytest.raises(ValueError, match="must be an Arrow IPC stream"):
            block.decode(data[:size])


def test_kinds_are_few() -> None:
    with pytest.raises(ValueError, match="kind 'clicks': must be one of impressions"):
        block.label(pa.RecordBatch.from_pydict({"a": [1]}), "clicks", "x")
