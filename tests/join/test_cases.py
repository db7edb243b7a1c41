"""Cases of the join, by hand."""

from dataclasses import replace

import pyarrow as pa
import pytest

from monobeam.join.cold import MemoryCold
from monobeam.join.engine import JoinEngine
from monobeam.join.settings import JoinSettings
from monobeam.join.shards import rejects_block
from monobeam.logs import block
from tests.join.records import LABELS, blocks
from tests.join.runs import Run, at_once, keeps, plain


def impression(id_, time, offset, log="shown", **features):
    return {"id": id_, "time": time, "log": log, "partition": 0, "offset": offset, "features": features}


def action(id_, time, offset, type_="like", value=1.0):
    place = {"log": "acts", "partition": 0, "offset": offset}
    return {"id": id_, "time": time, **place, "type": type_, "value": value, "arrival": 9}


def like(id_, time, offset):
    return action(id_, time, offset)


SIMPLE = JoinSettings(window_us=10, retention_us=100, tick_us=5, labels=LABELS)


def outcome(run):
    """What the examples of a run say: (id, kind, labels, rate, time of the decision)."""
    examples = plain(run.examples, run.join.labels)
    return [tuple(example[name] for name in ("id", "kind", "labels", "rate", "decided")) for example in examples]


def test_actions_that_give_no_label_leave_an_impression_a_negative_to_be_sampled():
    join = replace(SIMPLE, negative_rate=0.25)
    ids = [f"i{n}" for n in range(400)]
    records = [impression(id_, 3, offset) for offset, id_ in enumerate(ids)]
    for offset, id_ in enumerate(ids):
        type_, value = [("view", 1.0), ("buy", 0.5), ("like", 1.0), ("buy", 1.0)][offset % 4]
        records.append(action(id_, 5, offset, type_, value))
    run = at_once(records, join)
    negatives = [(kind, rate) for _, kind, labels, rate, _ in outcome(run) if not any(labels)]
    positives = [(kind, rate) for _, kind, labels, rate, _ in outcome(run) if any(labels)]
    assert set(negatives) == {(1, 0.25)}
    assert positives == [(0, 1.0)] * 200
    assert len(negatives) == sum(keeps(join)(id_) for n, id_ in enumerate(ids) if n % 4 < 2)
    assert run.engine.counters["negatives"] == len(negatives)


def test_a_correction_has_only_the_labels_that_it_changes():
    records = [impression("a", 3, 0), like("a", 5, 0), action("a", 40, 1, "buy"), like("a", 50, 2)]
    assert outcome(at_once(records, SIMPLE)) == [
        ("a", 0, (True, False), 1.0, 13),
        ("a", 2, (None, True), 1.0, 40),
    ]


def test_at_once_decides_with_the_impression_and_corrects_with_each_action_that_gives_a_label():
    records = [impression("a", 3, 0), like("a", 3, 0), action("a", 8, 1, "buy"), like("a", 9, 2)]
    records += [impression("b", 4, 1), action("b", 4, 3, "view"), like("b", 12, 4), like("b", 12, 5), like("b", 30, 6)]
    join = replace(SIMPLE, policy="at_once")
    run = at_once(records, join)
    assert outcome(run) == [
        ("a", 0, (True, False), 1.0, 3),
        ("b", 1, (False, False), 1.0, 4),
        ("a", 2, (None, True), 1.0, 8),
        ("b", 2, (True, None), 1.0, 12),
    ]
    assert (run.engine.counters["corrections"], run.engine.counters["joined"]) == (2, 4)
    early = at_once(records, join, end=10)
    assert outcome(early) == outcome(run)[:3]
    assert early.engine.counters["pending"] == 0


def test_blocks_are_cut_at_ticks_and_at_the_limit_and_sorted():
    records = [impression(id_, time, i) for i, (id_, time) in enumerate([("b", 3), ("a", 3), ("d", 3), ("c", 6)])]
    run = at_once(records, replace(SIMPLE, max_block_rows=2, shard=4, shards=5))
    decoded = [block.decode(data) for data in run.examples]
    assert [batch.column("_id").to_pylist() for batch in decoded] == [["a", "b"], ["d"], ["c"]]
    assert [batch.schema.metadata[b"tick"] for batch in decoded] == [b"2", b"2", b"3"]
    assert {(batch.schema.metadata[b"kind"], batch.schema.metadata[b"shard"]) for batch in decoded} == {
        (b"examples", b"4")
    }


