"""A connection to one shard server: requests and answers in order, on one stream.

A server that is paused breaks no connection. So every connection has a pulse: a thread that asks for a sign of life
every few seconds, and ends the connection where there is none; whoever waits for an answer then gets an AwayError.
"""

from __future__ import annotations

import json
import re
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import pyarrow as pa
from pyarrow import flight

from monobeam.store.backend import AwayError, BackendError
from monobeam.store.wire import SCHEMA, Array, Message, connect, decode, encode, options, raised

ALIVE = "alive"
MOST_PENDING = 32  # answers that nobody has read: gRPC holds some 64 KiB back, and then neither side reads any more


class Connection:
    """Not for several threads at once. After an AwayError of its own it is of no more use.

    ``pulse``: what to say with every sign of life, JSON values, which may change at any time.
    """

    PULSE_S = 3.0  # between two signs of life
    PATIENCE_S = 10.0  # with a server that does not answer them

    def __init__(self, address: str) -> None:
        self.address = address
        self.pulse: dict[str, Any] = {}
        self._pending: deque[Pending] = deque()
        self._closed = threading.Event()
        self.broken = False  # it is of no more use
        self._client = connect(address)
        self._alive_options, calls_options = options(self.PATIENCE_S), options()
        try:
            self._say_alive()
            self._writer, self._reader = self._client.do_exchange(
                flight.FlightDescriptor.for_path("calls"), calls_options
            )
            self._writer.begin(SCHEMA)
        except (pa.ArrowException, OSError) as error:
            raise _away(address, error) from error
        threading.Thread(target=self._beat, name=f"pulse of {address}", daemon=True).start()

    def ask(self, method: str, header: Mapping[str, Any], *arrays: Array) -> Pending:
        """Send a request. Answers come in order: waiting for one waits for, and raises for, all before it."""
        if len(self._pending) >= MOST_PENDING:
            self._pending[0].answer()
        batch, metadata = encode(Message({"method": method, **header}, arrays))
        try:
            self._writer.write_with_metadata(batch, metadata)
        except (pa.ArrowException, OSError) as error:
            self.broken = True
            raise _away(self.address, error) from error
        pending = Pending(self)
        self._pending.append(pending)
        return pending

    def call(self, method: str, header: Mapping[str, Any], *arrays: Array) -> Message:
        """Send a request and wait for its answer."""
        return self.ask(method, header, *arrays).answer()

    def stream(self, method: str, header: Mapping[str, Any]) -> Iterator[Message]:
        """Send a request that has many answers. Nothing else may be asked before the last of them."""
        self.ask(method, header)
        self._pending.clear()
        while not (message := self._read()).header.get("end"):
            yield message

    def settle(self) -> None:
        """Wait for all answers."""
        if self._pending:
            self._pending[-1].answer()

    def close(self) -> None:
        """End it, whoever waits."""
        self.broken = True
        self._closed.set()
        for end in (self._writer.done_writing, self._reader.cancel, self._writer.close, self._client.close):
            with suppress(pa.ArrowException, OSError):
                end()

    def _read(self) -> Message:
        try:
            message = decode(self._reader.read_chunk())
        except StopIteration:
            self.broken = True
            raise AwayError(f"{self.address}: the connection ended") from None
        except (pa.ArrowException, OSError) as error:
            self.broken = True
            raise _away(self.address, error) from error
        if "error" in message.header:
            raise raised(self.address, message.header)
        return message

    def _beat(self) -> None:
        while not self._closed.wait(self.PULSE_S):
            try:
                self._say_alive()
            except (pa.ArrowException, OSError):
                self.broken = True
                with suppress(pa.ArrowException, OSError):
                    self._reader.cancel()
                return

    def _say_alive(self) -> None:
        action = flight.Action(ALIVE, json.dumps(self.pulse).encode())
        list(self._client.do_action(action, self._alive_options))


class Pending:
    """An answer that may still be on its way."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._message: Message | None = None

    def answer(self) -> Message:
        """Wait for it."""
        pending = self._connection._pending
        while self._message is None:
            if not pending:
                raise AwayError(f"{self._connection.address}: an answer before this one was an error")
            first = pending.popleft()
            first._message = self._connection._read()
        return self._message


def _away(address: str, error: Exception) -> BackendError:
    if isinstance(error, BackendError):
        return error
    said = re.sub(r"^Flight returned .*? with message: ", "", str(error), flags=re.DOTALL)
    why = re.sub(r"\.? gRPC client debug context.*", "", said, flags=re.DOTALL)
    if isinstance(error, (flight.FlightUnauthenticatedError, flight.FlightUnauthorizedError)):
        return BackendError(f"{address}: the token was refused: {why}")
    return AwayError(f"{address}: cannot be reached: {why}")
