"""What goes over Arrow Flight between trainers, serving and shard servers: messages, their errors, addresses.

A message is a header (JSON, as the batch's metadata) and up to four arrays, each the one value of a binary column: on
the way out nothing is copied. On the way in the bytes of a batch have no alignment, so each array is copied once.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import flight

from monobeam.store.backend import AwayError, BackendError, LeasedError, OwnedError, StaleError
from monobeam.store.chunk import CorruptError
from monobeam.store.room import TableFullError
from monobeam.store.spec import SpecError

Array = npt.NDArray[Any]
SCHEMA = pa.schema([pa.field(str(number), pa.large_binary()) for number in range(4)])
TOKEN, TOKEN_FILE, TLS_CA = "MONOBEAM_TOKEN", "MONOBEAM_TOKEN_FILE", "MONOBEAM_TLS_CA"

# Reconnecting is ours to pace, and one connection's failures must not slow down another's: gRPC waits up to 2 minutes.
_CHANNEL = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),
]


class Message(NamedTuple):
    """A header of JSON values, and arrays."""

    header: Mapping[str, Any]
    arrays: tuple[Array, ...] = ()


def encode(message: Message) -> tuple[pa.RecordBatch, bytes]:
    """A batch of SCHEMA and its metadata; the batch refers to the arrays."""
    if not message.arrays:
        return _EMPTY, json.dumps(message.header).encode()
    arrays = [np.ascontiguousarray(array) for array in message.arrays]
    columns = [_column(array) for array in arrays] + [_NOTHING] * (len(SCHEMA) - len(arrays))
    header = {**message.header, "arrays": [[array.dtype.str, *array.shape] for array in arrays]}
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA), json.dumps(header).encode()


def decode(chunk: Any) -> Message:
    """The message in a batch and its metadata; its arrays are copies."""
    header = json.loads(chunk.app_metadata.to_pybytes())
    forms = header.pop("arrays", ())
    return Message(header, tuple(_array(chunk.data.column(i), *form) for i, form in enumerate(forms)))


_DTYPES = ("<u8", "<i8", "<f4", "<u4", "|u1", "|b1")
_NOTHING = pa.nulls(1, pa.large_binary())
_EMPTY = pa.RecordBatch.from_arrays([_NOTHING] * len(SCHEMA), schema=SCHEMA)


def _column(array: Array) -> pa.LargeBinaryArray:
    ends = np.array([0, array.nbytes], np.int64)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(array.reshape(-1).view(np.uint8))]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, buffers)


def _array(column: pa.LargeBinaryArray, dtype: str, *shape: int) -> Array:
    if dtype not in _DTYPES:
        raise ValueError(f"an array of {dtype!r}: must be of {_DTYPES}")
    data = column.buffers()[2]
    if np.prod(shape, dtype=object) * np.dtype(dtype).itemsize != (0 if data is None else data.size):
        raise ValueError(f"an array of {dtype} {shape}: came with {0 if data is None else data.size} bytes")
    if data is None or not data.size:
        return np.empty(shape, dtype)
    return np.ndarray(shape, dtype, data).copy()


def as_array(data: bytes) -> Array:
    """Bytes as an array that refers to them."""
    return np.frombuffer(data, np.uint8)


def error_of(error: Exception) -> Message:
    """What a server answers instead of ending the connection: the next request may be a better one."""
    return Message({"error": type(error).__name__, "kind": _kind(error), "message": str(error)})


def raised(address: str, header: Mapping[str, Any]) -> Exception:
    """The exception that an answer reports.

    Everything that passes when one waits, or opens the store again, is an AwayError here.
    """
    said = f"{address}: {header['message']}"
    if header["kind"] not in _ERRORS:
        return RuntimeError(f"{address}: {header['error']}: {header['message']}")
    return _ERRORS[header["kind"]](said)


_ERRORS: Mapping[str, type[Exception]] = {
    "stale": StaleError,
    "owned": LeasedError,
    "away": AwayError,
    "corrupt": CorruptError,
    "spec": SpecError,
    "full": TableFullError,
    "value": ValueError,
}


def _kind(error: Exception) -> str:
    kinds = (
        (StaleError, "stale"),
        (OwnedError, "owned"),
        (CorruptError, "corrupt"),
        (BackendError, "away"),
        (SpecError, "spec"),
        (TableFullError, "full"),
        (ValueError, "value"),
    )
    return next((kind for of, kind in kinds if isinstance(error, of)), "")


_HOST = r"(?:\[[^]/,]+\]|[^]\[/,:]+):\d+"


@dataclass(frozen=True)
class Place:
    """Where shard servers may be found: one ``HOST:PORT`` or several."""

    tls: bool
    hosts: tuple[str, ...]

    @staticmethod
    def parse(uri: str) -> Place:
        """Of ``flight://HOST:PORT`` or ``flight+tls://HOST:PORT``; more of ``HOST:PORT`` may follow after commas."""
        found = re.fullmatch(rf"flight(\+tls)?://({_HOST}(?:,{_HOST})*)", uri)
        if found is None:
            raise ValueError(f"store {uri!r}: must be flight://HOST:PORT or flight+tls://HOST:PORT")
        return Place(found[1] is not None, tuple(found[2].split(",")))

    @property
    def addresses(self) -> list[str]:
        """Every place by itself."""
        return [f"flight{'+tls' * self.tls}://{host}" for host in self.hosts]


def connect(address: str) -> flight.FlightClient:
    """A client of one server; nothing is sent yet. ``MONOBEAM_TLS_CA``: a file of certificates to trust."""
    place = Place.parse(address)
    roots = os.environ.get(TLS_CA)
    trust = {"tls_root_certs": Path(roots).read_bytes()} if place.tls and roots else {}
    return flight.FlightClient(f"grpc{'+tls' * place.tls}://{place.hosts[0]}", generic_options=_CHANNEL, **trust)


def token() -> str | None:
    """The token of this process: ``MONOBEAM_TOKEN``, or what is in the file ``MONOBEAM_TOKEN_FILE``.

    ValueError for a file without one: a server that is to demand a token must not go on without.
    """
    if name := os.environ.get(TOKEN_FILE):
        secret = Path(name).read_text().strip()
        if not secret:
            raise ValueError(f"{name}: there is no token in this file")
        return secret
    return os.environ.get(TOKEN) or None


def options(timeout_s: float | None = None) -> flight.FlightCallOptions:
    """Options of a call: its deadline, and the token of this process."""
    secret = token()
    headers = [(b"authorization", f"Bearer {secret}".encode())] if secret else []
    return flight.FlightCallOptions(timeout=timeout_s, headers=headers)
