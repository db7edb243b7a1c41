"""The figures of the server for Prometheus: read when it asks, so that a request pays nothing for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from monobeam.serving.distribution import Distribution
from monobeam.serving.flink import AWAY, RUNNING
from monobeam.serving.state import ServerState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LATENCY_BUCKETS_S = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0)
FRESHNESS_BUCKETS_S = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 60.0, 300.0)


SYNC = {
    "events": "Sync events that were applied.",
    "skipped": "Sync events that brought nothing new.",
    "gaps": "Times that sync events were missing and the changes were read from the store.",
    "rows": "Rows that were loaded or changed.",
    "deletes": "Rows that were deleted.",
}


class ServerCollector(Collector):
    """Turns the state of a server into metric families."""

    def __init__(self, state: ServerState, now_us: Callable[[], int]) -> None:
        self._state = state
        self._now_us = now_us

    def collect(self) -> Iterator[Metric]:
        """One pass over everything."""
        yield from self._requests()
        yield from self._replica()
        yield from self._served()
        yield from self._flink()
        yield _histogram(
            "freshness_seconds",
            "From the arrival of an action to the first answer that could use what was learnt from it.",
            self._state.freshness.distribution.overall,
            FRESHNESS_BUCKETS_S,
        )

    def _requests(self) -> Iterator[Metric]:
        requests = self._state.requests
        by_status = CounterMetricFamily("monobeam_requests", "Answers of POST /rank by HTTP status.", labels=["status"])
        for status, count in sorted(requests.by_status.items()):
            by_status.add_metric([str(status)], count)
        yield by_status
        yield _histogram(
            "request_seconds",
            "From the whole body of a rank request to its answer, without the wait for the ranking thread.",
            requests.latency.overall,
            LATENCY_BUCKETS_S,
        )
        yield _histogram("forward_seconds", "Torch's part of a ranking.", requests.forward.overall, LATENCY_BUCKETS_S)
        yield _counter(
            "unknown_fids", "Feature ids in rank requests that the table has no row for.", requests.unknown_fids
        )

    def _replica(self) -> Iterator[Metric]:
        replica = self._state.replica
        gauge = GaugeMetricFamily(
            "monobeam_replica_epoch",
            "The store's commit that this server has of a shard, milliseconds since 1970; 0 before the first.",
            labels=["shard"],
        )
        counters = {name: CounterMetricFamily(f"monobeam_sync_{name}", SYNC[name], labels=["shard"]) for name in SYNC}
        for shard in replica.shards:
            gauge.add_metric([str(shard.index)], shard.epoch)
            for name, family in counters.items():
                family.add_metric([str(shard.index)], getattr(shard, name))
        yield gauge
        yield from counters.values()
        yield _gauge("replica_rows", "Rows in this server's tables.", replica.rows)
        yield _gauge("replica_memory_bytes", "Memory of this server's tables.", replica.memory_bytes)
        limit = "The most memory that this server's tables may have; 0: no limit."
        yield _gauge("replica_memory_limit_bytes", limit, replica.memory_limit)
        row_format = GaugeMetricFamily("monobeam_replica_rows_info", "How rows are kept: always 1.", labels=["format"])
        row_format.add_metric([replica.row_format], 1)
        yield row_format
        staleness_ms = replica.staleness_ms(self._now_us())
        if staleness_ms is not None:
            yield _gauge(
                "replica_staleness_seconds", "Time since the newest commit that this server has.", staleness_ms / 1e3
            )

    def _served(self) -> Iterator[Metric]:
        served = self._state.served
        if served is not None:
            yield _counter("impressions_logged", "Impressions written to the served log.", served.logged)
            yield _counter(
                "impressions_dropped",
                "Impressions shown but not logged: the queue was full or the log could not be written.",
                served.dropped,
            )
            failing = float(served.error is not None)
            yield _gauge("served_log_failing", "1 while the served log cannot be written, else 0.", failing)

    def _flink(self) -> Iterator[Metric]:
        if self._state.flink is None:
            return
        job = self._state.flink.figures
        yield _gauge("flink_up", "1 while a Flink JobManager answers, else 0.", job.state != AWAY)
        yield _gauge("flink_job_running", "1 while the job runs, else 0.", job.state == RUNNING)
        known = {
            "flink_job_restarts": ("How often the job was restored.", job.restarts),
            "flink_checkpoint_seconds": ("How long its last checkpoint took.", _over(job.checkpoint_ms, 1e3)),
            "flink_checkpoint_bytes": ("The state in it.", job.checkpoint_bytes),
            "flink_checkpoint_time_seconds": ("When it was complete, since 1970.", _over(job.checkpoint_us, 1e6)),
        }
        for name, (text, value) in known.items():
            if value is not None:
                yield _gauge(name, text, value)


def _over(value: float | None, unit: float) -> float | None:
    return None if value is None else value / unit


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"monobeam_{name}", text, value=value)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"monobeam_{name}", text, value=value)


def _histogram(name: str, text: str, distribution: Distribution, bounds_s: tuple[float, ...]) -> HistogramMetricFamily:
    buckets = [(str(bound), float(distribution.count_up_to(bound * 1e6))) for bound in bounds_s]
    buckets.append(("+Inf", float(distribution.count)))
    return HistogramMetricFamily(f"monobeam_{name}", text, buckets=buckets, sum_value=distribution.total_us / 1e6)


def registry(state: ServerState, now_us: Callable[[], int]) -> CollectorRegistry:
    """A registry of this server alone; the process-wide default one would mix servers."""
    result = CollectorRegistry(auto_describe=False)
    result.register(ServerCollector(state, now_us))
    return result


def exposition(metrics: CollectorRegistry) -> bytes:
    """What ``/metrics`` answers."""
    return generate_latest(metrics)
