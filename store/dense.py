"""Named float32 arrays (a model's dense weights) as bytes, and back: a plain Arrow IPC stream."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_SCHEMA = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("shape", pa.list_(pa.int64()), nullable=False),
        pa.field("values", pa.large_list(pa.float32()), nullable=False),
    ]
)


def encode(arrays: Mapping[str, npt.NDArray[np.float32]]) -> bytes:
    """One row per array: name, shape, values in C order. Equal arrays in equal order give equal bytes."""
    for name, array in arrays.items():
        if array.dtype != np.float32:
            raise TypeError(f"dense array {name!r} is {array.dtype}: must be float32")
    flat = [np.ascontiguousarray(array).reshape(-1) for array in arrays.values()]
    ends = np.cumsum([0] + [len(values) for values in flat], dtype=np.int64)
    batch = pa.record_batch(
        [
            pa.array(list(arrays), pa.string()),
            pa.array([list(array.shape) for array in arrays.values()], pa.list_(pa.int64())),
            pa.LargeListArray.from_arrays(ends, np.concatenate([np.empty(0, np.float32), *flat])),
        ],
        schema=_SCHEMA,
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, _SCHEMA) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def decode(data: bytes) -> dict[str, npt.NDArray[np.float32]]:
    """The arrays by name, in the order in which they were encoded; read-only views into ``data``."""
    try:
        with pa.ipc.open_stream(data) as reader:
            if not reader.schema.equals(_SCHEMA):
                raise ValueError(f"dense arrays: schema {reader.schema} is not {_SCHEMA}")
            table = reader.read_all().combine_chunks()
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"dense arrays: {len(data)} bytes that are not an Arrow stream: {error}") from None
    shapes = table["shape"].to_pylist()
    names = table["name"].to_pylist()
    return {
        name: values.values.to_numpy(zero_copy_only=True).reshape(shape)
        for name, shape, values in zip(names, shapes, table["values"], strict=True)
    }
