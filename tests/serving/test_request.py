from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monobeam.models.config import parse as parse_config
from monobeam.serving.columns import FeatureTypes, types_of_schema
from monobeam.serving.errors import InvalidRequest, NotJson
from monobeam.serving.request import RankRequest, parse
from monobeam.serving.size import check_size
from tests.serving.world import CONFIG, request

LIMIT = 20


def types() -> FeatureTypes:
    return FeatureTypes(parse_config(CONFIG))


def ask(body: object, known: FeatureTypes | None = None) -> RankRequest:
    return parse(body if isinstance(body, bytes) else json.dumps(body).encode(), known or types(), LIMIT)


def candidates(*values: object) -> dict[str, Any]:
    return {"candidates": list(values)}


def test_a_request_becomes_typed_columns() -> None:
    asked = ask(request(1, 3, request_id="r", top_k=2, log=False))
    assert (asked.request_id, asked.count, asked.top_k, asked.log) == ("r", 3, 2, False)
    assert {name: column.type for name, column in asked.candidates.items()} == {
        "item_id": pa.int64(),
        "tags": pa.list_(pa.string()),
        "price": pa.float64(),
    }
    assert asked.user["user_id"].to_pylist() == [request(1, 3)["features"]["user_id"]]


def test_defaults() -> None:
    asked = ask(candidates({"item_id": 1}, {}))
    assert (asked.request_id, asked.top_k, asked.log, asked.user) == (None, 2, True, {})
    assert asked.candidates["item_id"].to_pylist() == [1, None]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is empty"),
        (b" \n", "the body is empty"),
        (b"{", "the body is no JSON: .* at character 1"),
        (b'{"candidates": [{}],}', "the body is no JSON: .* at character 20: "),
        (b'{"a": "\xff"}', "the body is no UTF-8 text: byte 7 is 0xff"),
        (b'{"candidates": [{"price": NaN}]}', "NaN is no JSON number; numbers must be finite"),
        (b"[" * 100_000, "the body is nested too deeply"),
        (b'{"a":' * 100_000, "the body is nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "the body holds a whole number of more than 4300 digits"),
    ],
)
def test_what_is_no_json_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(NotJson, match=f"^{message}"):
        ask(body)


def test_a_key_given_twice_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r'^"item_id": twice in one object'):
        ask(b'{"candidates": [{"price": 1}, {"item_id": 1, "price": 2, "item_id": 2}]}')


