"""Slices of days of logs: where they begin and end, what each reads, and which are done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from monobeam.logs import schemas
from monobeam.logs.log import open_log
from monobeam.models.config import Config, parse
from monobeam.pipelines.marks import Mark, Marks
from monobeam.pipelines.slices import Slice, Slices
from tests.end_to_end import traffic

SECOND, T0 = 1_000_000, 1_700_000_000 * 1_000_000  # a multiple of 100 s
SHOWN = schemas.impressions({"user": "string"})
LENGTH = 100 * SECOND
EXAMPLE = {"shard": 0, "tick": 1, "count": 0, "block": b""}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Windows of 2 s, waits of 20 s, 0.5 s of disorder; logs in a folder."""
    found = parse(traffic.CONFIG.format(policy="wait", shards=1))
    uris: dict[str, Any] = {name: f"file:{tmp_path}/{name}" for name in ("examples", "metrics", "dead_letters", "sync")}
    raw = {name: (f"file:{tmp_path}/{name}",) for name in ("impressions", "actions")}
    return replace(found, logs=replace(found.logs, **uris, **raw))


def log(config: Config, kind: str, *seconds: float) -> None:
    """Append records of these times, each in a block of its own."""
    uri = (config.logs.impressions if kind == "impressions" else config.logs.actions)[0]
    common = {"impression_id": "i", "user": "u", "type": "like", "value": None, "ingest_time": None}
    with open_log(uri).appender(0, SHOWN if kind == "impressions" else schemas.ACTIONS) as appender:
        for second in seconds:
            appender.append([common | {"time": T0 + round(second * SECOND)}])


