"""Restrictions of log readers."""

from __future__ import annotations

import pytest

from monobeam.transforms.tracker import END_OF_TIME, Ranges, RangesTracker


def test_a_checkpoint_cuts_where_the_reader_stands() -> None:
    tracker = RangesTracker(Ranges((0, 5), (10, 20)))
    assert tracker.try_claim((0, 4))
    assert tracker.try_claim((1, 20))
    primary, residual = tracker.try_split(0) or (None, None)
    assert primary == Ranges((0, 5), (4, 20))
    assert residual == Ranges((4, 20), (10, 20))
    tracker.check_done()


def test_work_is_not_shared_out() -> None:
    tracker = RangesTracker(Ranges((0,), (10,)))
    assert tracker.try_split(0.5) is None
    assert tracker.current_restriction() == Ranges((0,), (10,))


def test_claims_stay_inside_and_never_go_back() -> None:
    tracker = RangesTracker(Ranges((3,), (10,)))
    assert not tracker.try_claim((0, 2))
    assert not tracker.try_claim((0, 11))
    assert tracker.try_claim((0, 7))
    assert not tracker.try_claim((0, 6))
    with pytest.raises(ValueError, match=r"claimed up to \[7\] of \(10,\)"):
        tracker.check_done()


def test_bounded_is_what_ends() -> None:
    assert RangesTracker(Ranges((0,), (10,))).is_bounded()
    assert not RangesTracker(Ranges((0, 0), (10, END_OF_TIME))).is_bounded()
