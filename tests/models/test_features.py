from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monobeam.models.config import Config, parse
from monobeam.models.features import MAX_CROSS_IDS, Encoded, FeatureEncoder
from monobeam.native import hash_column

# From the written definition of the hash, computed by hand-written Python: stored ids depend on these bits.
GOLDEN = ["0x1306310d626b5", "0x2b960bb007f46", "0x3a77931b3630f", "0x460293a33aaf7", "0x7fff66322c6dfa74"]
HEAD = '[join]\nwindow = "1s"\n[[labels]]\nname = "y"\naction = "y"\n[model]\nname = "m"\nlabel = "y"\n'


def config(*sections: str) -> Config:
    return parse(HEAD + "\n".join(sections))


def slot(text: str) -> str:
    return f"[[slots]]\n{text}"


def encode(config: Config, columns: dict[str, pa.Array]) -> Encoded:
    return FeatureEncoder(config).encode(pa.record_batch(columns))


def bags(encoded: Encoded) -> list[list[int]]:
    ends = encoded.bags.offsets
    return [encoded.bags.keys[a:b].tolist() for a, b in pairwise(ends)]


def fid(slot: int, value: pa.Array) -> int:
    return slot << 48 | int(hash_column(value, 0)[0]) & (2**48 - 1)


def test_ids_never_change() -> None:
    columns = {"s": pa.array(["u42"]), "i": pa.array([42]), "d": pa.array([1.5]), "b": pa.array([True])}
    sections = [slot(f'feature = "{name}"') for name in columns]
    cross = slot('features = ["s", "i"]\nslot = 32767')
    assert [hex(key) for key in encode(config(*sections, cross), columns).bags.keys] == GOLDEN


def test_bags_are_slot_major_and_a_missing_value_is_an_empty_bag() -> None:
    columns = {"a": pa.array(["x", None, "y"]), "c": pa.array([None, None, None])}
    encoded = encode(config(*(slot(f'feature = "{name}"') for name in ("a", "b", "c"))), columns)
    x, y = (fid(1, pa.array([value])) for value in ("x", "y"))
    assert bags(encoded) == [[x], [], [y], [], [], [], [], [], []]


@pytest.mark.parametrize("make", [pa.list_, pa.large_list])
def test_a_list_is_a_bag_in_its_order_with_repeats_and_without_nulls(make: object) -> None:
    column = pa.array([["x", "y", "x"], None, [], ["y", None], ["z"]], make(pa.string()))
    x, y, z = (fid(1, pa.array([value])) for value in ("x", "y", "z"))
    tags = config(slot('feature = "tags"'))
    assert bags(encode(tags, {"tags": column})) == [[x, y, x], [], [], [y], [z]]
    assert bags(encode(tags, {"tags": column.slice(2, 2)})) == [[], [y]]
    assert bags(encode(tags, {"tags": column.slice(0, 0)})) == []


def test_the_type_is_part_of_a_value_unless_cast() -> None:
    values = [pa.array([42]), pa.array(["42"]), pa.array([42.0])]
    plain = config(slot('feature = "v"'))
    assert len({encode(plain, {"v": value}).bags.keys[0] for value in values}) == 3
    cast = config(slot('feature = "v"\ncast = "int"'))
    assert {int(encode(cast, {"v": value}).bags.keys[0]) for value in values} == {fid(1, pa.array([42]))}
    text = config(slot('feature = "v"\ncast = "string"'))
    assert encode(text, {"v": pa.array([42])}).bags.keys[0] == fid(1, pa.array(["42"]))


def test_what_cannot_be_cast_is_missing() -> None:
    cast = config(slot('feature = "v"\ncast = "int"'))
    seven, eight = (fid(1, pa.array([value])) for value in (7, 8))
    assert bags(encode(cast, {"v": pa.array(["7", "seven", None, "8"])})) == [[seven], [], [], [eight]]


def test_widths_of_integers_strings_and_dictionaries_do_not_matter() -> None:
    plain = config(slot('feature = "v"'))
    texts = [pa.array(["a"]), pa.array(["a"], pa.large_string()), pa.array(["a"]).dictionary_encode()]
    assert len({int(encode(plain, {"v": value}).bags.keys[0]) for value in texts}) == 1
    numbers = [pa.array([1], kind) for kind in (pa.int64(), pa.int32(), pa.uint8())] + [pa.array([True])]
    assert len({int(encode(plain, {"v": value}).bags.keys[0]) for value in numbers}) == 1


