"""Hashes of Arrow columns."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from monobeam.native._core import hash_ints, hash_strings

NULL_HASH = np.uint64(0)
"""The hash of nothing."""


def hash_column(column: pa.Array | pa.ChunkedArray, seed: int) -> npt.NDArray[np.uint64]:
    """Hash every value of a column to 64 bits: equal values of equal kind, in whatever Arrow type, hash alike.

    The kinds are text and bytes (also dictionary-encoded), integers with booleans as 0 and 1, and floating-point
    numbers, which hash by their bits as float64 with -0.0 as 0.0 and every NaN alike. Nulls hash to 0.

    Args:
        column: n values.
        seed: in [0, 2**64); another seed is another hash function.

    Returns:
        uint64[n].

    Raises:
        TypeError: the column is of another type, such as a list.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
        if isinstance(column, pa.ChunkedArray):  # without chunks
            column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    if pa.types.is_null(column.type):
        return np.full(len(column), NULL_HASH)
    if pa.types.is_dictionary(column.type):
        return _hash_dictionary(column, seed)
    hashes = _hash_values(column, seed)
    if column.null_count:
        hashes[column.is_null().to_numpy(zero_copy_only=False)] = NULL_HASH
    return hashes


def _hash_values(column: pa.Array, seed: int) -> npt.NDArray[np.uint64]:
    kind = column.type
    if _is_bytes(kind):
        return _hash_bytes(column, seed)
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        return hash_ints(_as_int64(column), seed)
    if pa.types.is_floating(kind):
        return hash_ints(_float_bits(column), seed)
    raise TypeError(
        f"cannot hash a column of type {kind}; allowed: text, bytes, integers, booleans, floats, dictionary"
    )


def _is_bytes(kind: pa.DataType) -> bool:
    tests = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_string_view,
        pa.types.is_binary,
        pa.types.is_large_binary,
        pa.types.is_binary_view,
    )
    return any(test(kind) for test in tests)


def _hash_bytes(column: pa.Array, seed: int) -> npt.NDArray[np.uint64]:
    kind = column.type
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        column = column.cast(pa.large_binary())
        kind = column.type
    if len(column) == 0:
        return np.empty(0, np.uint64)
    wide = pa.types.is_large_string(kind) or pa.types.is_large_binary(kind)
    _, offset_buffer, data_buffer = column.buffers()
    offsets = np.frombuffer(offset_buffer, np.int64) if wide else np.frombuffer(offset_buffer, np.int32)
    data = np.empty(0, np.uint8) if data_buffer is None else np.frombuffer(data_buffer, np.uint8)
    return hash_strings(offsets[column.offset : column.offset + len(column) + 1], data, seed)


def _as_int64(column: pa.Array) -> npt.NDArray[np.int64]:
    if pa.types.is_uint64(column.type):
        unsigned: npt.NDArray[np.uint64] = np.ascontiguousarray(pc.fill_null(column, 0).to_numpy(zero_copy_only=False))
        return unsigned.view(np.int64)
    filled = pc.fill_null(column.cast(pa.int64()), 0)
    return np.ascontiguousarray(filled.to_numpy(zero_copy_only=False), dtype=np.int64)


def _float_bits(column: pa.Array) -> npt.NDArray[np.int64]:
    filled = pc.fill_null(column.cast(pa.float64()), 0.0)
    values = np.array(filled.to_numpy(zero_copy_only=False), dtype=np.float64)
    values += 0.0  # -0.0 becomes 0.0
    values[np.isnan(values)] = np.nan
    return values.view(np.int64)


def _hash_dictionary(column: pa.DictionaryArray, seed: int) -> npt.NDArray[np.uint64]:
    by_index = np.append(hash_column(column.dictionary, seed), NULL_HASH)
    indices = pc.fill_null(column.indices.cast(pa.int64()), len(by_index) - 1)
    hashes: npt.NDArray[np.uint64] = by_index[indices.to_numpy(zero_copy_only=False)]
    return hashes
