"""A proxy before the Bigtable emulator that does to calls what networks and services do to them.

A process of its own: `python -m benchmarks._faults.proxy --port=PORT --emulator=HOST:PORT`. Bytes go through as they
are, but for bulk writes of which only half is to be applied. Its own method CONTROL takes JSON: what to disturb.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.cloud.bigtable_v2.types import bigtable as messages

from benchmarks._faults.schedule import Schedule

CONTROL = "/faults.Proxy/Control"
_STREAMED = ("MutateRows", "ReadRows", "SampleRowKeys")
_CODES = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
)
_LONGEST_DELAY_S, _LATEST_S = 0.8, 2.5
_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
_Answers = Iterator[bytes]


class Proxy(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers every method there is."""

    def __init__(self, emulator: str) -> None:
        self._channel = grpc.insecure_channel(emulator, options=_OPTIONS)
        self._schedule = Schedule()

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        """Called by gRPC for every call."""
        if details.method == CONTROL:
            return grpc.unary_unary_rpc_method_handler(self._control)
        short = details.method.rpartition("/")[2]
        if short in _STREAMED:
            passed_on = self._channel.unary_stream(details.method)
            return grpc.unary_stream_rpc_method_handler(lambda data, call: self._answers(short, passed_on, data, call))
        single = self._channel.unary_unary(details.method)

        def passed_on_alone(data: bytes, **how: Any) -> _Answers:
            return iter([single(data, **how)])

        return grpc.unary_unary_rpc_method_handler(
            lambda data, call: next(self._answers(short, passed_on_alone, data, call), b"")
        )

    def _control(self, data: bytes, call: grpc.ServicerContext) -> bytes:
        wanted = json.loads(data)
        if wanted:
            self._schedule.disturb(wanted["kind"], wanted["calls"], wanted["seed"])
        return json.dumps(self._schedule.done).encode()

    def _answers(
        self, method: str, passed_on: Callable[..., _Answers], data: bytes, call: grpc.ServicerContext
    ) -> _Answers:
        kind, rng = self._schedule.fate(method)
        code = rng.choice(_CODES)
        if kind == "fail":
            call.abort(code, "a fault of the campaign: not applied")
        if kind == "apply_late":
            threading.Thread(target=_later, args=(passed_on, data, rng.uniform(0.3, _LATEST_S)), daemon=True).start()
            call.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "a fault of the campaign: will be applied later")
        if kind == "delay":
            time.sleep(rng.uniform(0.05, _LONGEST_DELAY_S))
        try:
            if kind == "half":
                yield self._half(passed_on, data, rng, code)
                return
            for number, answer in enumerate(passed_on(data)):
                if kind == "lose_answer":
                    continue
                yield answer
                if kind == "cut_read" and number >= rng.randint(0, 2):
                    break
        except grpc.RpcError as error:
            call.abort(error.code(), error.details())
        if kind in ("lose_answer", "cut_read"):
            call.abort(code, "a fault of the campaign: applied")

    def _half(
        self, passed_on: Callable[..., _Answers], data: bytes, rng: random.Random, code: grpc.StatusCode
    ) -> bytes:
        """Apply some entries of a bulk write; the answer says that the others failed."""
        whole = messages.MutateRowsRequest.pb().FromString(data)
        applied = sorted(rng.sample(range(len(whole.entries)), len(whole.entries) // 2))
        answer = messages.MutateRowsResponse.pb()()
        for index in set(range(len(whole.entries))) - set(applied):
            answer.entries.add(index=index).status.code = code.value[0]
        if applied:
            half = messages.MutateRowsRequest.pb()()
            half.CopyFrom(whole)
            del half.entries[:]
            half.entries.extend(whole.entries[index] for index in applied)
            for given in passed_on(half.SerializeToString()):
                for entry in messages.MutateRowsResponse.pb().FromString(given).entries:
                    added = answer.entries.add()
                    added.CopyFrom(entry)
                    added.index = applied[entry.index]
        return bytes(answer.SerializeToString())


def _later(passed_on: Callable[..., _Answers], data: bytes, seconds: float) -> None:
    time.sleep(seconds)
    for _ in passed_on(data):
        pass


def control(address: str, wanted: dict[str, Any] | None = None) -> dict[str, int]:
    """Tell a proxy what to disturb (None: nothing new); how many calls it has disturbed, by kind. RpcError."""
    with grpc.insecure_channel(address) as channel:
        data = channel.unary_unary(CONTROL)(json.dumps(wanted or {}).encode(), timeout=5.0, wait_for_ready=True)
    counts: dict[str, int] = json.loads(data)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks._faults.proxy", description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, required=True, help="where to listen, on the loopback interface")
    parser.add_argument("--emulator", required=True, metavar="HOST:PORT", help="where the calls go")
    options = parser.parse_args()
    server = grpc.server(ThreadPoolExecutor(64), handlers=[Proxy(options.emulator)], options=_OPTIONS)
    if not server.add_insecure_port(f"127.0.0.1:{options.port}"):
        sys.exit(f"--port={options.port}: is taken")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