def bounds(slices: list[Slice]) -> list[tuple[int | None, int | None]]:
    """In seconds."""
    return [
        tuple(None if time is None else (time - T0) // SECOND for time in (each.since_us, each.until_us))  # type: ignore[misc]
        for each in slices
    ]


def read(part: Slice, kind: str) -> tuple[list[int], list[int]]:
    """Offsets that a slice reads again, and those that are new."""
    mine = [span for span in part.spans if span.partition.kind == kind]
    again = [offset for span in mine if span.again for offset in range(span.start, span.stop)]
    return again, [offset for span in mine if not span.again for offset in range(span.start, span.stop)]


def test_each_record_is_fresh_once_and_what_may_be_open_is_read_again(config: Config) -> None:
    log(config, "impressions", *range(5, 290, 10))
    log(config, "actions", *range(7, 290, 10))
    slices = list(found := Slices(config, None, None, LENGTH))
    assert bounds(slices) == [(None, 100), (100, 200), (200, None)]
    assert found.records == sum(part.fresh for part in slices) == 58
    for kind in ("impressions", "actions"):
        fresh = [read(part, kind)[1] for part in slices]
        assert fresh == [list(range(10)), list(range(10, 20)), list(range(20, 29))]
    assert read(slices[1], "impressions")[0] == [9]  # the block before the window's 98 s
    assert read(slices[1], "actions")[0] == [7, 8, 9]  # the retention's 80 s


def test_where_the_logs_have_nothing_a_slice_is_longer(config: Config) -> None:
    log(config, "impressions", 10, 20, 1_000_030, 1_000_130)
    assert bounds(list(Slices(config, None, None, LENGTH))) == [(None, 100), (100, 1_000_100), (1_000_100, None)]


def test_a_time_of_long_ago_makes_one_slice(config: Config) -> None:
    with open_log(config.logs.impressions[0]).appender(0, SHOWN) as appender:
        appender.append([{"impression_id": "i", "user": "u", "time": time} for time in (5, T0 + SECOND)])
    log(config, "impressions", 150)
    slices = list(Slices(config, None, None, LENGTH))
    assert bounds(slices)[1:] == [((LENGTH - T0) // SECOND, 100), (100, None)]
    assert [part.fresh for part in slices] == [1, 1, 1]


@pytest.mark.parametrize("far", [5_000_000_000, 400_000])  # no time that counts, and one that does
def test_a_time_far_ahead_ends_no_slices(config: Config, far: int) -> None:
    log(config, "impressions", far, *range(5, 100, 10), far, *range(105, 200, 10), far, *range(205, 290, 10), far)
    slices = list(Slices(config, None, None, LENGTH))
    assert bounds(slices)[:2] == [(None, 100), (100, 200)]
    for part, among in zip(slices[:2], (range(1, 11), range(12, 22)), strict=True):
        assert set(among) <= set(read(part, "impressions")[1]) <= {*among, among.start - 1, among.stop}


def test_records_that_cannot_be_decoded_end_no_slices(config: Config) -> None:
    uri = config.logs.impressions[0]
    for seconds in (range(5, 100, 10), range(105, 200, 10), range(205, 300, 10)):
        with open_log(uri).appender(0, schemas.EXAMPLES) as appender:
            for _ in range(150):
                appender.append([EXAMPLE])
        log(config, "impressions", *seconds)
    slices = list(Slices(config, None, None, LENGTH))
    assert bounds(slices) == [(None, 100), (100, 200), (200, None)]
    assert [part.fresh for part in slices] == [160, 160, 160]


def test_slices_end_at_a_given_time(config: Config) -> None:
    log(config, "impressions", *range(5, 290, 10))
    slices = list(Slices(config, T0 + 50 * SECOND, T0 + 150 * SECOND, LENGTH))
    assert bounds(slices) == [(50, 100), (100, 150)]
    assert read(slices[-1], "impressions")[1] == [10, 11, 12, 13, 14]
    assert sum(part.fresh for part in slices) == 11  # one of the window before
    (whole,) = Slices(config, None, None, None)
    assert (bounds([whole]), whole.fresh) == ([(None, None)], 29)


def test_what_comes_later_than_the_bound_is_late_in_the_slice_that_finds_it(config: Config) -> None:
    log(config, "impressions", *range(5, 150, 10), *[150 + n / 1000 for n in range(200)], 20, 160)
    slices = list(Slices(config, None, None, LENGTH))
    assert [part.fresh for part in slices] == [10, 207]
    (late,) = [span for span in slices[1].spans if not span.again]
    assert late.known_from_us == T0 + 100 * SECOND
    assert slices[0].spans[0].known_from_us is None


def examples(config: Config) -> None:
    """Append one to its log."""
    with open_log(config.logs.examples).appender(0, schemas.EXAMPLES) as appender:
        appender.append([EXAMPLE])


def test_the_same_command_goes_on_after_the_last_slice_that_was_done(config: Config) -> None:
    log(config, "impressions", *range(5, 290, 10))
    marks = Marks(config, None, LENGTH)
    assert marks.last() is None
    examples(config)
    done = [Mark(part.until_us, part.reached) for part in Slices(config, None, None, LENGTH) if part.until_us]
    for mark in done:
        marks.set(mark)
    assert marks.last() == done[1]
    assert Marks(replace(config, join=replace(config.join, window_us=1)), None, LENGTH).last() is None
    (rest,) = Slices(config, None, None, LENGTH, marks.last())
    assert read(rest, "impressions") == ([19], list(range(20, 29)))
    assert {span.known_from_us for span in rest.spans if not span.again} == {T0 + 200 * SECOND}
    anew = replace(config, logs=replace(config.logs, examples=f"{config.logs.examples}-anew"))
    assert Marks(anew, None, LENGTH).last() is None


def test_what_came_since_a_mark_is_read_whatever_its_time(config: Config) -> None:
    log(config, "impressions", *range(5, 100, 10), 100.1)
    log(config, "actions", 7)
    (before,) = Slices(config, None, T0 + LENGTH, LENGTH)
    marks = Marks(config, None, LENGTH)
    marks.set(Mark(T0 + LENGTH, before.reached))
    log(config, "impressions", 100.2, 99.8, 100.3, 101, 102)
    (after,) = Slices(config, None, None, LENGTH, marks.last())
    assert read(before, "impressions")[1] + read(after, "impressions")[1] == list(range(16))
    assert read(after, "actions")[1] == []


def test_marks_do_not_count_for_examples_that_are_gone(config: Config, tmp_path: Path) -> None:
    examples(config)
    marks = Marks(config, None, LENGTH)
    marks.set(Mark(T0, {}))
    (tmp_path / "examples").rename(tmp_path / "gone")
    assert marks.last() is None
