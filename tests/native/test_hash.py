"""The hashes are part of the data formats: the vectors here may never change."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monobeam.native import Table, hash_column, hash_ints, hash_strings
from tests.native.hashes import hash_bytes, hash_int

SEEDS = st.integers(0, 2**64 - 1)
SEED = 7


def strings(values: list[bytes], seed: int) -> npt.NDArray[np.uint64]:
    offsets = np.cumsum([0] + [len(value) for value in values], dtype=np.int64)
    return hash_strings(offsets, np.frombuffer(b"".join(values), np.uint8), seed)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, 0x74B5ABCC66B8BDC1),
        (1, 0x0524257C04FCF117),
        (-1, 0x69A97E860828CDD5),
        (12345678901234567, 0xB5EBDDCBE41C13D6),
    ],
)
def test_integer_vectors(value: int, expected: int) -> None:
    assert hash_ints(np.array([value]), SEED).tolist() == [expected]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"", 0x74B5ABCC66B8BDC1),
        (b"a", 0x063DA683FBD2A483),
        (b"monobeam", 0x3CEC387004236D6D),
        (b"monobeam!", 0xDA62E85A16ABD6E8),
        ("Ünïcode".encode(), 0x2AE0739E7A4EFE68),
        (bytes(range(40)), 0xF5AC120F579D588B),
    ],
)
def test_string_vectors(value: bytes, expected: int) -> None:
    assert strings([value], SEED).tolist() == [expected]


def test_initial_row_vectors() -> None:
    table = Table(3, "sgd", {}, 7, 0.05)
    keys = np.array([0, 2**64 - 1], np.uint64)
    rows = table.gather(table.find_or_insert(keys, 0))
    assert rows.view(np.uint32).tolist() == [
        [1027105495, 3162924928, 1025788738],
        [979193959, 3159207783, 1017986154],
    ]


@given(st.lists(st.integers(-(2**63), 2**63 - 1)), SEEDS)
def test_integers_as_the_twin(values: list[int], seed: int) -> None:
    assert hash_ints(np.array(values, np.int64), seed).tolist() == [hash_int(v, seed) for v in values]


@given(st.lists(st.binary(max_size=40)), SEEDS)
def test_strings_as_the_twin(values: list[bytes], seed: int) -> None:
    assert strings(values, seed).tolist() == [hash_bytes(v, seed) for v in values]


def test_no_collisions_and_even_bits() -> None:
    values = [b"%d" % i for i in range(100_000)]
    hashes = strings(values, 0)
    assert len(np.unique(hashes)) == len(values)
    ones = [int((hashes >> np.uint64(bit) & np.uint64(1)).sum()) for bit in range(64)]
    assert max(abs(count - 50_000) for count in ones) < 1_000  # six standard deviations are 950


def test_one_flipped_bit_flips_half() -> None:
    rng = np.random.default_rng(3)
    values = rng.integers(0, 2**62, 2_000)
    for bit in (0, 31, 61):
        changed = hash_ints(values, 1) ^ hash_ints(values ^ (1 << bit), 1)
        assert abs(np.unpackbits(changed.view(np.uint8)).mean() - 0.5) < 0.01


def test_initial_components_are_uniform() -> None:
    table = Table(4, "sgd", {}, 1, 0.5)
    rows = table.gather(table.find_or_insert(np.arange(20_000, dtype=np.uint64), 0))
    assert rows.min() >= -0.5
    assert rows.max() < 0.5
    assert np.abs(rows.mean(axis=0)).max() < 0.015  # seven standard deviations
    assert np.abs(np.corrcoef(rows.T) - np.eye(4)).max() < 0.04


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view()]
    + [pa.dictionary(pa.int32(), pa.string()), pa.dictionary(pa.int8(), pa.large_string())],
    ids=str,
)
def test_text_columns(kind: pa.DataType) -> None:
    values = ["a", None, "", "monobeam!", "a", "ü"]
    column = pa.array(values, pa.string())
    column = column.dictionary_encode().cast(kind) if pa.types.is_dictionary(kind) else pa.array(values, kind)
    expected = [0 if value is None else hash_bytes(value.encode(), SEED) for value in values]
    assert hash_column(column, SEED).tolist() == expected
    assert hash_column(column[2:5], SEED).tolist() == expected[2:5]
    assert hash_column(pa.chunked_array([column[:1], column[1:]]), SEED).tolist() == expected
    assert hash_column(column[:0], SEED).tolist() == []


@pytest.mark.parametrize("kind", [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint64()], ids=str)
def test_integer_columns(kind: pa.DataType) -> None:
    values = [3, None, 0, 127]
    column = pa.array(values, kind)
    expected = [0 if value is None else hash_int(value, SEED) for value in values]
    assert hash_column(column, SEED).tolist() == expected
    assert hash_column(column[1:3], SEED).tolist() == expected[1:3]


def test_integer_extremes() -> None:
    assert hash_column(pa.array([2**64 - 1], pa.uint64()), 1).tolist() == [hash_int(-1, 1)]
    assert hash_column(pa.array([-(2**63)], pa.int64()), 1).tolist() == [hash_int(-(2**63), 1)]


def test_boolean_columns() -> None:
    column = pa.array([True, False, None, True])
    expected = [hash_int(1, SEED), hash_int(0, SEED), 0, hash_int(1, SEED)]
    assert hash_column(column, SEED).tolist() == expected
    assert hash_column(column[2:], SEED).tolist() == expected[2:]


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_floating_columns(kind: type) -> None:
    hashes = hash_column(pa.array(np.array([1.5, -0.0, 0.0, np.nan, -np.nan, np.inf], kind)), SEED)
    assert hashes[0] == hash_int(int(np.float64(1.5).view(np.int64)), SEED)
    assert hashes[1] == hashes[2] == hash_int(0, SEED)
    assert hashes[3] == hashes[4] != hashes[5]
    assert hash_column(pa.array([None, 0.0], pa.float64()), SEED).tolist() == [0, hash_int(0, SEED)]


def test_columns_of_nothing() -> None:
    assert hash_column(pa.nulls(3), SEED).tolist() == [0, 0, 0]
    assert hash_column(pa.chunked_array([], pa.string()), SEED).tolist() == []
    assert hash_column(pa.array([None, None], pa.string()), SEED).tolist() == [0, 0]


def test_refused_columns() -> None:
    with pytest.raises(TypeError, match=r"list<item: int64>"):
        hash_column(pa.array([[1]]), SEED)


def test_refused_offsets() -> None:
    data = np.zeros(4, np.uint8)
    for offsets in ([0, 5], [0, 3, 2], [-1, 2]):
        with pytest.raises(ValueError, match="offsets"):
            hash_strings(np.array(offsets), data, SEED)
    with pytest.raises(TypeError, match=r"offsets must be int64\[N\], got float64\[2\]"):
        hash_strings(np.array([0.0, 1.0]), data, SEED)
