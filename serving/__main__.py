"""``python -m monobeam.serving``: serve a model over HTTP while it learns."""

from __future__ import annotations

import argparse
import gc
import math
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import uvicorn

from monobeam.logs import diagnostics
from monobeam.models import config as model_config
from monobeam.models.section import ConfigError, size_bytes
from monobeam.serving.app import create_app
from monobeam.serving.connections import Connections
from monobeam.serving.service import OptionError, Service, ServiceOptions
from monobeam.store.spec import ROW_FORMATS

SWITCH_INTERVAL_S = 0.0005
GRACE_S = 5
BACKLOG = 256  # also the most connections that are accepted at once
SPARE_FILES = BACKLOG + 256  # for the store, logs and libraries

DESCRIPTION = """\
Ranks candidates over HTTP with a model that is being trained. Loads the parameter store once, then follows the sync
log; answers all along, also while the store or the log is away. What it shows goes to the served log, as impressions to
train on.
"""
EPILOG = """\
  POST /rank        {"request_id"?, "features": {...}, "candidates": [{...}, ...], "top_k"?, "log"?}
  GET  /            the live page              GET /stats.json   its figures
  GET  /health      200 while the process is up
  GET  /ready       200 once a trained model is loaded
  GET  /metrics     for Prometheus

Addresses are file:DIRECTORY or kafka://HOST:PORT/TOPIC for logs and lmdb:DIRECTORY for the store. Those that are not
given are taken from --config, as are --rows and --memory-limit.
"""