@pytest.mark.parametrize(
    "values",
    [
        pa.array(["7", None, "x"]),
        pa.array([5, None, 7]),
        pa.array([["x", "y"], None, [], ["y", None]], pa.list_(pa.string())),
    ],
)
def test_a_dictionary_is_as_good_as_its_values(values: pa.Array) -> None:
    both = config(slot('feature = "v"'), slot('features = ["v", "w"]'))
    if not pa.types.is_list(values.type):
        both = config(slot('feature = "v"'), slot('features = ["v", "w"]'), '[[numerics]]\nfeature = "v"')
    places = [2, 0, 0, None, 1, len(values) - 1]
    words = pa.array([["a", "b"]] * len(places))
    repeated = pa.DictionaryArray.from_arrays(pa.array(places, pa.int32()), values)
    got, wanted = (
        encode(both, {"v": column, "w": words}) for column in (repeated, values.take(pa.array(places, pa.int32())))
    )
    assert bags(got) == bags(wanted)
    assert got.numeric.tolist() == wanted.numeric.tolist()


def test_a_column_that_is_no_feature_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="feature 'v': struct"):
        encode(config(slot('feature = "v"')), {"v": pa.array([{"a": 1}])})
    numeric = config(slot('feature = "a"'), '[[numerics]]\nfeature = "v"')
    with pytest.raises(ValueError, match="numeric 'v'"):
        encode(numeric, {"v": pa.array([[1.0]])})


words = st.lists(st.text("ab", max_size=2), max_size=3)


@given(st.lists(st.tuples(words, words), max_size=6))
def test_a_cross_is_every_combination_of_a_row_s_values(rows: list[tuple[list[str], list[str]]]) -> None:
    kind = pa.list_(pa.string())
    columns = {"a": pa.array([a for a, _ in rows], kind), "b": pa.array([b for _, b in rows], kind)}
    got = bags(encode(config(slot('features = ["a", "b"]')), columns))
    single = config(slot('features = ["a", "b"]'))
    pairs = {(x, y) for a, b in rows for x in a for y in b}
    key = {(x, y): int(encode(single, {"a": pa.array([x]), "b": pa.array([y])}).bags.keys[0]) for x, y in sorted(pairs)}
    assert got == [[key[x, y] for x in a for y in b] for a, b in rows]
    assert len(set(key.values())) == len(key)


def test_of_a_large_cross_the_first_ids_count() -> None:
    kind = pa.list_(pa.int64())
    long, short = list(range(3000)), [1, 2, 3]
    columns = {name: pa.array([long, short], kind) for name in ("a", "b", "d")} | {"c": pa.array([long, []], kind)}
    one, two = (slot(f'features = ["a", "b", "{more}"]') for more in ("d", "c"))
    crossed, small = bags(encode(config(slot('features = ["a", "b"]')), columns))
    assert (len(crossed), len(small)) == (MAX_CROSS_IDS, 9)
    pairs = {"a": pa.array([long[:4]], kind), "b": pa.array([long], kind)}
    assert crossed == bags(encode(config(slot('features = ["a", "b"]')), pairs))[0]
    assert [len(bag) for bag in bags(encode(config(one), columns))] == [MAX_CROSS_IDS, 27]
    assert [len(bag) for bag in bags(encode(config(two), columns))] == [MAX_CROSS_IDS, 0]


def test_a_cross_with_nothing_is_nothing_and_the_sides_are_not_alike() -> None:
    columns = {"a": pa.array(["x", "x", "y"]), "b": pa.array([None, "y", "x"])}
    got = bags(encode(config(slot('features = ["a", "b"]')), columns))
    assert got[0] == []
    assert got[1] != got[2]


def test_numbers_are_transformed_and_missing_ones_are_zero() -> None:
    numeric = '[[numerics]]\nfeature = "{}"\ntransform = "{}"\nshift = 1\nscale = 0.5'
    both = config(slot('feature = "a"'), numeric.format("p", "identity"), numeric.format("q", "log1p"))
    columns = {"p": pa.array([5, None, 1]), "q": pa.array([-3.5, float("nan"), float("inf")])}
    encoded = encode(both, columns).numeric
    assert encoded.dtype == np.float32
    assert encoded.tolist() == [[2.0, np.float32((-np.log(4.5) - 1) / 2)], [0.0, 0.0], [0.0, 0.0]]
    assert encode(both, {"a": pa.array(["x"])}).numeric.tolist() == [[0.0, 0.0]]
    assert encode(config(slot('feature = "a"')), columns).numeric.shape == (3, 0)
