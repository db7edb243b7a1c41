"""Answers callers over Arrow Flight, for as long as its process owns shards of a store."""

from __future__ import annotations

import hmac
import json
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any

from pyarrow import flight

from monobeam.store.backend import AwayError, Backend, BackendError, OwnedError
from monobeam.store.calls import Calls, Tenure
from monobeam.store.connection import ALIVE
from monobeam.store.head import TTL_S, Head
from monobeam.store.hosting import Hosting, check_numbers
from monobeam.store.members import LocalMember, Members
from monobeam.store.publishing import SyncLog
from monobeam.store.wire import SCHEMA, Message, decode, encode, error_of

_LOGGER = logging.getLogger(__name__)


class _Bearer(flight.ServerMiddlewareFactory):  # type: ignore[misc]
    """Refuses calls without the token."""

    def __init__(self, secret: str) -> None:
        self._expected = f"Bearer {secret}".encode()

    def start_call(self, info: Any, headers: Any) -> None:
        """Called by Arrow before every call."""
        given = headers.get("authorization", [""])[0]
        if not hmac.compare_digest(str(given).encode(), self._expected):
            raise flight.FlightUnauthenticatedError("give the token of this server in MONOBEAM_TOKEN")


class ShardServer(flight.FlightServerBase):  # type: ignore[misc]
    """Answers by the tenure of the moment; without one it says why it has none.

    ``listen``: ``grpc://HOST:PORT``, port 0 for any; ``tls``: certificate and key, PEM.
    """

    def __init__(self, listen: str, secret: str | None = None, tls: tuple[bytes, bytes] | None = None) -> None:
        super().__init__(
            listen,
            middleware={"token": _Bearer(secret)} if secret else None,
            tls_certificates=[tls] if tls else None,
        )
        self.tenure: Tenure | None = None

    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """Requests and their answers, in order, until the caller ends."""
        writer.begin(SCHEMA)
        calls = Calls(self._now)
        try:
            for request in _requests(reader):
                for answer in _answers(calls, request):
                    writer.write_with_metadata(*encode(answer))
        finally:
            calls.ended()

    def do_action(self, context: Any, action: Any) -> Iterator[bytes]:
        """A sign of life, both ways."""
        if action.type != ALIVE:
            raise KeyError(f"action {action.type!r}: there is only {ALIVE!r}")
        session = json.loads(action.body.to_pybytes()).get("session")
        tenure = self.tenure
        if session is not None:
            if tenure is None or tenure.head is None:
                raise flight.FlightUnavailableError("this server is not the head of the store any more")
            try:
                tenure.head.alive(session, time.monotonic())
            except AwayError as error:
                raise flight.FlightUnavailableError(str(error)) from None
        yield b"{}"

    def _now(self) -> Tenure:
        tenure = self.tenure
        if tenure is None:
            raise AwayError("this server waits for its shards, which another owns")
        return tenure


def _requests(reader: Any) -> Iterator[Message]:
    while True:
        try:
            yield decode(reader.read_chunk())
        except StopIteration:
            return


def _answers(calls: Calls, request: Message) -> Iterator[Message]:
    try:
        yield from calls.answers(request)
    except Exception as error:
        if not isinstance(error, (OSError, ValueError, MemoryError)):
            _LOGGER.exception("request %s", request.header.get("method"))
        yield error_of(error)


class Ownership:
    """Keeps a server the owner of its shards, for as long as the backend lets it.

    ``sync``: address of the log that it writes the sync events of its shards to; without, trainers do.
    """

    def __init__(
        self,
        server: ShardServer,
        backend: Backend,
        numbers: Sequence[int],
        address: str,
        ttl_s: float = TTL_S,
        sync: str = "",
    ) -> None:
        self._server = server
        self._backend = backend
        self._numbers = numbers
        self._address = address
        self._ttl_s = ttl_s
        self._sync_log = SyncLog(sync) if sync else None
        self._members: Members | None = None
        self._said = ""

    def step(self, now_s: float) -> None:
        """Own the shards if they can be had; let go of them if they are lost; see to dead sessions."""
        tenure = self._server.tenure
        if tenure is None:
            self._take()
            return
        try:
            tenure.hosting.check()
        except OwnedError as error:
            _LOGGER.warning("%s; waiting for the shards", error)
            self.close()
            return
        except BackendError as error:
            _LOGGER.warning("%s; the lease may run out", error)
        if tenure.head is not None:
            tenure.head.tick(now_s)

    def close(self) -> None:
        """Give the shards back."""
        tenure, self._server.tenure = self._server.tenure, None
        if tenure is not None:
            tenure.hosting.end()
        if self._members is not None:
            self._members.close()
        if self._sync_log is not None:
            self._sync_log.close()
        self._backend.close()

    def _take(self) -> None:
        try:
            self._backend.own(self._numbers, self._address)
        except (OwnedError, AwayError) as error:
            if str(error) != self._said:
                _LOGGER.warning("%s; waiting", error)
            self._said = str(error)
            return
        self._said = ""
        check_numbers(self._backend, self._numbers)
        hosting = Hosting(self._backend, self._numbers, self._sync_log)
        self._members = Members(self._backend, LocalMember(self._address, hosting))
        head = Head(self._backend, self._members, self._ttl_s) if 0 in self._numbers else None
        self._server.tenure = Tenure(self._backend, self._address, hosting, head)
