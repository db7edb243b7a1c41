"""The plan is a pure function of its seed, keeps within the log's disorder, and holds what it promises."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.movielens.plan import LIKED, MALFORMED, OF_IMPRESSIONS, Kind, Plan, Settings, Untidiness, plan

SETTINGS = Settings(window_us=2_000_000, retention_us=20_000_000, disorder_us=300_000)
WINDOW_US = SETTINGS.window_us
STARS = np.random.Generator(np.random.PCG64(3)).integers(1, 6, 4000).astype(np.float32)


def make(seed: int = 1, stars: np.ndarray = STARS, seconds: float = 30, **shares: float) -> Plan:
    return plan(stars, seconds, seed, SETTINGS, untidiness=dataclasses.replace(Untidiness(), **shares))


def times(made: Plan, kind: Kind) -> dict[int, int]:
    """Event time by rating."""
    chosen = made.kind == kind
    return dict(zip(made.rating[chosen].tolist(), made.time_us[chosen].tolist(), strict=True))


def test_same_seed_same_plan() -> None:
    for field in dataclasses.fields(Plan):
        first, again = getattr(make(5), field.name), getattr(make(5), field.name)
        np.testing.assert_array_equal(first, again)
    assert not np.array_equal(make(5).send_us, make(6).send_us)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 500), st.floats(0.5, 100))
def test_records_go_out_in_order_and_within_the_disorder(seed: int, count: int, seconds: float) -> None:
    made = make(seed, STARS[:count], seconds)
    delay = made.send_us - made.time_us
    assert (np.diff(made.send_us) >= 0).all()
    assert (delay >= 0).all()
    assert (delay < SETTINGS.longest_delay_us).all()
    assert made.time_us.min() >= 0


def test_every_rating_is_shown_once_in_the_order_of_the_data() -> None:
    made = make(duplicates=0)
    shown = times(made, Kind.IMPRESSION) | times(made, Kind.REQUEST)
    assert sorted(shown) == list(range(len(STARS)))
    assert made.count(Kind.IMPRESSION, Kind.REQUEST) == len(STARS)
    assert sorted(shown, key=lambda rating: (shown[rating], rating)) == list(range(len(STARS)))


def test_likes_are_of_the_ratings_that_liked() -> None:
    made = make()
    liked = set(np.flatnonzero(STARS >= LIKED).tolist())
    assert set(times(made, Kind.LIKE)) == liked - set(times(made, Kind.REQUEST))
    assert set(np.flatnonzero(made.reaction_us).tolist()) == liked


def test_log_order_is_not_time_order() -> None:
    made = make()
    logged = made.time_us[made.kind == Kind.IMPRESSION]
    assert (np.diff(logged) < 0).mean() > 0.2


def test_every_untidy_case_is_there() -> None:
    made = make()
    likes = made.count(Kind.LIKE)
    reaction = made.reaction_us[made.reaction_us > 0]
    late = reaction > WINDOW_US
    assert 0.005 < late.mean() < 0.02
    assert reaction[~late].max() <= 0.75 * WINDOW_US  # room for a replay that stretches
    assert made.count(Kind.STRAY_LIKE) == pytest.approx(0.005 * likes, rel=0.1)
    assert made.time_us[made.kind == Kind.STRAY_LIKE].max() < 0.8 * 30e6
    assert made.count(Kind.REQUEST) == pytest.approx(0.05 * len(STARS), rel=0.3)


def test_some_likes_overtake_their_impression_by_a_clear_margin() -> None:
    made = make(duplicates=0)
    sent: dict[Kind, dict[int, int]] = {}
    for kind in (Kind.IMPRESSION, Kind.LIKE):
        chosen = made.kind == kind
        sent[kind] = dict(zip(made.rating[chosen].tolist(), made.send_us[chosen].tolist(), strict=True))
    lead = np.array([sent[Kind.IMPRESSION][rating] - sent[Kind.LIKE][rating] for rating in sent[Kind.LIKE]])
    assert 0.015 < (lead > 80_000).mean() < 0.06


def test_one_record_in_a_thousand_is_malformed_in_every_way() -> None:
    made = make()
    malformed = np.isin(made.kind, list(MALFORMED))
    assert malformed.sum() == pytest.approx(0.001 * len(made), abs=1)
    many = make(malformed=0.01)
    counts = [many.count(Kind(kind)) for kind in MALFORMED]
    assert max(counts) - min(counts) <= 1
    assert {kind for kind in OF_IMPRESSIONS if kind in MALFORMED} == {Kind(4), Kind(5), Kind(6)}


def test_duplicates_repeat_the_time_of_the_record() -> None:
    made = make(duplicates=0.1)
    for kind in (Kind.IMPRESSION, Kind.LIKE):
        chosen = np.flatnonzero(made.kind == kind)
        ratings, first, counts = np.unique(made.rating[chosen], return_index=True, return_counts=True)
        assert counts.max() == 2
        assert 0.07 < (counts == 2).mean() < 0.13
        expected = dict(zip(ratings.tolist(), made.time_us[chosen[first]].tolist(), strict=True))
        assert [expected[rating] for rating in made.rating[chosen].tolist()] == made.time_us[chosen].tolist()


def test_refuses_what_the_join_could_not_tell_apart() -> None:
    with pytest.raises(ValueError, match=r"window of at least twice .* they are 300000, 500000 and 20000000 us"):
        Settings(500_000, 20_000_000, 300_000)
    with pytest.raises(ValueError, match="nothing to replay: 0 ratings"):
        plan(STARS[:0], 10, 1, SETTINGS)
