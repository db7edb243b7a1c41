"""All parts of a server, put together from its options."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa

from monobeam.logs.log import LockedError, Log, newest, open_log
from monobeam.models.config import Config
from monobeam.serving.columns import FeatureTypes, types_of_schema
from monobeam.serving.dashboard import Dashboard
from monobeam.serving.flink import FlinkJob
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
FLINK_EVERY_S = 2.0


@dataclass(frozen=True)
class ServiceOptions:
    """Where things are (addresses of logs and the store; None: not there) and what bounds the server.

    ``read_timeout_s``: for a request to arrive; ``host``: that is listened on; ``allowed_hosts``: its other names;
    ``flink``: HOST:PORT/JOB of the cluster whose job trains.
    """

    store: str
    sync: str
    served: str | None = None
    metrics: str | None = None
    impressions: tuple[str, ...] = ()
    partition: int = 0
    max_candidates: int = 1000
    max_body_bytes: int = 4 << 20
    max_waiting: int = 64
    max_connections: int = 1000
    read_timeout_s: float = 5.0
    host: str = "127.0.0.1"
    allowed_hosts: tuple[str, ...] = ()
    flink: str | None = None


class OptionError(ValueError):
    """An option that cannot be; the message names it."""


class Service:
    """The parts of a server and the threads between them; ``open``, ``start`` and ``stop`` once each.

    OptionError where an address is none.
    """

    def __init__(self, config: Config, options: ServiceOptions, now_us: Callable[[], int]) -> None:
        self.options = options
        self.now_us = now_us
        types = FeatureTypes(config)
        for uri in dict.fromkeys([*options.impressions, *([options.served] if options.served else [])]):
            types.pin(_types_of_log(uri))
        with _option("--memory-limit"):
            replica, freshness = Replica(config), Freshness()
        served = None
        if options.served is not None:
            log = _log("--served", options.served, partitions=options.partition + 1)
            served = ServedLog(log, options.partition, types)
        with _option("--flink"):
            flink = FlinkJob(options.flink) if options.flink else None
        self.state = ServerState(config.model.name, now_us(), replica, freshness, RequestFigures(), served, flink)
        self.ranker = Ranker(self.state, Predictor(config, replica.tables), types, options.max_candidates, now_us)
        with _option("--store"):
            open_backend(options.store).close()
        sync_log = _log("--sync", options.sync)
        self.follower = Follower(replica, lambda: open_backend(options.store), sync_log, freshness, now_us)
        metrics = _log("--metrics", options.metrics) if options.metrics else None
        self.dashboard = Dashboard(self.state, metrics, now_us)
        self._watching = [Periodic("dashboard", self.dashboard.step, DASHBOARD_EVERY_S)]
        if flink is not None:
            self._watching.append(Periodic("flink", flink.step, FLINK_EVERY_S))

    def open(self) -> None:
        """Take what only one server can have; OptionError where another has it."""
        if self.state.served is None:
            return
        with _option("--served"):
            try:
                self.state.served.open()
            except LockedError as error:
                number = self.options.partition
                raise OptionError(
                    f"--served: another server has partition {number}, use --partition=N: {error}"
                ) from error

    def start(self) -> None:
        """Start every thread."""
        self.follower.start()
        for watching in self._watching:
            watching.start()
        if self.state.served is not None:
            self.state.served.start()

    def stop(self) -> None:
        """Stop every thread; what was shown is in the served log when this returns."""
        if self.state.served is not None:
            self.state.served.stop()
        self.follower.stop()
        for watching in self._watching:
            watching.stop()


@contextmanager
def _option(name: str) -> Iterator[None]:
    """Say which option it was."""
    try:
        yield
    except OptionError:
        raise
    except (OSError, ValueError, MemoryError) as error:
        raise OptionError(f"{name}: {error}") from error


def _log(option: str, uri: str, partitions: int = 0) -> Log:
    with _option(option):
        return open_log(uri, partitions=partitions)


def _types_of_log(uri: str) -> list[tuple[str, pa.DataType]]:
    """The features' types in the newest schema of each of a log's partitions; none where it cannot be read."""
    try:
        log = open_log(uri)
        return [typed for partition in log.partitions() for typed in _types_at_end(log, partition)]
    except (OSError, ValueError) as error:
        _LOGGER.warning("the types of features are not taken from %s: %s", uri, error)
    return []


def _types_at_end(log: Log, partition: int) -> list[tuple[str, pa.DataType]]:
    last = newest(log, partition)
    return [] if last is None else types_of_schema(json.loads(last.schema))
