"""Random logs of impressions and actions, and the blocks that they come in."""

import pyarrow as pa
from hypothesis import strategies as st

from monobeam.join.settings import JoinSettings, Label
from monobeam.logs import block

LABELS = (Label("like", "like"), Label("buy", "buy", 1.0))
IDS = ["a", "b", "c", "d", "e"]
SPAN = 80

# Features as their schemas have them: the logs of one stream need not agree.
SHAPES = {
    "shown": {},
    "east": {"n": pa.int64(), "s": pa.string(), "l": pa.list_(pa.string())},
    "west": {"n": pa.float64(), "x": pa.int64()},
}
VALUES = {
    pa.int64(): st.none() | st.integers(-5, 5),
    pa.float64(): st.none() | st.floats(-2, 2, width=16),
    pa.string(): st.none() | st.sampled_from(["", "u", "été"]),
    pa.list_(pa.string()): st.none() | st.lists(st.sampled_from(["p", "q"]), max_size=2),
}


@st.composite
def settings(draw):
    return JoinSettings(
        window_us=draw(st.sampled_from([1, 7, 20])),
        retention_us=draw(st.sampled_from([0, 5, 30])),
        tick_us=draw(st.sampled_from([1, 5, 16])),
        labels=draw(st.sampled_from([LABELS, LABELS[:1]])),
        policy=draw(st.sampled_from(["wait", "settled", "at_once"])),
        negative_rate=draw(st.sampled_from([1.0, 0.5])),
        seed=draw(st.integers(0, 3)),
        max_block_rows=draw(st.sampled_from([1, 3, 1000])),
        shard=draw(st.integers(0, 2)),
        shards=3,
    )


@st.composite
def logs(draw):
    """Records in the order of their logs; an offset is a place in its (log, partition)."""
    records = draw(st.lists(impression() | action(), max_size=40))
    # A producer that writes a record twice is common, and more than chance would give.
    for index in draw(st.lists(st.integers(0, 1000), max_size=8)):
        if records:
            records.append(dict(records[index % len(records)]))
    ends = {}
    for record in records:
        place = record["log"], record["partition"]
        record["offset"] = ends[place] = ends.get(place, -1) + 1
    return records


@st.composite
def impression(draw):
    log = draw(st.sampled_from(["east", "west"]))
    return {
        "id": draw(st.sampled_from(IDS)),
        "time": draw(st.integers(0, SPAN)),
        "log": log,
        "partition": draw(st.integers(0, 1)),
        "features": {name: draw(VALUES[type_]) for name, type_ in SHAPES[log].items()},
    }


@st.composite
def action(draw):
    time = draw(st.integers(0, SPAN))
    return {
        "id": draw(st.sampled_from(IDS)),
        "time": time,
        "log": "acts",
        "partition": draw(st.integers(0, 1)),
        "type": draw(st.sampled_from(["like", "buy", "view"])),
        "value": draw(st.sampled_from([0.5, 1.0])),
        "arrival": time + 3,
    }


def blocks(records):
    """Neighbouring records of one log as one block each."""
    groups = []
    for record in records:
        if not groups or (groups[-1][0]["log"], groups[-1][0]["partition"]) != (record["log"], record["partition"]):
            groups.append([])
        groups[-1].append(record)
    return [_block(group) for group in groups]


def _block(records):
    kind = "actions" if "type" in records[0] else "impressions"
    columns = {
        "_id": pa.array([r["id"] for r in records], pa.string()),
        "_time": pa.array([r["time"] for r in records], pa.int64()),
        "_partition": pa.array([r["partition"] for r in records], pa.int32()),
        "_offset": pa.array([r["offset"] for r in records], pa.int64()),
    }
    if kind == "actions":
        columns["_type"] = pa.array([r["type"] for r in records], pa.string())
        columns["_value"] = pa.array([r["value"] for r in records], pa.float64())
        columns["_arrival"] = pa.array([r["arrival"] for r in records], pa.int64())
    else:
        for name, type_ in SHAPES[records[0]["log"]].items():
            columns[name] = pa.array([r["features"][name] for r in records], type_)
    return block.label(pa.RecordBatch.from_pydict(columns), kind, records[0]["log"])
