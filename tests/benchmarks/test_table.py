"""The benchmark of the table runs whole, on few keys and without peers; its figures are not looked at."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks._table import last, limit, report, workload
from benchmarks._table.contestant import BUILD_BATCH, Settings, Work, blocks, run, spent_by_thread
from benchmarks._table.measure import (
    LIMIT,
    OURS,
    OURS_RESERVED,
    PEERS,
    TFRA,
    TFRA_HUGE_PAGES,
    Cell,
    Contest,
    Results,
    Spent,
    cells,
    refuse_crowd,
    rotated,
    with_huge_pages,
)
from benchmarks._table.process import ROOT, AbsentError, Entry, Process
from benchmarks._table.ratios import build, file, threads, worst
from benchmarks._table.stops import Step, stops, timed

ASKED_FOR = {
    "lookup_uniform_to_tfra",
    "lookup_zipf_to_tfra",
    "lookup_uniform_to_limit",
    "lookup_zipf_to_limit",
    "train_to_tfra",
    "train_to_fbgemm",
    "update_to_limit",
    "build_mkeys_per_cpu_second",
    "longest_call_ms",
    "bytes_per_key_overhead",
    "two_threads",
    "save_stops_updates_ms",
    "save_to_limit",
    "load_to_limit",
}
OF_PEERS = {name for name in ASKED_FOR if "tfra" in name or "fbgemm" in name}


def test_a_quick_run() -> None:
    few = "--quick --keys 20000 --rounds 1 --batches 1024"
    command = [sys.executable, "-m", "benchmarks.table", *few.split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])

    ratios, reasons = result["ratios"], result["reasons"]
    assert set(ratios) >= ASKED_FOR
    assert {name for name, value in ratios.items() if value is None} == set(reasons)
    assert set(reasons) >= OF_PEERS
    assert all(reasons.values())
    assert not (ASKED_FOR - OF_PEERS) & set(reasons)
    assert all(math.isfinite(value) and value > 0 for value in ratios.values() if value is not None)
    assert {name for name, goal in result["goals"].items() if goal["met"] is None} <= OF_PEERS
    assert set(result["last_measured"]) == {"date", "keys", "dim", "batches"}  # none is of so few keys


def test_a_bad_option_is_quoted() -> None:
    command = [sys.executable, "-m", "benchmarks.table", "--batches", "4096", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "[4096, 0]" in done.stderr


def test_windows_are_what_they_say(tmp_path: Path) -> None:
    keys, window = 5000, 1 << 14
    workload.write(tmp_path, keys, window, seed=3)
    drawn = workload.Workload(tmp_path, keys)
    for distribution in workload.DISTRIBUTIONS:
        batches = drawn.batches(distribution, 1, 1000)
        assert batches.shape == (16, 1000)
        assert batches.max() < keys
        assert not np.array_equal(batches, drawn.batches(distribution, 2, 1000))
        assert np.array_equal(batches, drawn.batches(distribution, 1 + workload.WINDOWS, 1000))

    counts = np.sort(np.bincount(np.load(tmp_path / "zipf.npy").ravel(), minlength=keys))[::-1]
    expected = np.arange(1, keys + 1) ** -workload.ZIPF
    expected *= workload.WINDOWS * window / expected.sum()
    assert counts[:10] == pytest.approx(expected[:10], rel=0.05)
    assert workload.Workload(tmp_path, 10).batches("zipf", 0, 64).max() < 10


def test_keys_are_distinct_and_the_generators() -> None:
    keys = workload.keys_of(np.arange(100_000, dtype=np.uint32))
    assert len(np.unique(keys)) == len(keys)
    # The first outputs of splitmix64 with seed 0.
    assert [hex(key) for key in keys[:2].tolist()] == ["0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4"]


def test_blocks_cover_all_keys_once() -> None:
    count = 256 * BUILD_BATCH + 5
    batches = [batch for block in blocks(count) for batch in block]
    assert max(map(len, batches)) == BUILD_BATCH
    assert np.array_equal(np.concatenate(batches), np.arange(count))


def test_the_worst_cell_against_the_better_peer() -> None:
    small, large = (Cell("serving", "lookup", "uniform", batch) for batch in (1, 2))
    results = Results()
    for name, cell, seconds in [
        (OURS.name, small, [1, 1, 1]),
        (OURS.name, large, [2, 2, 2]),
        (TFRA, small, [9, 9, 1]),
        (TFRA, large, [8, 8, 8]),
        (TFRA_HUGE_PAGES, small, [9, 9, 9]),
        (TFRA_HUGE_PAGES, large, [99, 6, 1]),
    ]:
        results.passes[name, cell] = [{"keys": 10, "cpu": s} for s in seconds]
    both = worst(results, "both", [small, large], (TFRA, TFRA_HUGE_PAGES), goal=3.5)
    assert (both.value, both.met) == (3, False)
    assert TFRA_HUGE_PAGES in both.other
    one = worst(results, "one", [small, large], (TFRA,), goal=3.5)
    assert (one.value, one.met) == (4, True)
    none = worst(results, "none", [small], ("fbgemm",), goal=2)
    assert (none.value, none.met) == (None, None)
    assert "fbgemm" in none.reason


@pytest.mark.parametrize(("keys", "dim", "shown"), [(last.KEYS, last.DIM, True), (last.KEYS, 4, False)])
def test_peers_that_are_not_there_have_their_last_figures_of_equal_sizes(
    keys: int, dim: int, shown: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    results = Results(keys, dim)
    results.passes["fbgemm", Cell("training", "train", "uniform", 4096)] = [{"keys": 10, "cpu": 1}]
    report.show(results, [], seconds=1)
    said = report.as_json(results, [])["last_measured"]
    assert ("2.41 (4096)" in capsys.readouterr().out) == shown
    assert (said.get("tfra/serving/lookup/uniform") == (2.41, 2.26, 2.39)) == shown
    assert "fbgemm/training/train/uniform" not in said


def test_goals_of_building_are_those_of_a_table_that_grows_as_it_comes() -> None:
    results = Results()
    results.builds[OURS.name, "training"] = [{"keys": 6e6, "cpu": 1.0, "longest": 0.001}]
    results.builds[OURS_RESERVED, "training"] = [{"keys": 8e6, "cpu": 1.0, "longest": 0.003, "reserving": 0.5}]
    found = {ratio.name: (ratio.value, ratio.met) for ratio in build(results)}
    assert found == {
        "build_mkeys_per_cpu_second": (6, False),
        "longest_call_ms": (1, True),
        "build_mkeys_per_cpu_second_reserved": (8, None),
        "longest_call_ms_reserved": (3, None),
    }


def by_threads(one: Spent, two: Spent, side: str = OURS.name) -> Results:
    results = Results()
    for distribution in workload.DISTRIBUTIONS:
        for count, spent in ((1, one), (2, two)):
            results.passes[side, Cell("serving", "lookup", distribution, 64, count)] = [spent]
    return results


def test_a_second_thread_that_waits_for_the_first_is_no_gain() -> None:
    """Under one lock each of two threads computes for half of the time, and has waited for the other half."""
    alone = {"thread_cpu": 2.0, "elapsed": 2.0}
    serial = threads(by_threads(alone, {"thread_cpu": 1.0, "elapsed": 2.0}), [64])
    assert (serial.value, serial.met) == (1, False)
    parallel = by_threads(alone, {"thread_cpu": 1.0, "elapsed": 1.0})
    parallel.passes |= by_threads(alone, {"thread_cpu": 1.0, "elapsed": 1.6}, LIMIT.name).passes
    found = threads(parallel, [64])
    assert (found.value, found.met) == (2, True)
    assert "1.25 uniform" in found.other


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_threads_do_not_wait_for_each_others_core(tmp_path: Path) -> None:
    """Which would not be in what has elapsed."""
    workload.write(tmp_path, keys=1000, window=1 << 10, seed=3)
    cores: dict[int, set[int]] = {}

    def start(_: int) -> Callable[[object], object]:
        return lambda _: cores.setdefault(threading.get_ident(), os.sched_getaffinity(0))

    run(Work(workload.keys_of, start), workload.Workload(tmp_path, 1000), "uniform", 0, batch=64, threads=2, share=1)
    del cores[threading.get_ident()]  # warmed them
    first, second = cores.values()
    assert len(first) == len(second) == 1
    assert first != second


def test_waiting_for_a_lock_has_elapsed_and_needs_no_cpu_time() -> None:
    lock, wait_s = threading.Lock(), 0.05
    lock.acquire()
    spent = spent_by_thread(lambda: lock.acquire(timeout=wait_s))
    assert spent["elapsed"] > 0.9 * wait_s
    assert spent["cpu"] < 0.5 * spent["elapsed"]


KEYS, BATCH = 2000, 64


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("table")
    workload.write(folder, KEYS, 1 << 10, seed=1)
    return Settings(str(folder), KEYS, 16, "", str(limit.compile_to(folder)))


def test_who_dies_is_absent_and_the_others_go_on(settings: Settings) -> None:
    results, played = Results(), cells("serving", ["uniform"], [BATCH])
    with Contest("serving", ["dict"], settings, results) as contest:
        contest.build(rounds=1)
        contest.play(played, rounds=1)
        assert ("dict", played[0]) in results.passes
        (of_dict,) = [process for entry, process in contest.processes.items() if entry.name == "dict"]
        of_dict.kill()
        contest.play(played, rounds=2)
    assert "ended with status -9 in run" in results.absent["dict, serving"]
    assert ("dict", played[0]) not in results.passes
    assert len(results.passes[OURS.name, played[0]]) == len(results.passes[LIMIT.name, played[0]]) == 3


def test_without_us_there_is_nothing_to_measure(settings: Settings) -> None:
    with Contest("serving", [], settings, Results()) as contest:
        contest.build(rounds=1)
        contest.processes[OURS].kill()
        with pytest.raises(AbsentError, match="status -9"):
            contest.play(cells("serving", ["uniform"], [BATCH]), rounds=1)


def test_without_the_limit_files_have_no_ratio(settings: Settings, tmp_path: Path) -> None:
    results = Results()
    with Contest("training", [], settings, results) as contest:
        contest.build(rounds=1)
        contest.save_and_load(tmp_path, rounds=1)
        contest.processes[LIMIT].kill()
        contest.save_and_load(tmp_path, rounds=1)
    assert len(results.files["save"]) == 2
    for name, disk in (("save", "write"), ("load", "read")):
        found = file(results, name, disk)
        assert found.value is None
        assert "ended with status -9 in write" in found.reason
    assert not list(tmp_path.iterdir())


def test_peers_that_train_have_twins_in_huge_pages() -> None:
    plain, twins = PEERS["training"][::2], PEERS["training"][1::2]
    assert [entry.name for entry in plain] == ["tfra", "fbgemm", "torch"]
    assert twins == [with_huge_pages(entry) for entry in plain]
    assert not any(entry.variables for entry in plain)
    assert {dict(entry.variables)["GLIBC_TUNABLES"] for entry in twins} == {"glibc.malloc.hugetlb=1"}


def test_a_twin_comes_only_where_it_fits() -> None:
    refuse_crowd(held=2_000_000_000, available=3_000_000_000)
    with pytest.raises(AbsentError, match=r"2\.0 GB, and 2\.9 GB are left"):
        refuse_crowd(held=2_000_000_000, available=2_900_000_000)


def test_everybody_comes_first_in_turn() -> None:
    entries = [Entry(name, name) for name in "abc"]
    first = [[entry.name for entry in rotated(entries, number)] for number in range(4)]
    assert first == [list("abc"), list("bca"), list("cab"), list("abc")]


def test_a_step_that_waits_for_a_lock_is_stopped_and_one_that_computes_is_not() -> None:
    lock, wait_s = threading.Lock(), 0.05
    lock.acquire()
    waiting = timed(lambda: lock.acquire(timeout=wait_s))
    assert waiting.slept > 0.9 * wait_s
    assert waiting.elapsed > 0.9 * wait_s
    assert waiting.cpu < 0.5 * wait_s
    assert timed(lambda: sum(range(1000))).slept == 0


def test_a_stop_is_sleep_and_what_is_computed_beyond_the_usual() -> None:
    alone = [Step(cpu=1, slept=0, elapsed=elapsed) for elapsed in (1, 9, 1)]
    during = [Step(cpu=1, slept=3, elapsed=4), Step(cpu=5, slept=0.5, elapsed=6), Step(cpu=1, slept=0, elapsed=20)]
    found = stops(during, alone)
    assert found["stop"] == 4.5
    assert (found["step_slept"], found["step_cpu"], found["step"], found["step_alone"]) == (3, 5, 20, 9)


def test_a_peer_that_is_not_there_is_absent() -> None:
    with pytest.raises(AbsentError, match="make peers"):
        Process(Entry("nobody", "nobody", "nobody"), settings=None)  # type: ignore[arg-type]
