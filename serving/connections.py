"""The connections of a server: how many there are, and how long they may take to say what they want.

A client that sends a byte now and then costs a connection for as long as it likes. So a request has some seconds to
arrive; and when there are too many connections, the one that has been longest without a whole request makes room for
the next, so that a new client, such as a health check, is always heard.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from monobeam.serving.errors import TooSlow

READING = frozenset({h11.IDLE, h11.SEND_BODY})


class Connections:
    """All connections of a server, at most ``limit``, each with ``timeout_s`` for a request to arrive."""

    def __init__(self, limit: int, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._limit = limit
        self._open: dict[Connection, None] = {}  # in the order of their last whole request

    def protocol(self, **uvicorns: Any) -> Connection:
        """What uvicorn makes for each connection."""
        return Connection(self, **uvicorns)

    def renew(self, connection: Connection) -> None:
        """A connection is new, or a whole request has come by it."""
        self._open.pop(connection, None)
        self._open[connection] = None
        if len(self._open) > self._limit:
            oldest = next(iter(self._open))
            self.drop(oldest)
            oldest.transport.abort()

    def drop(self, connection: Connection) -> None:
        """A connection has ended."""
        self._open.pop(connection, None)


class Connection(H11Protocol):
    """uvicorn's connection, with a time limit from the first byte of a request to its last."""

    def __init__(self, connections: Connections, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._all = connections
        self._receiving = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self._all.renew(self)
        self._restart()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._all.drop(self)
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if not self._receiving:
            self._receiving = True
            self._restart()
        super().data_received(data)
        if self.conn.their_state not in READING:
            self._receiving = False
            self._stop()
            self._all.renew(self)

    def _restart(self) -> None:
        self._stop()
        self._timer = self.loop.call_later(self._all.timeout_s, self._late)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._restart()  # whoever waits for the body has a limit of its own, and answers
        elif self._receiving and self.conn.our_state is h11.IDLE:
            self._refuse()
        else:  # nothing came at all, or a body that nobody reads
            self.transport.close()

    def _refuse(self) -> None:
        error = TooSlow(f"the request's head did not come within {self._all.timeout_s:g} s")
        body = json.dumps({"error": type(error).__name__, "detail": str(error)}).encode()
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            *((name.lower(), value) for name, value in error.headers.items()),
        ]
        response = h11.Response(status_code=error.status, headers=headers, reason=b"Request Timeout")
        for event in (response, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
