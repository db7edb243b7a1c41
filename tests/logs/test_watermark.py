from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monobeam.logs.watermark import BEGINNING, Watermark


def test_it_follows_the_latest_time_less_the_disorder() -> None:
    watermark = Watermark(disorder_us=100, idle_after_us=10_000)
    assert watermark.at(5000) == BEGINNING
    watermark.observe(4900, now_us=5000)
    assert watermark.at(5000) == 4800
    watermark.observe(4000, now_us=5100)
    assert watermark.at(5100) == 4800


def test_an_idle_partition_moves_on() -> None:
    watermark = Watermark(disorder_us=100, idle_after_us=1000)
    watermark.observe(5000, now_us=5000)
    assert watermark.at(5000) == 4900
    assert watermark.at(5990) == 4900
    assert watermark.at(6000) == 4900
    assert watermark.at(6100) == 5000
    assert watermark.at(7000) == 5900
    watermark.observe(6950, now_us=7001)
    assert watermark.at(7900) == 6850


def test_a_reader_that_was_held_up_is_not_an_idle_partition() -> None:
    watermark = Watermark(disorder_us=100, idle_after_us=1000)
    watermark.observe(5000, now_us=5000)
    assert watermark.at(90_000) == 4900  # working on what it had read
    assert watermark.at(90_010) == 4900
    assert watermark.at(180_000) == 89_910  # asleep, then nothing was there
    watermark.observe(90_000, now_us=180_001)
    assert watermark.at(180_002) == 89_910


def test_a_partition_that_never_had_anything_moves_on_too() -> None:
    watermark = Watermark(disorder_us=100, idle_after_us=1000)
    assert watermark.at(50_000) == BEGINNING
    assert watermark.at(50_999) == BEGINNING
    assert watermark.at(51_000) == 49_900


def test_a_backlog_is_not_idle() -> None:
    watermark = Watermark(disorder_us=100, idle_after_us=1000)
    for step in range(10):
        watermark.observe(10 * step + 1000, now_us=1_000_000 + 900 * step)
        assert watermark.at(1_000_000 + 900 * step + 899) == 10 * step + 900


def test_a_clock_ahead_does_not_make_others_late() -> None:
    watermark = Watermark(disorder_us=100, idle_after_us=1000)
    watermark.observe(10**15, now_us=5000)
    assert watermark.at(5000) == 4900


def test_it_goes_on_from_where_an_earlier_one_was() -> None:
    watermark = Watermark(disorder_us=100, idle_after_us=1000, start_us=7000)
    watermark.observe(6000, now_us=8000)
    assert watermark.at(8000) == 7000


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 10_000), st.integers(0, 3000)), max_size=50))
def test_it_never_goes_back_nor_beyond_now(steps: list[tuple[bool, int, int]]) -> None:
    watermark, now, before = Watermark(50, 1000), 1_000, BEGINNING
    for is_new, time, passed in steps:
        now += passed
        if is_new:
            watermark.observe(time, now)
        assert before <= (before := watermark.at(now)) <= now


def test_bounds_are_not_negative() -> None:
    with pytest.raises(ValueError, match="disorder -1 us"):
        Watermark(-1, 0)
