"""Messages, their errors and addresses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from monobeam.store.backend import AwayError, BackendError, LeasedError, OwnedError, StaleError
from monobeam.store.chunk import CorruptError
from monobeam.store.room import TableFullError
from monobeam.store.spec import SlotPolicy, SpecError, StoreSpec, TableSpec
from monobeam.store.wire import Message, Place, decode, encode, error_of, raised


@dataclass
class Chunk:
    """As Arrow gives it."""

    data: Any
    app_metadata: Any


def through(message: Message) -> Message:
    """What is read of a message that was written, at an address without alignment."""
    batch, metadata = encode(message)
    shifted = b"x" + batch.serialize().to_pybytes()
    read = pa.ipc.read_record_batch(pa.py_buffer(shifted)[1:], batch.schema)
    return decode(Chunk(read, pa.py_buffer(metadata)))


some_arrays = st.sampled_from(["<u8", "<i8", "<f4", "|u1", "|b1", "<u4"]).flatmap(
    lambda dtype: arrays.arrays(np.dtype(dtype), arrays.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=5))
)


@given(sent=st.lists(some_arrays, max_size=4), header=st.dictionaries(st.text(), st.integers() | st.none() | st.text()))
def test_messages_come_as_they_were_sent(sent: list[Any], header: dict[str, Any]) -> None:
    header.pop("arrays", None)
    read = through(Message(header, tuple(sent)))
    assert read.header == header
    assert [array.dtype for array in read.arrays] == [array.dtype for array in sent]
    for one, other in zip(read.arrays, sent, strict=True):
        assert one.tobytes() == other.tobytes()
        assert one.shape == other.shape
        assert one.flags.aligned
        assert one.flags.writeable


def test_arrays_are_of_numbers() -> None:
    batch, _ = encode(Message({}, (np.zeros(1),)))
    with pytest.raises(ValueError, match="an array of '<f8'"):
        decode(Chunk(batch, pa.py_buffer(b'{"arrays": [["<f8", 1]]}')))


@pytest.mark.parametrize(
    ("error", "kinds"),
    [
        (StaleError("x"), (StaleError, AwayError)),
        (OwnedError("x"), (LeasedError, AwayError)),
        (BackendError("x"), (AwayError,)),
        (AwayError("x"), (AwayError,)),
        (CorruptError("x"), (CorruptError,)),
        (SpecError("x"), (SpecError,)),
        (ValueError("x"), (ValueError,)),
        (TableFullError("x"), (TableFullError,)),
        (ZeroDivisionError("x"), (RuntimeError,)),
    ],
)
def test_errors_are_known_on_the_other_side(error: Exception, kinds: tuple[type[Exception], ...]) -> None:
    found = raised("flight://h:1", through(error_of(error)).header)
    assert all(isinstance(found, kind) for kind in kinds)
    assert str(found).startswith("flight://h:1: ")
    assert str(found).endswith("x")
    assert isinstance(found, AwayError) == (kinds[-1] is AwayError)


def test_places() -> None:
    assert Place.parse("flight://a:1").addresses == ["flight://a:1"]
    assert Place.parse("flight+tls://a.b:1,c:22").addresses == ["flight+tls://a.b:1", "flight+tls://c:22"]


@pytest.mark.parametrize(
    "uri", ["flight://", "flight://a", "flight://a:b", "grpc://a:1", "flight://a:1,", "flight://a:1/b"]
)
def test_what_is_no_place(uri: str) -> None:
    with pytest.raises(ValueError, match=r"must be flight://HOST:PORT") as refused:
        Place.parse(uri)
    assert repr(uri) in str(refused.value)


def test_specifications_travel_as_text() -> None:
    policies = {0: SlotPolicy(), 7: SlotPolicy(3, 0.5, 60_000_000, 1_000_000)}
    wide = TableSpec("wide", 3, "adagrad", 0.05, {"initial_accumulator": 0.1}, 2**63, 0.02, policies, row_format="bf16")
    spec = StoreSpec(
        "m", (wide, TableSpec("s", 0, "sgd", 0.0, synced=False)), 5, "bf16", 10**12, 1 << 40, {"a": [1, "b"]}
    )
    again = StoreSpec.decode(spec.encode())
    assert again == spec
    assert again.encode() == spec.encode()
    assert again.fingerprint() == spec.fingerprint()
