"""What the join emits is a pure function of the records."""

import tempfile
from dataclasses import replace

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from monobeam.join.cold import MemoryCold
from monobeam.join.engine import JoinEngine
from monobeam.join.lmdb_cold import LmdbCold
from tests.join.records import SPAN, logs, settings
from tests.join.runs import (
    END,
    Run,
    assert_as_reference,
    assert_counters_add_up,
    assume_ids_are_not_used_again,
    at_once,
    in_pieces,
    lmdb_cold,
)

thorough = hypothesis_settings(max_examples=100, deadline=None)
on_disk = hypothesis_settings(max_examples=40, deadline=None)


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
    assert_counters_add_up(first, second, once)


@thorough
@given(st.data(), logs(), settings(), st.integers(0, SPAN))
def test_a_continuation_may_begin_where_the_first_windows_are_open(data, records, join, at):
    """The logs are read from the first record that may still be open: what is older is in the cold store, or done."""
    once = at_once(records, join)
    assume_ids_are_not_used_again(records, once)
    cold = MemoryCold()
    first = Run(replace(join, until_us=at), cold)
    in_pieces(data, first, records)
    second = Run(replace(join, since_us=at), cold)
    first_needed = {True: second.join.first_action_needed_us, False: second.join.first_needed_us}
    in_pieces(data, second, [r for r in records if r["time"] >= first_needed["type" in r]])
    assert first.examples + second.examples == once.examples
    assert first.letters + second.letters == once.letters
    assert_counters_add_up(first, second, once)


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
    """A bundle that is retried: engine and input go back, by window + retention at most, the cold store does not."""
    crash = min(crash, join.tick_start(taken) + join.window_us + join.retention_us)
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
