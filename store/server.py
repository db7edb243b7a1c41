"""A shard server: ``python -m monobeam.store.server --shards=0-3 --store=lmdb:store``.

It holds the rows of some shards for trainers, and passes on what is committed to serving. It knows no model: the
specification comes with the first trainer. The server of shard 0 is the head of the store. When it is ready, it prints
its address. Where another process owns its shards, it waits until that ends or loses its lease; where it loses its own,
it answers nothing more until it has them again.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from monobeam.logs import diagnostics
from monobeam.store.backend import Backend, open_backend
from monobeam.store.heap import keep_freed_memory
from monobeam.store.numbers import numbers
from monobeam.store.shard_server import Ownership, ShardServer
from monobeam.store.wire import TOKEN_FILE, token

_TICK_S = 0.5
_EVERYWHERE = ("0.0.0.0", "[::]")


class Listening(NamedTuple):
    """Where a server listens: a location for Arrow, and the host in it."""

    location: str
    host: str


def _shards(text: str) -> list[int]:
    try:
        return numbers(text)
    except ValueError as error:
        raise ValueError(f"--shards: {error}") from None


def listening(text: str, *, secured: bool, tls: bool) -> Listening:
    """What ``grpc://HOST:PORT`` says; ``secured``: by TLS and a token, without which only loopback is served."""
    found = re.fullmatch(r"(?:(?:grpc|flight)(?:\+tls)?://)?(\[[^]]+\]|[^:/]+):(\d+)", text)
    if found is None:
        raise ValueError(f"--listen={text}: must be grpc://HOST:PORT")
    host = found[1]
    if not secured and not _is_loopback(host.strip("[]")):
        raise ValueError(f"--listen={text}: without --tls-cert, --tls-key and a token only loopback is served")
    return Listening(f"grpc{'+tls' * tls}://{host}:{found[2]}", host)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m monobeam.store.server", description=(__doc__ or "").partition("\n\n")[2]
    )
    parser.add_argument("--shards", required=True, help="which shards: 0-3, or 0-1,6 (an embedded store: all of them)")
    parser.add_argument("--store", required=True, help="address of the backend: lmdb:DIRECTORY or bigtable://...")
    parser.add_argument("--sync", default="", help="log to write sync events to, e.g. file:DIR (default: trainers do)")
    parser.add_argument("--listen", default="grpc://127.0.0.1:0", help="grpc://HOST:PORT, port 0 for any (%(default)s)")
    parser.add_argument("--advertise", help="HOST:PORT that others reach it by (default: where it listens)")
    parser.add_argument("--tls-cert", type=Path, help="file with its certificate (PEM)")
    parser.add_argument("--tls-key", type=Path, help="file with the key of the certificate (PEM)")
    parser.add_argument("--token-file", help="file with the token that callers must give (default: MONOBEAM_TOKEN)")
    return parser.parse_args(arguments)


def _start(options: argparse.Namespace, opener: Callable[[str], Backend]) -> tuple[ShardServer, Ownership, str]:
    if options.token_file:
        os.environ[TOKEN_FILE] = options.token_file  # this server calls others, with the same token
    if bool(options.tls_cert) != bool(options.tls_key):
        raise ValueError("--tls-cert and --tls-key: give both or none")
    tls = (options.tls_cert.read_bytes(), options.tls_key.read_bytes()) if options.tls_cert else None
    secret, shards = token(), _shards(options.shards)
    place = listening(options.listen, secured=bool(tls and secret), tls=tls is not None)
    if place.host in _EVERYWHERE and not options.advertise:
        raise ValueError(f"--listen={options.listen}: give --advertise=HOST:PORT too, where others reach this server")
    backend = opener(options.store)
    try:
        server = ShardServer(place.location, secret, tls)
    except pa.ArrowException as error:
        also = f", with {options.tls_cert} and {options.tls_key}" if tls else ""
        raise ValueError(f"--listen={options.listen}: cannot listen there{also}: {error}") from error
    address = f"flight{'+tls' if tls else ''}://{options.advertise or f'{place.host}:{server.port}'}"
    return server, Ownership(server, backend, shards, address, sync=options.sync), address


def main(arguments: Sequence[str] | None = None, opener: Callable[[str], Backend] = open_backend) -> int:
    """Serve until SIGTERM or SIGINT; status 1, saying why, where that is not possible. ``opener``: of the backend."""
    keep_freed_memory()
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    try:
        diagnostics.to_standard_error()
        server, ownership, address = _start(_options(arguments), opener)
        try:
            ready = False
            while not stopped.is_set():
                ownership.step(time.monotonic())
                if not ready and server.tenure is not None:
                    print(address, flush=True)
                    ready = True
                stopped.wait(_TICK_S)
        finally:
            ownership.close()
    except (OSError, ValueError) as error:
        print(f"python -m monobeam.store.server: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # callers' streams are open, and Arrow would wait for all of them to end
