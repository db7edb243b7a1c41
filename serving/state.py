"""Everything about a running server that others look at."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from monobeam.serving.distribution import WindowedDistribution
from monobeam.serving.flink import FlinkJob
from monobeam.serving.freshness import Freshness
from monobeam.serving.replica import Replica
from monobeam.serving.served import ServedLog


@dataclass
class RequestFigures:
    """Rank requests: counts by HTTP status, times of whole requests and of forward passes (microseconds)."""

    by_status: Counter[int] = field(default_factory=Counter)
    latency: WindowedDistribution = field(default_factory=WindowedDistribution)
    forward: WindowedDistribution = field(default_factory=WindowedDistribution)
    unknown_fids: int = 0

    @property
    def answered(self) -> int:
        """Requests that got a ranking."""
        return self.by_status[200]

    @property
    def overloaded(self) -> int:
        """Requests that were turned away: too many at once, or nothing loaded yet."""
        return self.by_status[503]

    @property
    def refused(self) -> int:
        """Requests that were the client's mistake."""
        return sum(count for status, count in list(self.by_status.items()) if 400 <= status < 500)

    @property
    def errors(self) -> int:
        """Requests that the server could not answer, those that it turned away among them."""
        return sum(count for status, count in list(self.by_status.items()) if status >= 500)


@dataclass(frozen=True)
class ServerState:
    """The parts of a server; ``served`` is None where nothing is logged, ``flink`` where no cluster is looked at."""

    model: str
    started_us: int
    replica: Replica
    freshness: Freshness
    requests: RequestFigures
    served: ServedLog | None
    flink: FlinkJob | None = None
