"""The native table beside its peers, and beside what the machine could do: lookups, training, growth, memory, files.

All contestants take turns in every round, each in a process of its own, on the same windows of keys that no cache has
seen lately; keys per CPU-second, one thread each where not said otherwise. Keys are distinct and inserted in an order
shuffled against their popularity, which is uniform or Zipf's of 1.05.

  ours     monobeam.native.Table from Python: an sgd table for lookups ("serving"), an adagrad table for training
  limit    rows of the same stride in 2 MiB pages whose number is known: gathered, or stepped by Adagrad, with prefetch
  tfra     TensorFlow Recommenders Addons' cuckoo table
  fbgemm   table-batched embeddings on the CPU, row numbers given; torch: EmbeddingBag(sparse=True), likewise
  dict     a Python dict to row numbers and np.take
  ..._huge_pages: the same contestant with its memory in huge pages, which ours and the limit ask for themselves and
           these three do not; where there is memory for twins. Goals are against peers as they are installed.

`make peers` installs tfra and fbgemm (7 GB); who is not there is named. Of a train step all keys are present. Files
are made in TMPDIR, which should be on a disk. The last line is JSON.

    python -m benchmarks.table [--rounds 5] [--peers tfra fbgemm torch dict]
    python -m benchmarks.table --large      100 million keys of dim 4 beside the limit: 10 GB of memory, 14 GB of disk
    python -m benchmarks.table --quick      a few seconds without peers, to see that it runs: its figures say little
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks._table import limit, workload
from benchmarks._table.contestant import Settings
from benchmarks._table.measure import Contest, Results, cells
from benchmarks._table.ratios import all_ratios
from benchmarks._table.report import as_json, show

PEERS = ("tfra", "fbgemm", "torch", "dict")
QUICK = {"keys": 100_000, "rounds": 2, "batches": [1024, 4096], "window": 1 << 14, "peers": []}
LARGE = {"keys": 100_000_000, "dim": 4, "rounds": 2, "peers": []}
FILE_ROUNDS = 3


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=10_000_000, help="in every table (default: %(default)s)")
    parser.add_argument("--dim", type=int, default=16, choices=(4, 8, 16, 32), help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--batches", type=int, nargs="+", default=[4096, 16384, 65536], help="(default: %(default)s)")
    parser.add_argument("--window", type=int, default=1 << 20, help="keys of a pass (default: %(default)s)")
    parser.add_argument("--peers", nargs="*", default=PEERS, choices=PEERS, help="(default: all)")
    parser.add_argument("--seed", type=int, default=1)
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--large", dest="preset", action="store_const", const=LARGE, help="presets for other options")
    sizes.add_argument("--quick", dest="preset", action="store_const", const=QUICK, help="presets for other options")
    parser.set_defaults(**(parser.parse_args(argv).preset or {}))
    options = parser.parse_args(argv)
    if not 1 <= options.keys < 2**32:
        parser.error(f"--keys {options.keys}: 1 to 4294967295")
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: at least 1")
    if min(options.batches) < 1 or options.window < 2 * max(options.batches):
        parser.error(f"--batches {options.batches}: from 1 to half of --window {options.window}")
    with tempfile.TemporaryDirectory(prefix="monobeam-table-") as folder:
        print(json.dumps(measure(options, Path(folder))))


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    began = time.perf_counter()
    results = Results(options.keys, options.dim)
    try:
        library = str(limit.compile_to(folder))
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"the limit needs a C++ compiler (CXX, or g++): {error}") from error
    workload.write(folder, options.keys, options.window, options.seed)
    settings = Settings(str(folder), options.keys, options.dim, "", library)
    for table in ("serving", "training"):
        with Contest(table, options.peers, settings, results) as contest:
            contest.build(options.rounds)
            contest.play(cells(table, workload.DISTRIBUTIONS, options.batches), options.rounds)
            if table == "training":
                contest.save_and_load(folder, min(options.rounds, FILE_ROUNDS))
    ratios = all_ratios(results, options.batches)
    seconds = time.perf_counter() - began
    print(f"{options.keys:,} keys, dim {options.dim}, {options.rounds} rounds, passes of {options.window:,} keys")
    show(results, ratios, seconds)
    return {
        "benchmark": "table",
        "keys": options.keys,
        "dim": options.dim,
        "rounds": options.rounds,
        "seconds": round(seconds, 1),
        **as_json(results, ratios),
    }


if __name__ == "__main__":
    main()