class Server(uvicorn.Server):
    """Says where it listens, once it does; ends where the service cannot go on."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    async def on_tick(self, counter: int) -> bool:
        """Whether to end; asked some times a second."""
        return await super().on_tick(counter) or self._service.follower.fatal is not None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then announce the address in one line on standard output."""
        await super().startup(sockets)
        if sockets and not self.should_exit:
            host, port = sockets[0].getsockname()[:2]
            sys.stdout.write(f"serving on http://{f'[{host}]' if ':' in host else host}:{port}\n")
            sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; status 1 where the store does not fit into memory."""
    options = parser().parse_args(arguments)
    try:
        diagnostics.to_standard_error(options.log_level)
        service, listening = _open(options)
    except (OptionError, diagnostics.LogLevelError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    # The follower works in Python beside the requests; with the default of 5 ms it could hold a request up for as long.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    # uvicorn drains, then raises the signal again for the handler from before; to have drained is to have ended well.
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, lambda *_: None)
    # What is loaded now stays: without it a full collection walks all of torch's objects, for tens of milliseconds.
    gc.collect()
    gc.freeze()
    Server(_uvicorn_config(service, diagnostics.level(options.log_level)), service).run(sockets=[listening])
    gc.unfreeze()
    if service.follower.fatal is not None:
        sys.stderr.write(f"the store cannot be loaded: {service.follower.fatal}\n")
        return 1
    return 0


def _open(options: argparse.Namespace) -> tuple[Service, socket.socket]:
    """A service that can start and a socket to answer on; OptionError where an option does not allow it."""
    config = _config(options)
    service = Service(config, _service_options(options, config), now_us=lambda: time.time_ns() // 1000)
    try:
        listening = _listen(options.host, options.port)
    except OSError as error:
        raise OptionError(f"--host {options.host} --port {options.port}: {error}") from error
    try:
        service.open()
    except OptionError:
        listening.close()
        raise
    return service, listening


def _config(options: argparse.Namespace) -> model_config.Config:
    try:
        config = model_config.load(options.config)
    except (OSError, ValueError) as error:
        raise OptionError(f"--config: {error}") from error
    given = {"rows": options.rows, "memory_limit": options.memory_limit}
    serving = replace(config.serving, **{name: value for name, value in given.items() if value is not None})
    return replace(config, serving=serving)


def parser() -> argparse.ArgumentParser:
    """The options."""
    result = argparse.ArgumentParser(
        prog="python -m monobeam.serving",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("--config", required=True, metavar="FILE", help="the model's TOML file")
    result.add_argument("--store", metavar="URI", help="the parameter store to load and to catch up from")
    result.add_argument("--sync", metavar="URI", help="the sync log to follow")
    result.add_argument(
        "--served", metavar="URI", help="the log to write what is shown to; without it nothing is logged"
    )
    result.add_argument("--metrics", metavar="URI", help="the metrics log of the pipelines, for the live page")
    result.add_argument(
        "--flink",
        metavar="HOST:PORT[/JOB]",
        help="the cluster whose job trains, for the live page and /metrics; JOB: its name or id (default: the latest)",
    )
    result.add_argument(
        "--rows", choices=ROW_FORMATS, help="how rows are kept in memory, in place of rows under [serving]"
    )
    result.add_argument(
        "--memory-limit",
        type=_size,
        metavar="SIZE",
        help='the most memory of all tables, such as "8GiB", in place of memory_limit under [serving]',
    )
    result.add_argument(
        "--partition",
        type=_whole(0),
        default=0,
        metavar="N",
        help="partition of the served log; one per server (default: %(default)s)",
    )
    result.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine only)"
    )
    result.add_argument(
        "--port",
        type=_whole(0, 65535),
        default=8080,
        help="port to listen on; 0 takes a free one and prints it (default: %(default)s)",
    )
    result.add_argument(
        "--max-candidates",
        type=_whole(1),
        default=1000,
        metavar="N",
        help="most candidates of a request (default: %(default)s)",
    )
    result.add_argument(
        "--max-body",
        type=_whole(1),
        default=4 << 20,
        metavar="BYTES",
        help="largest body of a request (default: %(default)s)",
    )
    result.add_argument(
        "--max-waiting",
        type=_whole(1),
        default=64,
        metavar="N",
        help="most requests under way; others get 503 (default: %(default)s)",
    )
    result.add_argument(
        "--max-connections",
        type=_whole(1),
        default=1000,
        metavar="N",
        help="most connections; the one longest without a request makes room for the next (default: %(default)s)",
    )
    result.add_argument(
        "--read-timeout",
        type=_seconds,
        default=5.0,
        metavar="SECONDS",
        help="how long a request may take to arrive; then 408 (default: %(default)s)",
    )
    result.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name under which clients know this server, besides localhost and --host; may be repeated; * for any",
    )
    result.add_argument(
        "--log-level",
        choices=[name.lower() for name in diagnostics.LEVELS],
        default="",
        help="(default: MONOBEAM_LOG, or warning)",
    )
    return result


def _uvicorn_config(service: Service, log_level: str) -> uvicorn.Config:
    limit = _connection_limit(service.options.max_connections)
    connections = Connections(limit, service.options.read_timeout_s)
    return uvicorn.Config(
        create_app(service),
        log_config=None,
        log_level=log_level.lower(),
        access_log=False,
        backlog=BACKLOG,
        http=connections.protocol,  # type: ignore[arg-type]
        timeout_graceful_shutdown=GRACE_S,
    )


def _service_options(options: argparse.Namespace, config: model_config.Config) -> ServiceOptions:
    return ServiceOptions(
        store=options.store or config.store.uri,
        sync=options.sync or config.logs.sync,
        served=options.served,
        metrics=options.metrics or config.logs.metrics,
        impressions=config.logs.impressions,
        partition=options.partition,
        max_candidates=options.max_candidates,
        max_body_bytes=options.max_body,
        max_waiting=options.max_waiting,
        max_connections=options.max_connections,
        read_timeout_s=options.read_timeout,
        host=options.host,
        allowed_hosts=tuple(options.allowed_host),
        flink=options.flink,
    )


def _listen(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listening = socket.socket(family, kind, protocol)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(address)
    return listening


def _whole(low: int, high: int | None = None) -> Callable[[str], int]:
    allowed = f"{low} or more" if high is None else f"from {low} to {high}"

    def whole(text: str) -> int:
        value = int(text)
        if value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"{value}: must be {allowed}")
        return value

    whole.__name__ = f"whole number, {allowed},"
    return whole


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: must be more than 0")
    return value


def _size(text: str) -> int:
    try:
        return size_bytes(text, "--memory-limit")
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _connection_limit(wanted: int) -> int:
    """As many as wanted, or as this process may have files for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return max(1, min(wanted, soft - SPARE_FILES))
    return wanted


if __name__ == "__main__":
    sys.exit(main())
