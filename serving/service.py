"""All parts of a server, put together from its options."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass

from monobeam.logs.log import Log, open_log
from monobeam.models.bridges import TABLE
from monobeam.models.config import Config
from monobeam.serving.columns import FeatureTypes, types_of_schema
from monobeam.serving.dashboard import Dashboard
from monobeam.serving.follower import Follower
from monobeam.serving.freshness import Freshness
from monobeam.serving.periodic import Periodic
from monobeam.serving.predictor import Predictor
from monobeam.serving.ranker import Ranker
from monobeam.serving.replica import Replica
from monobeam.serving.served import ServedLog
from monobeam.serving.state import RequestFigures, ServerState
from monobeam.store.backend import open_backend

_LOGGER = logging.getLogger(__name__)
DASHBOARD_EVERY_S = 0.5


@dataclass(frozen=True)
class ServiceOptions:
    """Where things are (addresses of logs and the store; None: not there) and what bounds the server."""

    store: str
    sync: str
    served: str | None = None
    metrics: str | None = None
    impressions: tuple[str, ...] = ()
    partition: int = 0
    max_candidates: int = 1000
    max_body_bytes: int = 4 << 20
    max_waiting: int = 64


class Service:
    """The parts of a server and the threads between them; ``start`` and ``stop`` once each."""

    def __init__(self, config: Config, options: ServiceOptions, now_us: Callable[[], int]) -> None:
        self.options = options
        self.now_us = now_us
        types = FeatureTypes(config)
        for uri in dict.fromkeys([*options.impressions, *([options.served] if options.served else [])]):
            types.pin(_types_of_log(uri))
        replica, freshness = Replica(config), Freshness()
        served = None
        if options.served is not None:
            served = ServedLog(open_log(options.served, partitions=options.partition + 1), options.partition, types)
        self.state = ServerState(config.model.name, now_us(), replica, freshness, RequestFigures(), served)
        self.ranker = Ranker(
            self.state, Predictor(config, replica.tables[TABLE]), types, options.max_candidates, now_us
        )
        sync_log = open_log(options.sync)
        self.follower = Follower(replica, lambda: open_backend(options.store), sync_log, freshness, now_us)
        self.dashboard = Dashboard(self.state, open_log(options.metrics) if options.metrics else None, now_us)
        self._dashboard_thread = Periodic("dashboard", self.dashboard.step, DASHBOARD_EVERY_S)

    def start(self) -> None:
        """Start every thread."""
        self.follower.start()
        self._dashboard_thread.start()
        if self.state.served is not None:
            self.state.served.start()

    def stop(self) -> None:
        """Stop every thread; what was shown is in the served log when this returns."""
        if self.state.served is not None:
            self.state.served.stop()
        self.follower.stop()
        self._dashboard_thread.stop()


def _types_of_log(uri: str) -> list[tuple[str, object]]:
    """The features' types in the newest schema of a log; none where it cannot be read or is empty."""
    try:
        log: Log = open_log(uri)
        for partition in log.partitions():
            for chunk in log.read(partition, 0, 1):
                return types_of_schema(json.loads(chunk.schema))
    except (OSError, ValueError) as error:
        _LOGGER.warning("the types of features are not taken from %s: %s", uri, error)
    return []
