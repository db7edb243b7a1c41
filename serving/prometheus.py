"""The figures of the server for Prometheus: read when it asks, so that a request pays nothing for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from monobeam.serving.distribution import Distribution
from monobeam.serving.state import ServerState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LATENCY_BUCKETS_S = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0)
FRESHNESS_BUCKETS_S = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 60.0, 300.0)


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
        yield _histogram(
            "freshness_seconds", "Action to answer.", self._state.freshness.distribution.overall, FRESHNESS_BUCKETS_S
        )

    def _requests(self) -> Iterator[Metric]:
        requests = self._state.requests
        by_status = CounterMetricFamily("monobeam_requests", "Rank requests by HTTP status.", labels=["status"])
        for status, count in sorted(requests.by_status.items()):
            by_status.add_metric([str(status)], count)
        yield by_status
        yield _histogram("request_seconds", "Time of a rank request.", requests.latency.overall, LATENCY_BUCKETS_S)
        yield _histogram("forward_seconds", "Time of the forward pass.", requests.forward.overall, LATENCY_BUCKETS_S)
        yield CounterMetricFamily(
            "monobeam_unknown_fids", "Ids without a row, in requests.", value=requests.unknown_fids
        )

    def _replica(self) -> Iterator[Metric]:
        replica = self._state.replica
        gauge = GaugeMetricFamily("monobeam_replica_epoch", "Epoch of the replica.", labels=["shard"])
        counters = {
            name: CounterMetricFamily(f"monobeam_sync_{name}", f"Sync: {name}.", labels=["shard"])
            for name in ("events", "gaps", "rows", "deletes", "skipped")
        }
        for shard in replica.shards:
            gauge.add_metric([str(shard.index)], shard.epoch)
            for name, family in counters.items():
                family.add_metric([str(shard.index)], getattr(shard, name))
        yield gauge
        yield from counters.values()
        yield GaugeMetricFamily("monobeam_replica_rows", "Rows of the replica.", value=replica.rows)
        yield GaugeMetricFamily(
            "monobeam_replica_memory_bytes", "Memory of the replica's tables.", value=replica.memory_bytes
        )
        staleness_ms = replica.staleness_ms(self._now_us())
        if staleness_ms is not None:
            yield GaugeMetricFamily(
                "monobeam_replica_staleness_seconds", "Age of the last applied event.", value=staleness_ms / 1e3
            )

    def _served(self) -> Iterator[Metric]:
        served = self._state.served
        if served is not None:
            yield CounterMetricFamily(
                "monobeam_impressions_logged", "Impressions in the served log.", value=served.logged
            )
            yield CounterMetricFamily(
                "monobeam_impressions_dropped", "Impressions that could not be logged.", value=served.dropped
            )


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
