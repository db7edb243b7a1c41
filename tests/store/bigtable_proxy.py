"""A proxy before the emulator that does what networks do: loses answers, cuts streams, applies halves, holds calls."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

STREAMS = {"ReadRows", "MutateRows", "SampleRowKeys"}
Forward = Callable[[bytes], Iterator[bytes]]
Hook = Callable[[bytes, Forward], Iterable[bytes]]


class CallError(Exception):
    """What the caller gets instead of an answer, or of the rest of one."""

    def __init__(self, code: grpc.StatusCode) -> None:
        super().__init__(code.name)
        self.code = code


class Hold:
    """Holds calls of a method until told to let them go: the one that is number ``after`` of those that have ``part``
    in them, and all that follow."""

    def __init__(self, after: int = 0, part: bytes = b"") -> None:
        self.held = threading.Event()
        self._go = threading.Event()
        self._numbers = itertools.count()
        self._after = after
        self._part = part

    def __call__(self, request: bytes, forward: Forward) -> Iterable[bytes]:
        if self._part in request and next(self._numbers) >= self._after:
            self.held.set()
            assert self._go.wait(60)
        return forward(request)

    def release(self) -> None:
        self._go.set()


class Proxy(grpc.GenericRpcHandler):  # type: ignore[misc]
    """``hooks``: by method, what is done with a call: it gets the request and what forwards it."""

    def __init__(self, emulator: str) -> None:
        self.hooks: dict[str, Hook] = {}
        self.calls: list[str] = []
        self._channel = grpc.insecure_channel(emulator)
        self._server = grpc.server(ThreadPoolExecutor(32), handlers=[self])
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def service(self, handler_call_details: Any) -> Any:
        """Every method, as bytes."""
        path = handler_call_details.method
        method = path.rsplit("/", 1)[1]
        if method in STREAMS:
            return grpc.unary_stream_rpc_method_handler(lambda request, context: self._call(path, request, context))
        return grpc.unary_unary_rpc_method_handler(lambda request, context: next(self._call(path, request, context)))

    def close(self) -> None:
        """End all calls."""
        self._server.stop(None)
        self._channel.close()

    def _call(self, path: str, request: bytes, context: Any) -> Iterator[bytes]:
        method = path.rsplit("/", 1)[1]
        self.calls.append(method)

        def forward(request: bytes) -> Iterator[bytes]:
            if method in STREAMS:
                yield from self._channel.unary_stream(path)(request)
            else:
                yield self._channel.unary_unary(path)(request)

        try:
            yield from self.hooks[method](request, forward) if method in self.hooks else forward(request)
        except CallError as failed:
            context.abort(failed.code, "by the proxy")
        except grpc.RpcError as error:
            context.abort(error.code(), error.details())