def test_next_due_is_the_next_watermark_at_which_something_happens():
    run = Run(SIMPLE, MemoryCold())
    assert run.engine.next_due() is None
    run.add([impression("a", 3, 0), like("b", 12, 0)])
    happened = []
    while (due := run.engine.next_due()) is not None:
        before = run.engine.counters
        run.advance(due - 1)
        assert run.engine.counters == before
        run.advance(due)
        happened.append(due)
    assert happened == [5, 15, 115]
    assert run.engine.counters["unmatched"] == 1
    bounded = JoinEngine(replace(SIMPLE, until_us=9), MemoryCold())
    bounded.add(blocks([impression("a", 7, 0)])[0])
    assert bounded.next_due() is None


def test_logs_with_other_columns_and_types_meet_in_one_block():
    east, west = (impression("a", 3, 0, "east", n=1, s="u", l=["p"]), impression("b", 3, 0, "west", n=0.5, x=4))
    run = at_once([east, west], SIMPLE)
    (batch,) = [block.decode(data) for data in run.examples]
    assert [name for name in batch.schema.names if name[0] != "_"] == ["l", "n", "s", "x"]
    assert batch.column("n").to_pylist() == [1.0, 0.5]
    assert batch.column("x").to_pylist() == [None, 4]
    alone = at_once([east], SIMPLE)
    assert block.decode(alone.examples[0]).schema.names[-3:] == ["l", "n", "s"]


def test_rejects_are_counted():
    run = Run(SIMPLE, MemoryCold())
    run.engine.add(rejects_block("impressions", 3, "shown", 0, 0))
    run.engine.add(rejects_block("actions", 2, "acts", 0, 0))
    run.check()
    assert (run.engine.counters["impressions_rejected"], run.engine.counters["actions_rejected"]) == (3, 2)
    with pytest.raises(ValueError, match="'examples'"):
        run.engine.add(block.label(pa.RecordBatch.from_pydict({}), "examples", ""))


def test_a_snapshot_of_something_else_is_refused():
    run = at_once([impression("a", 3, 0)], SIMPLE, end=5)
    data = run.engine.snapshot()
    other = JoinEngine(replace(SIMPLE, labels=LABELS[:1]), MemoryCold())
    for damaged, quoted in [(data[:-1], "must be"), (b"x" + data, "must begin"), (b"", "must begin")]:
        with pytest.raises(ValueError, match=quoted):
            run.engine.restore(damaged)
    with pytest.raises(ValueError, match=r"\['like', 'buy'\]: must be \['like'\]"):
        other.restore(data)


def test_dead_letters_say_where_what_and_why():
    records = [impression("a", 30, 0), like("a", 20, 0), like("nobody", 40, 1)]
    letters = at_once(records, SIMPLE, end=1000).letters
    assert letters == [
        {
            "log": "acts",
            "partition": 0,
            "offset": offset,
            "count": 1,
            "reason": f"unmatched: {reason}",
            "time": time,
            "payload": (
                f'{{"impression_id": "{id_}", "time": {at}, "type": "like", "value": 1.0, "ingest_time": 9}}'.encode()
            ),
        }
        for offset, reason, time, id_, at in [
            (0, "the action is before its impression", 30, "a", 20),
            (1, "no impression came within the retention", 140, "nobody", 40),
        ]
    ]


def test_a_continuation_gives_up_what_still_waited_and_nothing_that_was_given_up_before():
    records = [like("nobody", 50, 0), like("b", 30, 1), impression("b", 31, 0)]
    cold = MemoryCold()
    first = at_once(records, replace(SIMPLE, until_us=100), end=1000, cold=cold)
    later = replace(SIMPLE, since_us=100)
    read = [r for r in records if r["time"] >= (later.first_action_needed_us if "type" in r else later.first_needed_us)]
    assert read == records[:2]
    second = at_once(read, later, end=1000, cold=cold)
    assert [(letter["time"], letter["offset"]) for letter in first.letters] == [(31, 1)]
    assert [(letter["time"], letter["offset"]) for letter in second.letters] == [(150, 0)]
