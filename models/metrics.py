"""Metrics of binary predictions that add up: over blocks, shards, processes and windows.

AUC from histograms of the score by label: the pairs that fall in different bins are ordered exactly, those in one bin
count as ties, so the error is at most half of their share. Bins are of the logit, not of the probability: at small
click rates probabilities crowd into the lowest bins and the error grows a thousandfold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

BINS = 512
LIMIT = 12.0  # logits beyond +-12 (p = 6e-6) fall in the outermost bins

Floats = npt.NDArray[np.float64]


def _zeros() -> Floats:
    return np.zeros(BINS)


@dataclass(frozen=True)
class ScoreHistogram:
    """Weighted counts of logits by label, and the sums behind log loss and calibration.

    ``positives`` and ``negatives``: float64 [BINS], equal bins on [-LIMIT, LIMIT). ``loss`` is the weighted sum of
    log losses (nats), ``predicted`` that of predicted probabilities. With weights of 1 all counts are whole numbers,
    and adding and taking away are exact.
    """

    positives: Floats = field(default_factory=_zeros)
    negatives: Floats = field(default_factory=_zeros)
    loss: float = 0.0
    predicted: float = 0.0

    @classmethod
    def of(cls, logits: npt.ArrayLike, labels: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> ScoreHistogram:
        """The histogram of logits [n] with labels [n] of 0 or 1; ValueError where a logit is not a number."""
        z = np.asarray(logits, np.float64)
        y = np.asarray(labels, np.float64) > 0.5
        w = np.ones_like(z) if weights is None else np.asarray(weights, np.float64)
        if np.isnan(z).any():
            raise ValueError(f"logits: {int(np.isnan(z).sum())} of {len(z)} are not numbers")
        bins = np.clip((z + LIMIT) * (BINS / (2 * LIMIT)), 0, BINS - 1).astype(np.int64)
        small = np.exp(-np.abs(z))  # never too large, so neither of what follows overflows or cancels
        losses = np.maximum(np.where(y, -z, z), 0.0) + np.log1p(small)
        return cls(
            np.bincount(bins[y], w[y], BINS).astype(np.float64),
            np.bincount(bins[~y], w[~y], BINS).astype(np.float64),
            float(w @ losses),
            float(w @ (np.where(z < 0, small, 1.0) / (1.0 + small))),
        )

    def merge(self, other: ScoreHistogram) -> ScoreHistogram:
        """The histogram of both sets of predictions."""
        return ScoreHistogram(
            self.positives + other.positives,
            self.negatives + other.negatives,
            self.loss + other.loss,
            self.predicted + other.predicted,
        )

    def subtract(self, earlier: ScoreHistogram) -> ScoreHistogram:
        """What was added since ``earlier``: the window of a running total."""
        return ScoreHistogram(
            self.positives - earlier.positives,
            self.negatives - earlier.negatives,
            self.loss - earlier.loss,
            self.predicted - earlier.predicted,
        )

    @property
    def weight(self) -> float:
        """The sum of weights: with weights of 1, the number of predictions."""
        return float(self.positives.sum() + self.negatives.sum())

    def auc(self) -> float:
        """The area under the ROC curve: P(a positive scores above a negative); NaN unless both labels occur."""
        pairs = self._pairs()
        if pairs == 0:
            return math.nan
        below = np.cumsum(self.negatives) - self.negatives
        return float(self.positives @ (below + 0.5 * self.negatives)) / pairs

    def auc_error(self) -> float:
        """A bound on |auc() - exact AUC|: half the share of the pairs that fall in one bin."""
        pairs = self._pairs()
        return math.nan if pairs == 0 else 0.5 * float(self.positives @ self.negatives) / pairs

    def log_loss(self) -> float:
        """The mean log loss, in nats; NaN where there is nothing."""
        return self.loss / self.weight if self.weight else math.nan

    def normalized_entropy(self) -> float:
        """Log loss over the entropy of the label's own rate (He et al. 2014): below 1 is better than a constant."""
        rate = float(self.positives.sum()) / self.weight if self.weight else 0.0
        if not 0 < rate < 1:
            return math.nan
        return self.log_loss() / -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))

    def calibration(self) -> float:
        """Predicted over observed positives; 1 is perfect; NaN without positives."""
        positives = float(self.positives.sum())
        return self.predicted / positives if positives else math.nan

    def to_arrays(self) -> dict[str, list[float]]:
        """Plain lists for a metrics log; ``from_arrays`` reads them."""
        sums = [self.loss, self.predicted]
        return {"positives": self.positives.tolist(), "negatives": self.negatives.tolist(), "sums": sums}

    @classmethod
    def from_arrays(cls, arrays: dict[str, list[float]]) -> ScoreHistogram:
        """The histogram that ``to_arrays`` described; ValueError where the bins are others."""
        positives, negatives = (np.asarray(arrays[name], np.float64) for name in ("positives", "negatives"))
        if positives.shape != (BINS,) or negatives.shape != (BINS,):
            raise ValueError(f"positives, negatives: {len(positives)}, {len(negatives)} bins; this version has {BINS}")
        loss, predicted = arrays["sums"]
        return cls(positives, negatives, loss, predicted)

    def _pairs(self) -> float:
        return float(self.positives.sum() * self.negatives.sum())