def test_values_nested_nearly_too_deeply_are_refused_with_a_message() -> None:
    for depth in range(100, 1100, 50):
        with pytest.raises((InvalidRequest, NotJson)):
            ask(b'{"candidates": [{"tags": ' + b"[" * depth + b"]" * depth + b"}]}")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([1], r"the request = \[1\]: must be an object"),
        ({"candidates": [{}], "k": 3}, '"k": unknown key; allowed: candidates, features, log, request_id, top_k'),
        ({}, "candidates: missing; give a list of 1 or more"),
        ({"candidates": []}, r"candidates = \[\]: must be a list of 1 or more"),
        ({"candidates": {"item_id": 1}}, r'candidates = \{"item_id": 1\}: must be a list'),
        (candidates({}, 7), r"candidates\[1\] = 7: must be an object"),
        (candidates(*[{}] * 21), "candidates: 21 of them; at most 20 are allowed"),
        ({"features": 5, "candidates": [{}]}, "features = 5: must be an object"),
        (candidates({}, {"colour": 1}), r'candidates\[1\]: "colour": unknown feature; allowed: age, country, item_id'),
        ({"features": {"x": 1}, "candidates": [{}]}, r'features: "x": unknown feature; allowed: age'),
        ({"features": {"age": 1}, "candidates": [{"age": 1}]}, "features.age: given for the request and for cand"),
        (candidates({"item_id": 1}, {"item_id": "1"}), r'candidates\[1\].item_id = "1": must be .* alike for all'),
        (candidates({"item_id": True}, {"item_id": 1}), r"candidates\[1\].item_id = 1: .* alike for all"),
        (candidates({"item_id": {"a": 1}}), r'candidates\[0\].item_id = \{"a": 1\}: must be a boolean, number'),
        (candidates({"item_id": 2**63}), r"candidates\[0\].item_id = 9223372036854775808: .* fit 64 bits"),
        (b'{"candidates": [{"price": 1e999}]}', r"candidates\[0\].price = Infinity: numbers must be finite"),
        (candidates({"price": "7"}), r'candidates\[0\].price = "7": must be a number, as in the log'),
        (candidates({"country": "\ud800"}), r'candidates\[0\].country = "\\ud800": strings must be valid Unicode'),
        (candidates({"tags": ["a"]}, {"tags": "a"}), r'candidates\[1\].tags = "a": must be'),
        (candidates({"tags": ["a"]}, {"tags": ["a", 1]}), r'candidates\[1\].tags = \["a", 1\]: a list must hold only'),
        (candidates({"tags": [["a"]]}), r'candidates\[0\].tags = \[\["a"\]\]: a list must hold only'),
        (b'{"candidates": [{"tags": [1.5, 1e999]}]}', r"candidates\[0\].tags = Infinity: numbers must be finite"),
        (candidates({"tags": ["a"] * 1001}), r"candidates\[0\].tags: 1001 items; at most 1000 are allowed"),
        ({"features": {"tags": ["a"] * 1001}, "candidates": [{}]}, "features.tags: 1001 items; at most 1000"),
        (candidates({"\ud800": 1}), r'candidates\[0\]: "\\ud800": unknown feature'),
        ({"candidates": [{}], "top_k": 0}, "top_k = 0: must be a whole number of 1 or more"),
        ({"candidates": [{}], "top_k": True}, "top_k = true: must be"),
        ({"candidates": [{}], "log": "no"}, 'log = "no": must be true or false'),
        ({"candidates": [{}], "request_id": ""}, 'request_id = "": must be a string of 1 to 200 printable'),
        ({"candidates": [{}], "request_id": "a\n"}, r'request_id = "a\\n": must be'),
    ],
)
def test_every_mistake_is_named(body: object, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        ask(body)


def test_long_values_are_quoted_in_part() -> None:
    with pytest.raises(InvalidRequest) as caught:
        ask(candidates({"price": "x" * 10_000}))
    assert len(str(caught.value)) < 200


CROSSED = parse_config(
    CONFIG
    + """
[[slots]]
features = ["tags", "words"]
[[slots]]
features = ["words", "country"]
"""
)


def test_ids_are_counted_from_the_lengths_of_lists() -> None:
    lists = {"tags": ["a"] * 1000, "words": ["b"] * 1000}
    known = FeatureTypes(CROSSED)
    check_size(CROSSED.slots, parse(json.dumps(candidates(*[lists] * 20)).encode(), known, LIMIT))
    large = {"features": {"words": lists["words"]}, "candidates": [{"tags": ["a"] * 100}] * 200}
    with pytest.raises(
        InvalidRequest, match=r'^"tags x words": 2000000 of the 2020000 ids of this request; at most 1000'
    ):
        check_size(CROSSED.slots, parse(json.dumps(large).encode(), known, 200))
    # What is the user's alone is looked up once, however many candidates there are.
    alone = {"features": {**lists, "country": "de"}, "candidates": [{"item_id": 1}] * 1000}
    check_size(CROSSED.slots, parse(json.dumps(alone).encode(), known, 1000))


def test_types_of_the_log_are_demanded() -> None:
    known = types()
    known.pin([("item_id", pa.int64()), ("tags", pa.list_(pa.float64())), ("colour", pa.string())])
    assert "colour" not in known.pinned
    assert ask(candidates({"item_id": 1, "tags": [1, 2]}), known).candidates["tags"].type == pa.list_(pa.float64())
    with pytest.raises(InvalidRequest, match=r'candidates\[1\].item_id = "1": must be a whole number, as in the log'):
        ask(candidates({}, {"item_id": "1"}), known)
    with pytest.raises(InvalidRequest, match=r"item_id = 1.5: must be a whole number"):
        ask(candidates({"item_id": 1.5}), known)
    with pytest.raises(InvalidRequest, match=r"tags = 1: must be a list of numbers"):
        ask(candidates({"tags": 1}), known)


def test_a_type_once_pinned_stays() -> None:
    known = types()
    known.pin([("item_id", pa.int64())])
    known.pin([("item_id", pa.string())])
    assert known.pinned["item_id"] == pa.int64()


def test_types_come_from_avro_schemas() -> None:
    fields = {
        "a": "long",
        "b": ["null", "double"],
        "c": {"type": "array", "items": "int"},
        "d": {"type": "enum", "name": "E", "symbols": ["X"]},
        "e": ["null", "string", "long"],
        "f": {"type": "map", "values": "long"},
        "g": ["boolean", "null"],
    }
    schema = {"type": "record", "name": "R", "fields": [{"name": n, "type": t} for n, t in fields.items()]}
    expected = {"a": pa.int64(), "b": pa.float64(), "c": pa.list_(pa.int64()), "d": pa.string(), "g": pa.bool_()}
    assert dict(types_of_schema(schema)) == expected


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_subnormal=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
feature_values = st.dictionaries(st.sampled_from(["user_id", "country", "item_id", "tags", "price"]), anything)


@given(
    st.fixed_dictionaries(
        {"candidates": st.lists(feature_values, max_size=4)},
        optional={"features": feature_values, "top_k": anything, "log": anything, "request_id": anything},
    )
    | anything
)
def test_whatever_comes_is_answered_or_refused(body: object) -> None:
    try:
        asked = ask(body)
    except (InvalidRequest, NotJson):
        return
    assert all(len(column) == asked.count for column in asked.candidates.values())
    assert all(len(column) == 1 for column in asked.user.values())
