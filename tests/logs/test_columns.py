from __future__ import annotations

import json
import logging
import random
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monobeam.logs import block, schemas
from monobeam.logs.columns import DAY_US, Decoded, Reject, actions, impressions, latest_time
from monobeam.logs.log import Chunk, Part, encode_records

NOW = 1_800_000_000_000_000
TIME = NOW - 5_000_000
GENDER = {"type": "enum", "name": "Gender", "symbols": ["M", "F"]}
FEATURES: dict[str, Any] = {
    "flag": "boolean",
    "small": "int",
    "large": "long",
    "half": "float",
    "real": "double",
    "text": "string",
    "gender": GENDER,
    "genders": {"type": "array", "items": "Gender"},
    "flags": {"type": "array", "items": "boolean"},
    "ids": {"type": "array", "items": "long"},
    "scores": {"type": "array", "items": "float"},
    "words": {"type": "array", "items": "string"},
}
RECORD = {
    "impression_id": "a",
    "time": TIME,
    "flag": True,
    "small": -7,
    "large": 2**40,
    "half": 0.5,
    "real": 0.1,
    "text": "größe",
    "gender": "F",
    "genders": ["F", "M"],
    "flags": [True, False],
    "ids": [],
    "scores": [1.5, -2.0],
    "words": ["x", ""],
}
TYPES = {
    "flag": pa.bool_(),
    "small": pa.int64(),
    "large": pa.int64(),
    "half": pa.float64(),
    "real": pa.float64(),
    "text": pa.string(),
    "gender": pa.string(),
    "genders": pa.list_(pa.string()),
    "flags": pa.list_(pa.int64()),
    "ids": pa.list_(pa.int64()),
    "scores": pa.list_(pa.float64()),
    "words": pa.list_(pa.string()),
}
PLAIN = schemas.impressions({"user": "long"})


def chunk(schema: dict[str, Any], *parts: list[dict[str, Any]] | tuple[int, bytes], offset: int = 100) -> Chunk:
    """Parts are records, or a count and the bytes that are said to be so many."""
    text = json.dumps(schema)
    framed = [part if isinstance(part, tuple) else (len(part), encode_records(text, part)) for part in parts]
    counts = tuple(Part(count, len(payload)) for count, payload in framed)
    payload = b"".join(payload for _, payload in framed)
    return Chunk(3, offset, sum(part.count for part in counts), text, payload, counts)


def shown(count: int, **changes: Any) -> list[dict[str, Any]]:
    return [{"impression_id": f"i{n}", "time": TIME + n, "user": n, **changes} for n in range(count)]


def acted(**changes: Any) -> dict[str, Any]:
    return {"impression_id": "i", "time": TIME, "type": "like", "value": None, "ingest_time": None, **changes}


def decoded(found: Decoded) -> tuple[list[int], list[tuple[int, int, str]]]:
    """Offsets of what is used; offset, count and reason of what is not."""
    rejects = [(reject.offset, reject.count, reject.reason) for reject in found.rejects]
    return found.batch["_offset"].to_pylist(), rejects


def optional(avro: Any, null_first: bool) -> list[Any]:
    return ["null", avro] if null_first else [avro, "null"]


def test_features_of_every_type_become_columns() -> None:
    found = impressions(chunk(schemas.impressions(FEATURES), [RECORD, RECORD]), "served", NOW)
    assert not found.rejects
    assert (block.kind(found.batch), block.log(found.batch)) == ("impressions", "served")
    head = {"_id": pa.string(), "_time": pa.int64(), "_partition": pa.int32(), "_offset": pa.int64()}
    assert dict(zip(found.batch.schema.names, found.batch.schema.types, strict=True)) == head | TYPES
    expected = {**RECORD, "_id": "a", "_time": TIME, "_partition": 3, "flags": [1, 0]}
    del expected["impression_id"], expected["time"]
    assert found.batch.to_pylist() == [expected | {"_offset": 100}, expected | {"_offset": 101}]


@pytest.mark.parametrize("null_first", [True, False])
@pytest.mark.parametrize("extra", [{}, {"context": {"type": "map", "values": "long"}}], ids=["in bulk", "one by one"])
def test_features_may_be_null(null_first: bool, extra: dict[str, Any]) -> None:
    features = {name: optional(avro, null_first) for name, avro in FEATURES.items()}
    nothing = {**dict.fromkeys(RECORD), "impression_id": "a", "time": TIME}
    context = {"context": {"page": 3}}
    records = [RECORD | context, nothing | context, RECORD | context]
    found = impressions(chunk(schemas.impressions(features | extra), records), "served", NOW)
    assert {name: found.batch.schema.field(name).type for name in TYPES} == TYPES
    assert "context" not in found.batch.schema.names
    assert found.batch.num_rows == 3
    for name in TYPES:
        value = [1, 0] if name == "flags" else RECORD[name]
        assert found.batch[name].to_pylist() == [value, None, value]


