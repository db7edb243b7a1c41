"""Rows from a shard server beside the same bytes over bare Arrow Flight, and beside a store in process.

All take turns in every round; a figure is the median over the rounds, in microseconds of wall time. A pull asks for
rows of distinct ids, each in a bag of its own, that the server has.

  pull, push      FlightStore to one server in a process of its own; a push is waited for
  bare call       a do_get of a server that has the answer ready; the ids are its ticket
  bare stream     a do_exchange with it that stays open, as FlightStore's does
  in process      Store

The goal is a pull within 2 times a bare call. The last line is JSON.

    python -m benchmarks.shards [--rows 10000] [--dim 16] [--shards 1] [--rounds 300]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import flight

from monobeam.store.bags import Bags
from monobeam.store.flight_store import FlightStore
from monobeam.store.heap import keep_freed_memory
from monobeam.store.memory import MemoryBackend
from monobeam.store.spec import StoreSpec, TableSpec
from monobeam.store.store import Store
from monobeam.store.wire import SCHEMA, Message, encode

GOAL = 2.0
WARM_UP = 20
ROOT = Path(__file__).parents[1]
NAMES = {
    "pull": "pull",
    "push": "push",
    "bare_call": "bare call",
    "bare_stream": "bare stream",
    "pull_in_process": "pull in process",
    "push_in_process": "push in process",
}


class Bare(flight.FlightServerBase):  # type: ignore[misc]
    """Answers everything with the same rows."""

    def __init__(self, rows: int, dim: int) -> None:
        super().__init__("grpc://127.0.0.1:0")
        self._answer = encode(Message({"pull": 1}, (np.ones((rows, dim), np.float32),)))

    def do_get(self, context: Any, ticket: Any) -> Any:
        return flight.RecordBatchStream(pa.RecordBatchReader.from_batches(SCHEMA, [self._answer[0]]))

    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        writer.begin(SCHEMA)
        for _ in reader:
            writer.write_with_metadata(*self._answer)


class BareStream:
    """One do_exchange to a bare server."""

    def __init__(self, client: flight.FlightClient, request: Any) -> None:
        self._writer, self._reader = client.do_exchange(flight.FlightDescriptor.for_path("bare"))
        self._writer.begin(SCHEMA)
        self._request = request

    def ask(self) -> None:
        self._writer.write_with_metadata(*self._request)
        self._reader.read_chunk()

    def close(self) -> None:
        self._writer.done_writing()
        for _ in self._reader:
            pass
        self._writer.close()


def started(*command: str) -> tuple[subprocess.Popen[str], str]:
    """A server as a process, and what it says first."""
    process = subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def measure(rows: int, dim: int, shards: int, rounds: int) -> dict[str, float]:
    """Medians by name, in microseconds."""
    spec = StoreSpec("benchmark", (TableSpec("t", dim, "adagrad", 0.1),), shards)
    keys = np.random.default_rng(1).permutation(np.arange(1, rows + 1, dtype=np.uint64))
    bags = Bags(keys, np.arange(rows + 1, dtype=np.int64))
    gradients = np.ones((rows, dim), np.float32)
    server, uri = started("monobeam.store.server", f"--shards=0-{shards - 1}", "--store=memory:")
    bare, place = started("benchmarks.shards", "--bare", "--rows", str(rows), "--dim", str(dim))
    try:
        there, here = FlightStore(spec, uri), Store(spec, MemoryBackend())
        client = flight.connect(place)
        stream = BareStream(client, encode(Message({"method": "pull"}, (bags.keys, bags.offsets))))
        ticket = flight.Ticket(bags.keys.tobytes() + bags.offsets.tobytes())

        def call() -> None:
            client.do_get(ticket).read_all()

        def push(store: FlightStore | Store) -> Callable[[], None]:
            pulled = store.pull("t", bags, 1)

            def push_and_wait() -> None:
                store.push(pulled, gradients)
                store._settle()

            return push_and_wait

        turns: dict[str, Callable[[], Callable[[], object]]] = {
            "pull": lambda: lambda: there.pull("t", bags, 1),
            "push": lambda: push(there),
            "bare_call": lambda: call,
            "bare_stream": lambda: stream.ask,
            "pull_in_process": lambda: lambda: here.pull("t", bags, 1),
            "push_in_process": lambda: push(here),
        }
        times: dict[str, list[float]] = {name: [] for name in turns}
        for _ in range(WARM_UP + rounds):
            for name, prepare in turns.items():
                times[name].append(_seconds(prepare()))
        stream.close()
        there.close()
        return {name: 1e6 * statistics.median(taken[WARM_UP:]) for name, taken in times.items()}
    finally:
        for process in (server, bare):
            process.kill()
            process.communicate()


def _seconds(do: Callable[[], object]) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000, help="of a pull (default: %(default)s)")
    parser.add_argument("--dim", type=int, default=16, help="(default: %(default)s)")
    parser.add_argument("--shards", type=int, default=1, help="in the one server (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=300, help="(default: %(default)s)")
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    for name in ("rows", "dim", "shards", "rounds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} {getattr(options, name)}: at least 1")
    keep_freed_memory()
    if options.bare:
        bare = Bare(options.rows, options.dim)
        print(f"grpc://127.0.0.1:{bare.port}", flush=True)
        bare.serve()
        return
    found = measure(options.rows, options.dim, options.shards, options.rounds)
    print(f"{options.rows:,} rows of dim {options.dim}, {options.shards} shards, {options.rounds} rounds; microseconds")
    for name, shown in NAMES.items():
        print(f"  {shown:16} {found[name]:8.0f}")
    ratio, to_stream = found["pull"] / found["bare_call"], found["pull"] / found["bare_stream"]
    print(f"a pull takes {ratio:.2f} times a bare call (goal: at most {GOAL:g}), {to_stream:.2f} times one on a stream")
    result = {"benchmark": "shards", "rows": options.rows, "dim": options.dim, "shards": options.shards}
    figures = {f"{name}_us": round(value, 1) for name, value in found.items()}
    ratios = {"ratio": round(ratio, 2), "ratio_to_open_stream": round(to_stream, 2), "goal_met": ratio <= GOAL}
    print(json.dumps({**result, **figures, **ratios}))


if __name__ == "__main__":
    main()
