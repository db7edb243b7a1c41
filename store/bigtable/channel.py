"""Connections to Bigtable: to the service, or to the emulator that BIGTABLE_EMULATOR_HOST names."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import grpc
import grpc.experimental
from google.cloud.bigtable_v2.types import bigtable as messages

from monobeam.store.backend import AwayError, CredentialsError

SERVICE = "bigtable.googleapis.com:443"
SCOPES = ("https://www.googleapis.com/auth/bigtable.data",)
READ_AHEAD_BYTES = 4 << 20


class DataChannel:
    """The calls of the data API over one connection, and the threads that make several at a time."""

    def __init__(self, threads: int) -> None:
        self.pool = ThreadPoolExecutor(threads, "bigtable")
        self._closed = False
        self._channel = channel(SERVICE, SCOPES)
        stream, service = self._channel.unary_stream, "/google.bigtable.v2.Bigtable/"
        self.mutate_rows = stream(service + "MutateRows", None, messages.MutateRowsResponse.pb().FromString)
        self.read_rows = stream(service + "ReadRows", messages.ReadRowsRequest.pb().SerializeToString)
        self.sample_row_keys = stream(
            service + "SampleRowKeys",
            messages.SampleRowKeysRequest.pb().SerializeToString,
            messages.SampleRowKeysResponse.pb().FromString,
        )
        self.check_and_mutate = self._channel.unary_unary(
            service + "CheckAndMutateRow",
            messages.CheckAndMutateRowRequest.pb().SerializeToString,
            messages.CheckAndMutateRowResponse.pb().FromString,
        )

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Around calls; AwayError where they fail because somebody has closed it."""
        try:
            yield
        except (RuntimeError, ValueError) as error:  # what a closed pool, a closed channel raise
            if not self._closed:
                raise
            raise AwayError(f"the connection to Bigtable was closed by its owner: {error}") from error

    def close(self) -> None:
        """End the connection and the threads."""
        self._closed = True
        self.pool.shutdown()
        self._channel.close()


def channel(service: str, scopes: Sequence[str]) -> grpc.Channel:
    """A connection to the emulator, or to the service with the environment's default credentials."""
    options = [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2000),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.http2.lookahead_bytes", READ_AHEAD_BYTES),
        (grpc.experimental.ChannelOptions.SingleThreadedUnaryStream, 1),  # a scan costs a third of the CPU time
    ]
    emulator = os.environ.get("BIGTABLE_EMULATOR_HOST")
    if emulator:
        return grpc.insecure_channel(emulator, options)
    import google.auth
    import google.auth.transport.grpc
    import google.auth.transport.requests

    try:
        credentials, _ = google.auth.default(scopes=list(scopes))
    except google.auth.exceptions.DefaultCredentialsError as error:
        raise CredentialsError(f"{service}: no credentials, and no BIGTABLE_EMULATOR_HOST: {error}") from error
    request = google.auth.transport.requests.Request()
    return google.auth.transport.grpc.secure_authorized_channel(credentials, request, service, options=options)


def status_of(error: grpc.RpcError) -> tuple[int, str]:
    """The number and text of what a call ended with."""
    with suppress(AttributeError):
        return error.code().value[0], str(error.details())
    return grpc.StatusCode.UNKNOWN.value[0], str(error)
