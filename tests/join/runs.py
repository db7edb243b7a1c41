"""Runs of the engine over records, and what they emit beside what the reference says."""

import tempfile
from contextlib import contextmanager

import pyarrow as pa
from hypothesis import assume
from hypothesis import strategies as st

from monobeam.join.cold import MemoryCold
from monobeam.join.counters import ACTIONS_OUT, IMPRESSIONS_OUT
from monobeam.join.engine import JoinEngine
from monobeam.join.lmdb_cold import LmdbCold
from monobeam.join.sampling import kept
from monobeam.logs import block
from tests.join import reference
from tests.join.records import SPAN, blocks

END = SPAN + 100


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


def assert_counters_add_up(first, second, once):
    """What two runs count is what one counts, if what the first leaves open is counted by the second only."""
    for name, count in once.engine.counters.items():
        before = first.engine.counters[name]
        if name in ("impressions", "pending"):
            before -= first.engine.counters["pending"]
        if name in ("actions", "waiting"):
            before -= first.engine.counters["waiting"]
        assert before + second.engine.counters[name] == count, name