def test_lists_may_hold_nulls() -> None:
    schema = schemas.impressions({"words": {"type": "array", "items": ["null", "string"]}})
    record = {"impression_id": "a", "time": TIME, "words": ["x", None]}
    assert impressions(chunk(schema, [record]), "x", NOW).batch["words"].to_pylist() == [["x", None]]


def test_other_types_are_left_out_and_said_to_be(caplog: pytest.LogCaptureFixture) -> None:
    schema = schemas.impressions({"blob": "bytes", "wide": ["null", "long", "string"], "user": "long"})
    records = [{**record, "blob": b"x", "wide": wide} for record, wide in zip(shown(2), ["x", 3], strict=True)]
    with caplog.at_level(logging.WARNING):
        found, _ = (impressions(chunk(schema, records), "file:mine", NOW) for _ in range(2))
    assert found.batch.schema.names == ["_id", "_time", "_partition", "_offset", "user"]
    assert found.batch["user"].to_pylist() == [0, 1]
    assert caplog.text.count("file:mine: no feature can have these types") == 1
    assert 'blob "bytes"' in caplog.text
    assert 'wide ["null", "long", "string"]' in caplog.text


@pytest.mark.parametrize(
    ("unit", "time"),
    [("timestamp-millis", TIME // 1000), ("timestamp-micros", TIME), ("timestamp-nanos", TIME * 1000)],
)
def test_times_become_microseconds(unit: str, time: int) -> None:
    schema = schemas.impressions({})
    schema["fields"][1]["type"] = ["null", {"type": "long", "logicalType": unit}]
    late = time + {"timestamp-millis": 86_400_000, "timestamp-micros": DAY_US, "timestamp-nanos": DAY_US * 1000}[unit]
    times = [time, None, 0, -1, 2**62, late + (late - time)]
    found = impressions(chunk(schema, [{"impression_id": "a", "time": time} for time in times]), "x", NOW)
    assert found.batch["_time"].to_pylist() == [TIME]
    reasons = [reject.reason for reject in found.rejects]
    rule = ": must be after 1970 and not more than a day ahead"
    assert reasons == [f"time {time}{rule}" for time in times[1:]]


@pytest.mark.parametrize("avro", ["long", "int", ["null", "long"]])
def test_ids_may_be_numbers(avro: Any) -> None:
    schema = schemas.impressions({})
    schema["fields"][0]["type"] = avro
    records = [{"impression_id": n, "time": TIME} for n in (7, -12)]
    assert impressions(chunk(schema, records), "x", NOW).batch["_id"].to_pylist() == ["7", "-12"]


def test_every_faulty_record_is_rejected_with_its_value_and_bytes() -> None:
    schema = schemas.impressions({"user": "long"})
    schema["fields"][0]["type"] = ["null", "string"]
    records = shown(10)
    faulty = {2: {"impression_id": ""}, 3: {"impression_id": None}, 5: {"time": 0}, 9: {"time": NOW + DAY_US + 1}}
    for at, change in faulty.items():
        records[at] |= change
    first, second = records[:4], records[4:]
    found = impressions(chunk(schema, first, second), "x", NOW)
    assert decoded(found) == (
        [100, 101, 104, 106, 107, 108],
        [
            (102, 1, "impression_id '': must not be empty"),
            (103, 1, "impression_id None: must not be empty"),
            (105, 1, "time 0: must be after 1970 and not more than a day ahead"),
            (109, 1, f"time {NOW + DAY_US + 1}: must be after 1970 and not more than a day ahead"),
        ],
    )
    text = json.dumps(schema)
    assert [reject.payload for reject in found.rejects] == [encode_records(text, [records[at]]) for at in faulty]


@pytest.mark.parametrize("garbage", [b"", b"\xff", b"\xff" * 100, b"\x08ab", bytes(200), b"\x02\xff\x02\x02\x02"])
def test_garbage_does_not_touch_its_neighbours(garbage: bytes) -> None:
    found = impressions(chunk(PLAIN, shown(3), (4, garbage), shown(2)), "x", NOW)
    offsets, rejects = decoded(found)
    assert offsets == [100, 101, 102, 107, 108]
    ((offset, count, reason),) = [rejects[0]]
    assert (offset, count) == (103, 4)
    assert reason.startswith(f"undecodable: {garbage[:16].hex() or 'no bytes'}") or "left over" in reason
    assert found.rejects[0].payload == garbage


def test_records_before_the_first_undecodable_one_are_kept() -> None:
    good = encode_records(json.dumps(PLAIN), shown(2))
    found = impressions(chunk(PLAIN, (5, good + b"\xff\xfe")), "x", NOW)
    offsets, ((offset, count, reason),) = decoded(found)
    assert offsets == [100, 101]
    assert (offset, count) == (102, 3)
    assert reason.startswith("undecodable: fffe: ")
    assert found.rejects[0].payload == b"\xff\xfe"


def test_bytes_left_over_mean_another_schema() -> None:
    good = encode_records(json.dumps(PLAIN), shown(3))
    found = impressions(chunk(PLAIN, (3, good + b"xyz"), shown(1)), "x", NOW)
    assert decoded(found) == ([103], [(100, 3, "undecodable: 3 bytes left over after 3 records: 78797a")])


def test_left_over_bytes_that_fit_the_next_record_are_noticed() -> None:
    """One byte that says how long a string is, and swallows the next record's own length."""
    good = encode_records(json.dumps(PLAIN), shown(1))
    found = impressions(chunk(PLAIN, (1, good + b"\x06"), shown(1)), "x", NOW)
    assert decoded(found)[0] == [101]


@pytest.mark.parametrize(("index", "kept"), [(0, 3), (2, 2), (63, 2)])
@pytest.mark.parametrize("feature", ["gender", "genders"])
def test_symbols_that_are_none_are_garbage(feature: str, index: int, kept: int) -> None:
    avro = GENDER if feature == "gender" else {"type": "array", "items": GENDER}
    schema = schemas.impressions({feature: avro})
    symbol = encode_records('"long"', [index])  # type: ignore[list-item]
    head = encode_records(json.dumps(PLAIN), shown(1))[:-1]
    datum = head + (symbol if feature == "gender" else b"\x02" + symbol + b"\0")
    found = impressions(chunk(schema, [{**RECORD}], (1, datum), [{**RECORD}]), "x", NOW)
    assert found.batch.num_rows == kept
    assert sum(reject.count for reject in found.rejects) == 3 - kept


def test_damaged_parts_are_rejected_whole() -> None:
    good = chunk(PLAIN, shown(2), shown(2))
    damaged = Chunk(3, 100, 4, good.schema, good.payload, (good.parts[0], Part(2, good.parts[1].size, "deflate: no")))
    assert decoded(impressions(damaged, "x", NOW)) == ([100, 101], [(102, 2, "undecodable: deflate: no")])


def test_a_count_beyond_reason_costs_nothing() -> None:
    found = impressions(chunk(PLAIN, (10**15, b"\x02a")), "x", NOW)
    assert decoded(found)[1][0][:2] == (100, 10**15)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_every_record_is_used_or_rejected_whatever_the_bytes(seed: int) -> None:
    rng = random.Random(seed)
    schema = schemas.impressions(FEATURES)
    good = [{**RECORD, "impression_id": f"i{n}"} for n in range(5)]
    spoiled = bytearray(encode_records(json.dumps(schema), good))
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(spoiled))
        spoiled[at : at + rng.randrange(4)] = rng.randbytes(rng.randrange(4))
    found = impressions(chunk(schema, good, (5, bytes(spoiled)), good), "x", NOW)
    offsets, rejects = decoded(found)
    rejected = [place for offset, count, _ in rejects for place in range(offset, offset + count)]
    assert sorted(offsets + rejected) == list(range(100, 115))
    assert not set(rejected) & {*range(100, 105), *range(110, 115)}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.booleans())
