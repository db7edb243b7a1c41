"""The cells of the matrix, and how each is named on a command line and on the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

RUNNERS = ("in process", "Prism", "Flink, embedded", "Flink cluster", "Dataflow")
PIPELINES = (
    ("join", False),
    ("join", True),
    ("train", False),
    ("train", True),
    ("online", True),
    ("backfill", False),
)
"""Each with whether it streams."""
LOGS = ("file", "Kafka", "Pub/Sub")
"""Where raw logs are, or, for ``train``, the examples."""
WORKS, REFUSED, FAILED = "works", "refused", "failed"


@dataclass(frozen=True)
class Cell:
    """One runner, pipeline and kind of log."""

    runner: str
    pipeline: str
    streaming: bool
    log: str

    @property
    def column(self) -> str:
        """What heads its column: the pipeline, and how it runs where it can run both ways."""
        both = (self.pipeline, not self.streaming) in PIPELINES
        return f"{self.pipeline}, {'streaming' if self.streaming else 'bounded'}" if both else self.pipeline

    @property
    def name(self) -> str:
        """All of it, as a key."""
        return f"{self.runner} | {self.column} | {self.log}"

    @property
    def only_built(self) -> bool:
        """Whether its graph is built and not run."""
        return self.runner == "Dataflow"

    @property
    def needs_broker(self) -> bool:
        """Whether its logs are topics: those beside subscriptions are on Dataflow."""
        return self.log == "Kafka" or (self.log == "Pub/Sub" and self.only_built)


@dataclass(frozen=True)
class Outcome:
    """What became of a cell; ``said``: what the command said where it did not work."""

    verdict: str
    said: str = ""


def cells(wanted: Sequence[str] = ()) -> list[Cell]:
    """All of them, or those whose names have every one of the words in them."""
    every = [
        Cell(runner, pipeline, streaming, log)
        for log in LOGS
        for runner in RUNNERS
        for pipeline, streaming in PIPELINES
    ]
    return [cell for cell in every if all(word in cell.name for word in wanted)]
