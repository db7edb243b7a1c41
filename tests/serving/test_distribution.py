from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monobeam.serving.distribution import Distribution, WindowedDistribution
from monobeam.serving.freshness import Freshness

SECOND = 1_000_000
durations = st.lists(st.integers(1, 3_000_000_000), min_size=1, max_size=200)


@given(durations, st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0]))
def test_quantiles_are_those_of_the_sorted_values_to_within_one_percent(values: list[int], q: float) -> None:
    distribution = Distribution()
    for value in values:
        distribution.add(value)
    exact = sorted(values)[max(1, int(np.ceil(q * len(values)))) - 1]
    assert distribution.quantile_us(q) == pytest.approx(exact, rel=0.011)


@given(durations)
def test_many_at_once_count_like_one_by_one(values: list[int]) -> None:
    one, many = Distribution(), Distribution()
    for value in values:
        one.add(value)
    many.add_many(np.array(values, np.int64))
    assert np.abs(one.counts - many.counts).sum() <= 2  # the last bit of a logarithm may differ
    assert (one.count, one.total_us) == (many.count, many.total_us)


def test_empty_has_no_quantile() -> None:
    assert Distribution().quantile_us(0.5) is None


def test_window_forgets_and_overall_does_not() -> None:
    windowed = WindowedDistribution(window_s=10)
    windowed.add(1000, 100 * SECOND)
    windowed.add(9000, 105 * SECOND)
    assert windowed.window(105 * SECOND).count == 2
    assert windowed.window(112 * SECOND).count == 1
    assert windowed.over(1, 105 * SECOND).count == 1
    assert windowed.window(200 * SECOND).count == 0
    assert windowed.overall.count == 2


def test_freshness_ends_with_the_first_answer_that_began_after_the_event() -> None:
    freshness = Freshness()
    freshness.applied(np.array([1000, 0, 2000], np.int64))  # 0: an example without an action
    taken = freshness.take()
    freshness.applied(np.array([3000], np.int64))  # after the lookups began: not for this answer
    freshness.answered(taken, 12_000)
    assert freshness.distribution.overall.count == 2
    assert freshness.distribution.overall.total_us == 11_000 + 10_000
    freshness.answered(freshness.take(), 13_000)
    assert freshness.distribution.overall.total_us == 21_000 + 10_000
    assert freshness.take() == []


def test_arrivals_of_a_failed_answer_wait_for_the_next() -> None:
    freshness = Freshness()
    freshness.applied(np.array([1000], np.int64))
    freshness.give_back(freshness.take())
    freshness.answered(freshness.take(), 5000)
    assert freshness.distribution.overall.total_us == 4000


def test_arrivals_are_bounded_while_nobody_asks() -> None:
    freshness = Freshness(max_waiting=3)
    for arrival in range(1, 6):
        freshness.applied(np.array([arrival], np.int64))
    assert freshness.overflowed == 2
    assert [int(a[0]) for a in freshness.take()] == [3, 4, 5]
