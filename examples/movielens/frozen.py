"""What a model that is trained once and then left alone would have scored, to be shown beside the online model.

It follows the trainer: whenever that reports a stretch of the examples log, this model learns the same stretch, or,
once it has learnt its share, scores it and reports under the same position. So both are compared on the same examples.
"""

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from monobeam.logs import block, schemas
from monobeam.logs.log import Log, open_log, records
from monobeam.models.config import load
from monobeam.models.frozen import FrozenBaseline
from monobeam.models.metrics import ScoreHistogram
from monobeam.serving.tail import Tail

PARTITION = 1  # of the metrics log: the pipeline writes 0, the replay 2
POLL_S = 0.2
BLOCKS = 64


class Shadow:
    """Follows the trainer's reports through the examples log."""

    def __init__(self, model: FrozenBaseline, examples: Log, metrics: Log) -> None:
        self._model, self._examples = model, examples
        self._reports = Tail(metrics)
        self._metrics = metrics.appender(PARTITION, schemas.METRICS)
        self._positions: dict[int, int] = {}

    def step(self, now_us: int) -> int:
        """Does what the trainer has done since the last step; how many stretches were scored."""
        scored = [
            self._record(report, scores, now_us)
            for report in self._reports.new()
            if report["component"] == "train" and (scores := self._stretch(int(report["key"]), report["position"]))
        ]
        if scored:
            self._metrics.append(scored)
        return len(scored)

    def _stretch(self, partition: int, end: int) -> ScoreHistogram | None:
        """Learns or scores the log up to ``end``; None for a stretch that is not scored as a whole."""
        whole = self._model.frozen and end > self._positions.get(partition, 0)
        total = ScoreHistogram()
        for offset, examples in self._blocks(partition, end):
            scores = self._model.add(examples, partition, offset)
            total = total.merge(scores) if scores else total
        return total if whole else None

    def _blocks(self, partition: int, end: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        while (offset := self._positions.get(partition, 0)) < end:
            chunks = self._examples.read(partition, offset, min(BLOCKS, end - offset))
            # What was framed together comes together: there may be more than was asked for.
            for number, record in enumerate(records(chunks)[: end - offset]):
                yield offset + number, block.decode(record["block"])
                self._positions[partition] = offset + number + 1

    def _record(self, report: Any, scores: ScoreHistogram, now_us: int) -> dict[str, Any]:
        return {
            "component": "frozen",
            "key": report["key"],
            "position": report["position"],
            "time": now_us,
            "values": {"examples": scores.weight},
            "arrays": scores.to_arrays(),
        }


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``python -m examples.movielens.frozen``; runs until it is ended."""
    os.nice(10)  # it only watches: what it is compared with goes first
    options = _parser().parse_args(argv)
    model = FrozenBaseline(load(options.config), options.train_examples)
    shadow = Shadow(model, open_log(options.examples), open_log(options.metrics))
    while True:
        shadow.step(time.time_ns() // 1000)
        time.sleep(POLL_S)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m examples.movielens.frozen", description=__doc__)
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("model.toml"), help="model.toml")
    parser.add_argument("--examples", required=True, help="examples log to follow, e.g. file:DIR")
    parser.add_argument("--metrics", required=True, help="metrics log to follow and to write to")
    parser.add_argument(
        "--train_examples", type=int, required=True, help="how many examples it learns before it freezes"
    )
    return parser


if __name__ == "__main__":
    main()
