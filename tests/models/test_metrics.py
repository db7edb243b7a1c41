from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monobeam.models.metrics import LIMIT, ScoreHistogram

logit = st.floats(-30, 30, width=32)
scored = st.lists(st.tuples(logit, st.booleans()), min_size=1, max_size=60)


def exact_auc(logits: np.ndarray, labels: np.ndarray) -> float:
    positives, negatives = logits[labels == 1], logits[labels == 0]
    higher = (positives[:, None] > negatives).sum() + 0.5 * (positives[:, None] == negatives).sum()
    return float(higher / (len(positives) * len(negatives)))


@given(scored)
def test_auc_lies_within_its_bound(rows: list[tuple[float, bool]]) -> None:
    logits, labels = np.array([r[0] for r in rows]), np.array([r[1] for r in rows], float)
    histogram = ScoreHistogram.of(logits, labels)
    if labels.min() == labels.max():
        assert math.isnan(histogram.auc())
    else:
        assert abs(histogram.auc() - exact_auc(logits, labels)) <= histogram.auc_error() + 1e-12


def test_the_bound_is_small_where_scores_spread() -> None:
    generator = np.random.default_rng(1)
    logits = generator.normal(-3, 1.5, 4000)
    labels = (generator.random(4000) < 1 / (1 + np.exp(-logits))).astype(float)
    histogram = ScoreHistogram.of(logits, labels)
    assert abs(histogram.auc() - exact_auc(logits, labels)) <= histogram.auc_error() < 0.01
    assert 0.8 < histogram.calibration() < 1.2
    assert histogram.normalized_entropy() < 1


@given(scored, scored)
def test_merging_is_as_if_all_had_been_one_and_subtracting_undoes_it(
    one: list[tuple[float, bool]], other: list[tuple[float, bool]]
) -> None:
    a, b, both = (ScoreHistogram.of([r[0] for r in rows], [r[1] for r in rows]) for rows in (one, other, one + other))
    merged = a.merge(b)
    assert (merged.positives == both.positives).all()
    assert (merged.negatives == both.negatives).all()
    assert merged.log_loss() == pytest.approx(both.log_loss())
    assert (merged.subtract(a).positives == b.positives).all()
    assert ScoreHistogram.from_arrays(merged.to_arrays()).auc() == pytest.approx(both.auc(), nan_ok=True)


def test_log_loss_and_calibration_are_the_textbook_s() -> None:
    logits, labels, weights = np.array([0.3, -2.0, 5.0]), np.array([1.0, 0.0, 0.0]), np.array([1.0, 2.0, 0.5])
    p = 1 / (1 + np.exp(-logits))
    histogram = ScoreHistogram.of(logits, labels, weights)
    losses = -(labels * np.log(p) + (1 - labels) * np.log(1 - p))
    assert histogram.log_loss() == pytest.approx((weights * losses).sum() / weights.sum())
    assert histogram.calibration() == pytest.approx((weights * p).sum() / 1.0)
    assert histogram.weight == 3.5


def test_a_constant_prediction_at_the_rate_has_entropy_one_and_auc_a_half() -> None:
    labels = np.array([1.0] + [0.0] * 3)
    histogram = ScoreHistogram.of(np.full(4, math.log(0.25 / 0.75)), labels)
    assert histogram.normalized_entropy() == pytest.approx(1.0)
    assert histogram.auc() == 0.5


def test_extremes_fall_in_the_outermost_bins_and_nothing_is_lost() -> None:
    histogram = ScoreHistogram.of([-1e30, -LIMIT, LIMIT, np.inf], [0, 0, 1, 1])
    assert histogram.negatives[0] == 2
    assert histogram.positives[-1] == 2


def test_a_logit_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="1 of 2"):
        ScoreHistogram.of([np.nan, 0.0], [0, 1])


def test_an_empty_histogram_has_no_metrics() -> None:
    empty = ScoreHistogram()
    assert all(math.isnan(v) for v in (empty.auc(), empty.log_loss(), empty.calibration(), empty.normalized_entropy()))


def test_arrays_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match="2, 2 bins"):
        ScoreHistogram.from_arrays({"positives": [0, 0], "negatives": [0, 0], "sums": [0, 0]})
