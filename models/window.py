"""What training did since the last commit: counts, scores and the arrivals that freshness is measured from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from monobeam.join.examples import CORRECTION
from monobeam.models.metrics import ScoreHistogram


class Metrics(TypedDict):
    """Values by name, and arrays by name: the fields of a record of the metrics log."""

    values: dict[str, float]
    arrays: dict[str, list[float]]


@dataclass(frozen=True)
class BlockReport:
    """What training on one block did.

    ``examples``: trained rows, of which ``corrections``; ``skipped``: rows of a block that the store's positions
    already include; ``repeated``: rows whose key was seen before; ``forgotten``: rows that come again after their key
    was forgotten; ``passed_over``: corrections that the configuration does not want, or that are of other labels;
    ``ids``: feature ids trained, repeats counted; ``loss``: sum of weighted log losses (nats) before the step.
    """

    examples: int = 0
    corrections: int = 0
    skipped: int = 0
    repeated: int = 0
    forgotten: int = 0
    passed_over: int = 0
    positives: int = 0
    ids: int = 0
    loss: float = 0.0


class Window:
    """Adds up reports and scores until the next commit."""

    def __init__(self) -> None:
        self._counts = {name: type(value)() for name, value in asdict(BlockReport()).items()}
        self._scores = ScoreHistogram()
        self._arrivals: list[npt.NDArray[np.int64]] = []

    def add(self, report: BlockReport) -> BlockReport:
        """Count what one block did."""
        for name in self._counts:
            self._counts[name] += getattr(report, name)
        return report

    def observe(
        self,
        block: pa.RecordBatch,
        logits: npt.NDArray[np.float32],
        labels: npt.NDArray[np.float32],
        weights: npt.NDArray[np.float32],
    ) -> int:
        """Take in the scores of a block's rows, made before it was learnt; gives its number of corrections.

        Corrections train but are not scored: each makes the label of an impression positive that was 0 when the
        impression itself was scored (or was left out by sampling), so all that they could add is positives.
        """
        scored = np.asarray(block.column("_kind")) != CORRECTION
        self._scores = self._scores.merge(ScoreHistogram.of(logits[scored], labels[scored], weights[scored]))
        arrivals = np.asarray(block.column("_arrival"))
        self._arrivals.append(arrivals[arrivals > 0])
        return int((~scored).sum())

    def arrivals(self) -> npt.NDArray[np.int64]:
        """When the actions of the trained examples arrived (microseconds), in the order of training."""
        return np.concatenate([np.empty(0, np.int64), *self._arrivals])

    def metrics(self, rate: float) -> Metrics:
        """Counts, progressive metrics of this window, and its score histogram, which merges with those of others."""
        scores = self._scores
        progressive = {
            "auc": scores.auc(),
            "auc_error": scores.auc_error(),
            "log_loss": scores.log_loss(),
            "normalized_entropy": scores.normalized_entropy(),
            "calibration": scores.calibration(),
        }
        values = {name: float(value) for name, value in self._counts.items()} | progressive | {"rate": rate}
        return {"values": values, "arrays": scores.to_arrays()}
