"""The share of positives, counted: what a model says of a request of which it knows nothing.

A bias that is learnt beside the embeddings hardly moves, because the rows of frequent ids, which learn faster, take the
base rate upon themselves. A new item, whose rows are zeros, would then be ranked above all that people are known to
ignore. So the bias is not learnt: it is the log odds of the labels so far, and the rows learn what differs from it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

MEMORY = 2**20  # examples after which older ones count half: base rates change

Floats = npt.NDArray[np.float32]


class BaseRate:
    """Weighted counts of positives and negatives; they begin at one each."""

    def __init__(self, saved: Sequence[float] = (1.0, 1.0)) -> None:
        self._positives, self._negatives = saved

    def add(self, labels: Floats, weights: Floats) -> None:
        """Count examples."""
        positive = labels > 0.5
        self._positives += float(weights[positive].sum(dtype=np.float64))
        self._negatives += float(weights[~positive].sum(dtype=np.float64))
        if self._positives + self._negatives > MEMORY:
            self._positives, self._negatives = self._positives / 2, self._negatives / 2

    def logit(self, others: Sequence[BaseRate] = ()) -> float:
        """The log odds of a positive among the examples of all counts together; always finite."""
        positives = self._positives + sum(other._positives for other in others)
        negatives = self._negatives + sum(other._negatives for other in others)
        return math.log(max(positives, 0.5) / max(negatives, 0.5))

    def save(self) -> list[float]:
        """The counts, for ``BaseRate``."""
        return [self._positives, self._negatives]