def test_parts_make_no_difference(sizes: list[int], one_by_one: bool) -> None:
    extra = {"context": {"type": "map", "values": "long"}} if one_by_one else {}
    schema = schemas.impressions({"user": "long"} | extra)
    records = shown(sum(sizes), context={"a": 1})
    bounds = [sum(sizes[:n]) for n in range(len(sizes) + 1)]
    parts = [records[low:high] for low, high in pairwise(bounds)]
    assert impressions(chunk(schema, *parts), "x", NOW) == impressions(chunk(schema, records), "x", NOW)


@pytest.mark.parametrize(
    ("field", "avro", "message"),
    [
        ("impression_id", "bytes", "field 'impression_id' is \"bytes\": must be string or long or int"),
        ("impression_id", {"type": "array", "items": "string"}, "field 'impression_id' is string list"),
        ("time", "long", "field 'time' is a plain long: must be timestamp-millis or timestamp-micros"),
        ("time", "string", "field 'time' is string: must be long"),
        ("_id", "string", "feature '_id': names that start with '_' are reserved"),
    ],
)
def test_schemas_that_cannot_be_are_rejected_with_all_their_records(field: str, avro: Any, message: str) -> None:
    schema = schemas.impressions({"_id": avro} if field == "_id" else {})
    for entry in schema["fields"]:
        if entry["name"] == field:
            entry["type"] = avro
    found = impressions(chunk(schema, (4, b"????")), "x", NOW)
    assert found.batch.num_rows == 0
    assert found.batch.schema.names == ["_id", "_time", "_partition", "_offset"]
    (reject,) = found.rejects
    assert reject == Reject(3, 100, 4, reject.reason, b"????")
    assert reject.reason.startswith(f"schema: {message}")


