"""Sync events: their records, their encodings, and that applying one twice changes nothing."""

from __future__ import annotations

import io
from dataclasses import replace

import fastavro
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from monobeam.store.sync import SYNC, SyncEvent, TableChange


def event(values: np.ndarray, dtype: str = "fp32") -> SyncEvent:  # type: ignore[type-arg]
    keys = np.arange(len(values), dtype=np.uint64) + np.uint64(2**63)
    tables = {"a": TableChange(keys, values, np.array([1, 2**64 - 1], np.uint64))}
    return SyncEvent("m", 3, 20, 10, 1_234_567, tables, 4, b"dense", np.array([7, -8]), dtype)


def through_avro(sent: SyncEvent) -> SyncEvent:
    buffer = io.BytesIO()
    schema = fastavro.parse_schema(SYNC)
    fastavro.schemaless_writer(buffer, schema, sent.to_record())
    buffer.seek(0)
    return SyncEvent.from_record(fastavro.schemaless_reader(buffer, schema, None))  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("rows", [0, 1, 100])
def test_every_field_survives(dtype: str, rows: int) -> None:
    values = np.random.default_rng(rows).normal(size=(rows, 5)).astype(np.float32)
    sent = event(values, dtype)
    got = through_avro(sent)
    for name in ("model", "shard", "epoch", "previous_epoch", "time_us", "dense_version", "dense", "dtype"):
        assert getattr(got, name) == getattr(sent, name)
    np.testing.assert_array_equal(got.arrivals, sent.arrivals)
    change = got.tables["a"]
    np.testing.assert_array_equal(change.keys, sent.tables["a"].keys)
    np.testing.assert_array_equal(change.deletes, sent.tables["a"].deletes)
    assert change.values.dtype == np.float32
    assert change.values.shape == (rows, 5)
    np.testing.assert_allclose(change.values, values, rtol={"fp32": 0, "fp16": 2**-11, "bf16": 2**-8}[dtype], atol=1e-7)
    np.testing.assert_array_equal(through_avro(got).tables["a"].values, change.values)


def test_without_dense_weights() -> None:
    sent = replace(event(np.zeros((0, 1), np.float32)), dense=None)
    assert through_avro(sent).dense is None


any_float = hnp.arrays(np.float32, st.integers(0, 50), elements=st.floats(width=32))


@pytest.mark.parametrize(("dtype", "torch_dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
@given(values=any_float)
def test_rounding_is_torchs(dtype: str, torch_dtype: torch.dtype, values: np.ndarray) -> None:  # type: ignore[type-arg]
    got = through_avro(event(values[:, None], dtype)).tables["a"].values[:, 0]
    given_values = np.clip(values, -65504, 65504) if dtype == "fp16" else values
    expected = torch.from_numpy(given_values).to(torch_dtype).to(torch.float32).numpy()
    np.testing.assert_array_equal(got, expected)
    assert not (np.isinf(got) & ~np.isinf(values)).any() or dtype == "bf16"


def test_applying_twice_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    events = []
    for number in range(1, 20):
        keys = rng.choice(50, 20, replace=False).astype(np.uint64)
        change = TableChange(keys[5:], rng.normal(size=(15, 2)).astype(np.float32), keys[:5])
        events.append(SyncEvent("m", 0, number, number - 1, 0, {"a": change}, 0))
    once: dict[int, bytes] = {}
    twice: dict[int, bytes] = {}
    for sent in events:
        record = sent.to_record()
        _apply(once, record)
        _apply(twice, record)
        _apply(twice, record)
    assert once == twice
    assert once


def _apply(rows: dict[int, bytes], record: dict) -> None:  # type: ignore[type-arg]
    change = SyncEvent.from_record(record).tables["a"]
    rows.update(zip(change.keys.tolist(), (value.tobytes() for value in change.values), strict=True))
    for key in change.deletes.tolist():
        rows.pop(key, None)


def test_what_is_no_event() -> None:
    sent = event(np.zeros((2, 3), np.float32))
    with pytest.raises(ValueError, match="dtype 'int8': must be one of"):
        replace(sent, dtype="int8").to_record()
    record = sent.to_record()
    record["tables"][0]["dim"] = 4
    with pytest.raises(ValueError, match="table 'a': 6 values for 2 rows of 4"):
        SyncEvent.from_record(record)
