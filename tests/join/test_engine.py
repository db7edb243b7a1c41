"""What the join emits is a pure function of the records."""

import tempfile
from contextlib import contextmanager
from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from monobeam.join.cold import MemoryCold
from monobeam.join.counters import ACTIONS_OUT, IMPRESSIONS_OUT
from monobeam.join.engine import JoinEngine
from monobeam.join.lmdb_cold import LmdbCold
from monobeam.join.sampling import kept
from monobeam.join.settings import JoinSettings
from monobeam.join.shards import rejects_block
from monobeam.logs import block
from tests.join import reference
from tests.join.records import LABELS, SPAN, blocks, logs, settings

END = SPAN + 100
thorough = hypothesis_settings(max_examples=100, deadline=None)
on_disk = hypothesis_settings(max_examples=40, deadline=None)


class Run:
    """An engine and all that it has emitted."""

    def __init__(self, join, cold):
        self.engine = JoinEngine(join, cold)
        self.join, self.cold = join, cold
        self.examples, self.letters = [], []
        self.watermark = -(2**62)

    def add(self, records):
        for batch in blocks(records):
            self.engine.add(block.decode(block.encode(batch)))
        self.check()

    def advance(self, watermark):
        advanced = self.engine.advance(watermark)
        self.examples += [block.encode(batch) for batch in advanced.examples]
        self.letters += advanced.dead_letters
        aligned = self.join.tick_start(watermark)
        if self.join.until_us is not None:
            aligned = min(aligned, self.join.tick_start(self.join.until_us))
        self.watermark = max(self.watermark, aligned)
        self.check()

    def restart_from_snapshot(self):
        data = self.engine.snapshot()
        self.engine = JoinEngine(self.join, self.cold)
        self.engine.restore(data)
        assert self.engine.snapshot() == data

    def check(self):
        counters = self.engine.counters
        assert counters["impressions"] == sum(counters[name] for name in IMPRESSIONS_OUT)
        assert counters["actions"] == sum(counters[name] for name in ACTIONS_OUT)
        assert all(count >= 0 for count in counters.values())


@contextmanager
def lmdb_cold():
    with tempfile.TemporaryDirectory() as directory:
        cold = LmdbCold(directory)
        try:
            yield cold
        finally:
            cold.close()


def at_once(records, join, end=END, cold=None):
    run = Run(join, cold or MemoryCold())
    run.add(records)
    run.advance(end)
    return run


def in_pieces(data, run, records, end=END, on_snapshot=True):
    """Feed records in some order and some blocks, and advance at some moments as far as no record is late."""
    jitter = data.draw(st.lists(st.integers(0, 30), min_size=len(records), max_size=len(records)))
    arrivals = [r for _, r in sorted(zip(jitter, records, strict=True), key=lambda e: (e[0] + e[1]["time"], e[0]))]
    while arrivals:
        some = data.draw(st.integers(1, 8))
        run.add(arrivals[:some])
        arrivals = arrivals[some:]
        bound = min([r["time"] for r in arrivals], default=end)
        for watermark in sorted(data.draw(st.lists(st.integers(0, SPAN), max_size=2))):
            run.advance(min(watermark, bound, end))
        if on_snapshot and data.draw(st.booleans()):
            run.restart_from_snapshot()
    for watermark in sorted(data.draw(st.lists(st.integers(0, END), max_size=4))):
        run.advance(min(watermark, end))
    run.advance(end)


def assume_ids_are_not_used_again(records, once):
    """Suppose that no id comes again after its retention, when it would start anew.

    The cold store has one impression of an id. Time that goes back beyond the moment of a second start finds only the
    second one there: the one case in which a restart can show (README, limits).
    """
    heads = sum(once.engine.counters[name] for name in ("examples", "sampled_out", "pending"))
    assume(heads == len({r["id"] for r in records if "type" not in r}))


def keeps(join):
    return lambda id_: bool(kept(pa.array([id_]), join.negative_rate, join.seed)[0])


def plain(encoded, labels):
    """The examples of encoded blocks as the reference has them."""
    rows = [row for data in encoded for row in block.decode(data).to_pylist()]
    return [
        {
            **{name: row[f"_{name}"] for name in ("id", "time", "decided", "kind", "arrival", "rate")},
            "labels": tuple({1.0: True, 0.0: False, None: None}[row[f"_label.{label.name}"]] for label in labels),
            "features": {name: value for name, value in row.items() if name[0] != "_" and value is not None},
        }
        for row in rows
    ]


def sorted_examples(examples):
    def bare(features):
        # A value may have become another type where two schemas met in a block.
        return sorted(
            (n, [str(x) for x in v] if isinstance(v, list) else float(v) if n in "nx" else v)
            for n, v in features.items()
            if v is not None
        )

    bare_examples = [{**e, "features": bare(e["features"])} for e in examples]
    return sorted(bare_examples, key=lambda e: (e["decided"], e["id"], e["kind"], e["time"], e["arrival"], str(e)))


def assert_as_reference(run, records, join, end=END):
    examples, unmatched, counters = reference.join(records, join, end, keeps(join))
    assert sorted_examples(plain(run.examples, join.labels)) == sorted_examples(examples)
    assert [(x["time"], (x["log"], x["partition"], x["offset"])) for x in run.letters] == unmatched
    assert run.engine.counters == counters


@thorough
@given(logs(), settings(), st.integers(0, END))
def test_one_advance_gives_what_the_reference_gives(records, join, end):
    run = at_once(records, join, end)
    assert_as_reference(run, [{**r, "due": r["time"]} for r in records], join, end)