@pytest.mark.parametrize("text", ["", "{", '"long"', "[]", '{"type":"record"}', '{"type":"enum","name":"x"}'])
def test_what_is_no_schema_of_records_is_rejected(text: str) -> None:
    found = actions(Chunk(0, 0, 7, text, b"x"), "x", NOW)
    assert [(reject.count, reject.reason.split(":")[0]) for reject in found.rejects] == [(7, "schema")]
    assert found.batch.schema.names == ["_id", "_time", "_type", "_value", "_arrival", "_partition", "_offset"]


def test_a_missing_field_is_named() -> None:
    found = actions(chunk(PLAIN, shown(1)), "x", NOW)
    assert found.rejects[0].reason == "schema: field 'type' is missing: must be string"


def test_actions_become_columns() -> None:
    records = [acted(), acted(value=0.5, ingest_time=TIME + 9), acted(type="watch", value=-3.0, ingest_time=0)]
    found = actions(chunk(schemas.ACTIONS, records), "clicks", NOW)
    assert (block.kind(found.batch), block.log(found.batch)) == ("actions", "clicks")
    assert found.batch.schema.types == [
        pa.string(),
        pa.int64(),
        pa.string(),
        pa.float64(),
        pa.int64(),
        pa.int32(),
        pa.int64(),
    ]
    assert found.batch.to_pylist() == [
        {"_id": "i", "_time": TIME, "_type": kind, "_value": value, "_arrival": arrival, "_partition": 3, "_offset": at}
        for at, kind, value, arrival in [
            (100, "like", 1.0, NOW),
            (101, "like", 0.5, TIME + 9),
            (102, "watch", -3.0, NOW),
        ]
    ]


def test_actions_of_few_fields() -> None:
    schema = {**schemas.ACTIONS, "fields": schemas.ACTIONS["fields"][:3]}
    found = actions(chunk(schema, [acted()]), "x", NOW)
    assert found.batch["_value"].to_pylist() == [1.0]
    assert found.batch["_arrival"].to_pylist() == [NOW]


def test_actions_of_other_types() -> None:
    kinds = {"type": "enum", "name": "Kind", "symbols": ["like", "hide"]}
    types = {"type": kinds, "value": ["int", "null"], "weather": {"type": "map", "values": "string"}}
    schema = schemas.impressions(types)
    records = [acted(value=3, weather={}), acted(type="hide", weather={"sky": "blue"})]
    found = actions(chunk(schema, records), "x", NOW)
    assert found.batch["_type"].to_pylist() == ["like", "hide"]
    assert found.batch["_value"].to_pylist() == [3.0, 1.0]


def test_faulty_actions_are_rejected() -> None:
    schema = json.loads(json.dumps(schemas.ACTIONS))
    schema["fields"][2]["type"] = ["null", "string"]
    values = [float("nan"), float("inf"), -float("inf")]
    records = [acted(), acted(type=None), *(acted(value=value) for value in values), acted(time=-5), acted(type="")]
    assert decoded(actions(chunk(schema, records), "x", NOW)) == (
        [100],
        [
            (101, 1, "type None: must not be empty"),
            (102, 1, "value nan: must be finite"),
            (103, 1, "value inf: must be finite"),
            (104, 1, "value -inf: must be finite"),
            (105, 1, "time -5: must be after 1970 and not more than a day ahead"),
            (106, 1, "type '': must not be empty"),
        ],
    )


def test_the_latest_time_of_a_chunk() -> None:
    assert latest_time(chunk(PLAIN, shown(7), (1, b"\xff"))) == TIME + 6
    assert latest_time(chunk(PLAIN, (1, b"\xff"))) is None
    assert latest_time(chunk(schemas.EXAMPLES, (1, b"\xff"))) is None
