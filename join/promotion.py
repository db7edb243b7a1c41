"""Feature columns of several schemas as one: what records have in common when their logs differ."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc


def promoted(types: Sequence[pa.DataType]) -> pa.DataType:
    """The type that holds values of all: int64 and double make double, lists go by element, all else is string."""
    distinct = set(types) - {pa.null()}
    if not distinct:
        return pa.null()
    if len(distinct) == 1:
        return distinct.pop()
    if any(pa.types.is_list(t) for t in distinct):
        return pa.list_(promoted([t.value_type if pa.types.is_list(t) else t for t in distinct]))
    return pa.float64() if distinct == {pa.int64(), pa.float64()} else pa.string()


def cast(array: pa.Array, to: pa.DataType) -> pa.Array:
    """The same values as another type given by ``promoted``; a single value becomes a list of one."""
    if array.type == to:
        return array
    if pa.types.is_list(to) and not pa.types.is_list(array.type) and not pa.types.is_null(array.type):
        values = cast(array, to.value_type)
        offsets = pa.array(range(len(array) + 1), pa.int32())
        lists = pa.ListArray.from_arrays(offsets, values)
        return pc.if_else(array.is_valid(), lists, pa.scalar(None, to))
    # int64 beyond 2^53 becomes the nearest double.
    return pc.cast(array, to, safe=False)


def concat(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """All rows, with the columns of all batches in order of name; values that a batch lacks are null."""
    if len(batches) == 1:
        return batches[0]
    names = sorted({name for batch in batches for name in batch.schema.names})
    arrays = []
    for name in names:
        present = [batch.schema.field(name).type for batch in batches if name in batch.schema.names]
        to = promoted(present)
        parts = [
            cast(batch.column(name), to) if name in batch.schema.names else pa.nulls(batch.num_rows, to)
            for batch in batches
        ]
        arrays.append(pa.concat_arrays(parts))
    return pa.RecordBatch.from_arrays(arrays, names) if names else _empty(sum(batch.num_rows for batch in batches))


def _empty(rows: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_struct_array(pa.array([{}] * rows, pa.struct([])))