@thorough
@given(st.data(), logs(), settings())
def test_order_blocks_advances_and_snapshots_do_not_matter(data, records, join):
    end = data.draw(st.integers(0, END))
    once = at_once(records, join, end)
    run = Run(join, MemoryCold())
    in_pieces(data, run, records, end)
    assert run.examples == once.examples
    assert run.letters == once.letters
    assert run.engine.counters == once.engine.counters


@on_disk
@given(st.data(), logs(), settings())
def test_the_cold_store_in_lmdb_gives_the_same(data, records, join):
    once = at_once(records, join)
    with lmdb_cold() as cold:
        run = Run(join, cold)
        in_pieces(data, run, records)
    assert run.examples == once.examples
    assert run.letters == once.letters
    assert run.engine.counters == once.engine.counters


@thorough
@given(st.data(), logs(), settings())
def test_late_records_are_handled_as_the_reference_does(data, records, join):
    run = Run(join, MemoryCold())
    arrivals = data.draw(st.permutations(records))
    known = []
    while arrivals:
        some = data.draw(st.integers(1, 8))
        run.add(arrivals[:some])
        known += [{**r, "due": max(r["time"], run.watermark)} for r in arrivals[:some]]
        arrivals = arrivals[some:]
        run.advance(data.draw(st.integers(0, SPAN + 30)))
        if data.draw(st.booleans()):
            run.restart_from_snapshot()
    run.advance(END)
    assert_as_reference(run, known, join)


@thorough
@given(st.data(), logs(), settings(), st.integers(0, SPAN))
def test_a_bounded_run_and_its_continuation_give_what_one_run_gives(data, records, join, at):
    once = at_once(records, join)
    assume_ids_are_not_used_again(records, once)
    cold = MemoryCold()
    first = Run(replace(join, until_us=at), cold)
    in_pieces(data, first, records)
    second = Run(replace(join, since_us=at), cold)
    in_pieces(data, second, records)
    assert first.examples + second.examples == once.examples
    assert first.letters + second.letters == once.letters
    for name, count in once.engine.counters.items():
        before = first.engine.counters[name]
        if name in ("impressions", "pending"):
            before -= first.engine.counters["pending"]
        if name in ("actions", "waiting"):
            before -= first.engine.counters["waiting"]
        assert before + second.engine.counters[name] == count, name


@thorough
@given(st.data(), logs(), settings(), st.integers(0, SPAN))
def test_a_continuation_may_begin_where_the_first_windows_are_open(data, records, join, at):
    """The logs are read from the last moment whose windows may be open: what is older is in the cold store."""
    once = at_once(records, join)
    assume_ids_are_not_used_again(records, once)
    cold = MemoryCold()
    first = Run(replace(join, until_us=at), cold)
    in_pieces(data, first, records)
    second = Run(replace(join, since_us=at), cold)
    in_pieces(data, second, [r for r in records if r["time"] >= second.join.first_needed_us])
    assert first.examples + second.examples == once.examples
    assert all(letter in once.letters for letter in first.letters + second.letters)


@thorough
@given(st.data(), logs(), settings(), st.integers(0, END))
def test_a_second_life_that_reads_from_the_start_gives_the_same(data, records, join, crash):
    once = at_once(records, join)
    assume_ids_are_not_used_again(records, once)
    cold = MemoryCold()
    in_pieces(data, Run(join, cold), records, crash)
    second = Run(join, cold)
    in_pieces(data, second, records)
    assert second.examples == once.examples
    assert second.letters == once.letters
    assert second.engine.counters == once.engine.counters


@on_disk
@given(st.data(), logs(), settings(), st.integers(0, END))
def test_a_second_life_with_the_cold_store_in_lmdb(data, records, join, crash):
    once = at_once(records, join)
    assume_ids_are_not_used_again(records, once)
    with tempfile.TemporaryDirectory() as directory:
        for end in (crash, END):
            cold = LmdbCold(directory)
            run = Run(join, cold)
            in_pieces(data, run, records, end)
            cold.close()
    assert run.examples == once.examples
    assert run.letters == once.letters
    assert run.engine.counters == once.engine.counters


@thorough
@given(st.data(), logs(), settings(), st.integers(0, SPAN), st.integers(0, END))
def test_going_back_to_a_snapshot_gives_the_same_again(data, records, join, taken, crash):
    """A bundle that is retried: engine and input go back, the cold store does not."""
    once = at_once(records, join)
    assume_ids_are_not_used_again(records, once)
    run = Run(join, MemoryCold())
    before, after = [r for r in records if r["time"] < taken], [r for r in records if r["time"] >= taken]
    in_pieces(data, run, before, taken)
    examples, letters, snapshot = list(run.examples), list(run.letters), run.engine.snapshot()
    in_pieces(data, run, after, max(taken, crash))
    run.examples, run.letters = examples, letters
    run.engine = JoinEngine(join, run.cold)
    run.engine.restore(snapshot)
    in_pieces(data, run, after)
    assert run.examples == once.examples
    assert run.letters == once.letters
    assert run.engine.counters == once.engine.counters


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
    run = at_once(records, replace(SIMPLE, max_block_rows=2, shard=4))
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
            "payload": f'{{"id": "{id_}", "type": "like", "time": {at}, "value": 1.0}}'.encode(),
        }
        for offset, reason, time, id_, at in [
            (0, "the action is before its impression", 30, "a", 20),
            (1, "no impression came within the retention", 140, "nobody", 40),
        ]
    ]
