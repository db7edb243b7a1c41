"""The figures behind the live page: tails the metrics log, samples the server, builds ``/stats.json`` once a second.

It is built beside the requests, not in them; who asks gets the last one built.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from monobeam.logs.log import Log
from monobeam.serving.distribution import Distribution, WindowedDistribution
from monobeam.serving.progress import Progress
from monobeam.serving.series import Series
from monobeam.serving.state import ServerState
from monobeam.serving.tail import MAX_RECORDS, Tail

_LOGGER = logging.getLogger(__name__)
WINDOW_S = 60
RATE_WINDOW_S = 10
STALE_AFTER_MS = 10_000

CHARTED = (
    "online_auc",
    "frozen_auc",
    "freshness_p50_ms",
    "freshness_p99_ms",
    "examples_per_s",
    "requests_per_s",
    "request_p50_ms",
    "request_p99_ms",
    "replica_rows",
    "store_rows",
)


class Rate:
    """Growth per second of a running total, over the last ``window_s`` seconds."""

    def __init__(self, window_s: int = RATE_WINDOW_S) -> None:
        self._window_us = window_s * 1_000_000
        self._totals: deque[tuple[int, float]] = deque()

    def at(self, now_us: int, total: float) -> float | None:
        """The rate now that the total is this; None for the first."""
        self._totals.append((now_us, total))
        while len(self._totals) > 2 and now_us - self._totals[1][0] >= self._window_us:
            self._totals.popleft()
        then_us, before = self._totals[0]
        return (total - before) / (now_us - then_us) * 1e6 if now_us > then_us else None


class Dashboard:
    """Call ``step`` regularly, from one thread; ``stats`` may be read from any."""

    def __init__(self, state: ServerState, metrics: Log | None, now_us: Callable[[], int]) -> None:
        self._state = state
        self._tail = None if metrics is None else Tail(metrics)
        self._now_us = now_us
        self._progress = Progress()
        self._caught_up = metrics is None  # before that, examples are history: their growth is no rate
        self._series = Series(CHARTED)
        self._examples, self._requests = Rate(), Rate()
        self._examples_a_second, self._requests_a_second = Rate(1), Rate(1)
        self.stats = self._encoded()

    def step(self) -> bool:
        """Take in new metrics and build the figures; True while there is more in the log."""
        more = self._follow()
        self.stats = self._encoded()
        return more

    def _encoded(self) -> bytes:
        return json.dumps(self._build(self._now_us()), allow_nan=False).encode()

    def _follow(self) -> bool:
        count = 0
        for record in self._tail.new() if self._tail is not None else ():
            count += 1
            try:
                self._progress.observe(record)
            except (KeyError, TypeError, ValueError) as error:
                _LOGGER.warning("metrics record of %r passed over: %s", record.get("component"), error)
        more = count >= MAX_RECORDS
        self._caught_up |= not more
        return more

    def _build(self, now_us: int) -> dict[str, Any]:
        figures = {
            "model": self._state.model,
            "time_us": now_us,
            "uptime_s": (now_us - self._state.started_us) / 1e6,
            "window_s": WINDOW_S,
            "rate_window_s": RATE_WINDOW_S,
            "state": self._describe(now_us),
            "freshness": self._freshness(now_us),
            "training": self._training(now_us),
            "quality": self._progress.quality(),
            "replica": self._replica(now_us),
            "requests": self._request_figures(now_us),
            "served": self._served(),
            "flink": self._flink(now_us),
            "conservation": self._progress.conservation(),
            "join": self._progress.join_counters(),
            "replay": self._progress.replay(),
        }
        self._sample(figures, now_us)
        return {**figures, "series": self._series.columns()}

    def _describe(self, now_us: int) -> dict[str, str]:
        replica = self._state.replica
        staleness_ms = replica.staleness_ms(now_us)
        if not replica.loaded:
            return {"name": "waiting", "detail": f"the store cannot be read yet: {replica.error or 'opening it'}"}
        if replica.error is not None:
            return {"name": "stale", "detail": f"answers from the last good state: {replica.error}"}
        if replica.epoch == 0 or staleness_ms is None:
            return {"name": "untrained", "detail": "the store holds no commit yet"}
        if staleness_ms > STALE_AFTER_MS:
            return {"name": "idle", "detail": f"nothing new from the trainer for {staleness_ms / 1e3:.0f} s"}
        return {"name": "live", "detail": f"epoch {replica.epoch}, {staleness_ms / 1e3:.1f} s old"}

    def _freshness(self, now_us: int) -> dict[str, float | None]:
        freshness = self._state.freshness
        return {
            **_percentiles(freshness.distribution.window(now_us)),
            **_percentiles(freshness.distribution.overall, "overall_"),
            "actions": freshness.distribution.overall.count,
            "overflowed": freshness.overflowed,
        }

    def _training(self, now_us: int) -> dict[str, float | None]:
        training = self._progress.training()
        return {**training, "examples_per_s": self._rate(self._examples, now_us, training["examples"])}

    def _rate(self, rate: Rate, now_us: int, examples: float | None) -> float | None:
        return rate.at(now_us, examples or 0) if self._caught_up else None

    def _replica(self, now_us: int) -> dict[str, Any]:
        replica = self._state.replica
        return {
            "epoch": replica.epoch,
            "dense_version": replica.dense.version,
            "lag_ms": replica.lag_ms,
            "staleness_ms": replica.staleness_ms(now_us),
            "rows": replica.rows,
            "row_format": replica.row_format,
            "bytes_per_row": replica.bytes_per_row,
            "memory_bytes": replica.memory_bytes,
            "memory_limit": replica.memory_limit or None,
            "shards": len(replica.shards),
            **{
                name: sum(getattr(s, name) for s in replica.shards) for name in ("events", "gaps", "skipped", "deletes")
            },
            "applied_rows": sum(shard.rows for shard in replica.shards),
        }

    def _request_figures(self, now_us: int) -> dict[str, Any]:
        requests = self._state.requests
        return {
            **_percentiles(requests.latency.window(now_us)),
            **_percentiles(requests.forward.window(now_us), "forward_"),
            "per_s": self._requests.at(now_us, requests.answered),
            "total": requests.answered,
            "errors": requests.errors,
            "refused": requests.refused,
            "overloaded": requests.overloaded,
            "by_status": {str(status): count for status, count in sorted(requests.by_status.items())},
            "unknown_fids": requests.unknown_fids,
        }

    def _served(self) -> dict[str, int | str | None]:
        return {name: getattr(self._state.served, name, None) for name in ("logged", "pending", "dropped", "error")}

    def _flink(self, now_us: int) -> dict[str, Any] | None:
        return None if self._state.flink is None else self._state.flink.figures.as_json(now_us)

    def _sample(self, figures: dict[str, Any], now_us: int) -> None:
        """Put a row into the charts, once a second: each about the last second alone."""
        if not self._series.due(figures["uptime_s"]):
            return
        values = {
            "online_auc": figures["quality"]["online_recent_auc"],
            "frozen_auc": figures["quality"]["frozen_recent_auc"],
            "examples_per_s": self._rate(self._examples_a_second, now_us, figures["training"]["examples"]),
            "requests_per_s": self._requests_a_second.at(now_us, figures["requests"]["total"]),
            "replica_rows": figures["replica"]["rows"],
            "store_rows": figures["training"]["rows"],
            **_last_second(self._state.freshness.distribution, "freshness_", now_us),
            **_last_second(self._state.requests.latency, "request_", now_us),
        }
        self._series.add(figures["uptime_s"], values)


def _percentiles(distribution: Distribution, prefix: str = "") -> dict[str, float | None]:
    quantiles = {"p50": distribution.quantile_us(0.5), "p99": distribution.quantile_us(0.99)}
    return {f"{prefix}{name}_ms": None if q is None else q / 1e3 for name, q in quantiles.items()}


def _last_second(distribution: WindowedDistribution, prefix: str, now_us: int) -> dict[str, float | None]:
    return _percentiles(distribution.over(1, now_us), prefix)
