"""Rows written and scanned by one process on Bigtable's emulator, beside Google's client library in the same run.

In every round the contestants take turns, another one first each time, and each gets a table of its own that nobody
has used. Ours is what a commit of the store takes, with its checksums, leases and rows of ids; the client library
writes the same rows in the three ways it has, and reads them in the two. A ratio is taken within a round, to the
library's fastest way in that round; medians over the rounds count. Speed is rows per second of elapsed time, the
emulator's own work included, which has the other core.

    python -m benchmarks.bigtable [--rows 100000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC
from typing import Any

import numpy as np

from examples import emulators
from examples.installed import MissingError
from monobeam.store.backend import Commit, SeenKeys, ShardCommit
from monobeam.store.bags import Keys, shard_of
from monobeam.store.bigtable import BigtableBackend, create, drop
from monobeam.store.bigtable.client import Address
from monobeam.store.bigtable.rows import Moment
from monobeam.store.bigtable.wire import COLUMN, ROWS, parameter_keys
from monobeam.store.changes import NO_KEYS, Change, Rows
from monobeam.store.manifest import Manifest

GOALS = {"rows_written_per_second": 100_000, "rows_scanned_per_second": 30_000, "ratio_to_client_library": 5}
DIM, SHARDS = 16, 4
ROW_BYTES = 2 * 4 * DIM + 16  # with Adagrad's state
TABLE = "embeddings"
PER_REQUEST = 1000
SHARE = 4  # the library gets one row of so many, to take about as long

Writer = Callable[[str, Keys, Rows], None]
Seconds = dict[str, list[float]]


def emulator() -> AbstractContextManager[str]:
    """Whatever BIGTABLE_EMULATOR_HOST names, or one of our own for as long."""
    if given := os.environ.get(emulators.BIGTABLE_HOST):
        return nullcontext(given)
    try:
        return emulators.bigtable()
    except MissingError as missing:
        sys.exit(str(missing))


# --- who writes ------------------------------------------------------------------------------------------------------


def ours(uri: str, keys: Keys, rows: Rows) -> None:
    """One commit."""
    backend = BigtableBackend(uri)
    backend.own(range(SHARDS))
    shards = shard_of(keys, SHARDS)
    changes = (Change(keys[shards == shard], rows[shards == shard], NO_KEYS) for shard in range(SHARDS))
    commits = [ShardCommit(1000, {TABLE: change}) for change in changes]
    fingerprint = {"model": "m", "shards": SHARDS, "tables": {TABLE: {"dim": DIM}}}
    manifest = Manifest(fingerprint, (1000,) * SHARDS, {0: 1}, 0, 1)
    backend.commit(Commit(manifest, commits, SeenKeys(NO_KEYS, np.empty(0, np.uint32)), 0))
    backend.close()


def _entries(keys: Keys, rows: Rows) -> Iterator[Any]:
    from google.cloud.bigtable.data import RowMutationEntry, SetCell

    for key, row in zip(parameter_keys(TABLE, keys), rows, strict=True):
        yield RowMutationEntry(key.tobytes(), SetCell(ROWS, COLUMN, row.tobytes(), timestamp_micros=1_000_000))


def data_bulk(uri: str, keys: Keys, rows: Rows) -> None:
    """The data client, a thousand rows a call."""
    with _data_table(uri) as table:
        for at in range(0, len(keys), PER_REQUEST):
            table.bulk_mutate_rows(list(_entries(keys[at : at + PER_REQUEST], rows[at : at + PER_REQUEST])))


def data_batcher(uri: str, keys: Keys, rows: Rows) -> None:
    """The data client's batcher, which has several requests in flight."""
    with _data_table(uri) as table, table.mutations_batcher(flush_limit_mutation_count=PER_REQUEST) as batcher:
        for entry in _entries(keys, rows):
            batcher.append(entry)


def classic(uri: str, keys: Keys, rows: Rows) -> None:
    """The older client, a thousand rows a call."""
    from datetime import datetime

    table = _classic_table(uri)
    at_1_s = datetime.fromtimestamp(1, UTC)
    written = []
    for key, row in zip(parameter_keys(TABLE, keys), rows, strict=True):
        written.append(table.direct_row(key.tobytes()))
        written[-1].set_cell(ROWS, COLUMN, row.tobytes(), timestamp=at_1_s)
    for at in range(0, len(written), PER_REQUEST):
        table.mutate_rows(written[at : at + PER_REQUEST])


@contextmanager
def _data_table(uri: str) -> Iterator[Any]:
    from google.cloud.bigtable.data import BigtableDataClient

    address = Address.parse(uri)
    with BigtableDataClient(project=address.project) as client:
        yield client.get_table(address.instance, address.table)


def _classic_table(uri: str) -> Any:
    from google.cloud.bigtable import Client

    address = Address.parse(uri)
    return Client(project=address.project).instance(address.instance).table(address.table)


WRITERS: Mapping[str, Writer] = {"ours": ours, "data_bulk": data_bulk, "data_batcher": data_batcher, "classic": classic}


# --- who reads -------------------------------------------------------------------------------------------------------


def scan_ours(uri: str) -> int:
    backend = BigtableBackend(uri)
    return sum(len(block.keys) for shard in range(SHARDS) for block in backend.load(shard).blocks)


def scan_data(uri: str) -> int:
    from google.cloud.bigtable.data import ReadRowsQuery, RowRange

    query = ReadRowsQuery(row_ranges=[RowRange(b"r", b"s")])
    with _data_table(uri) as table:
        return sum(1 for _ in table.read_rows_stream(query))


def scan_classic(uri: str) -> int:
    return sum(1 for _ in _classic_table(uri).read_rows(start_key=b"r", end_key=b"s"))


READERS: Mapping[str, Callable[[str], int]] = {"ours": scan_ours, "data": scan_data, "classic": scan_classic}


def get_ours(uri: str, keys: Keys) -> int:
    backend = BigtableBackend(uri)
    whole = Moment(0, 1 << 16, 1000, ())
    return len(whole.get(backend._client, TABLE, keys).keys)


# --- rounds ----------------------------------------------------------------------------------------------------------


def measure(count: int, rounds: int) -> tuple[Seconds, Seconds, list[float]]:
    """Rows per second of every writer and reader in every round, and those of our multi-gets."""
    writes: Seconds = {name: [] for name in WRITERS}
    reads: Seconds = {name: [] for name in READERS}
    gets = []
    for number in range(rounds):
        rng = np.random.default_rng(number)
        keys = np.unique(rng.integers(0, 2**63, count).astype(np.uint64))
        rows = rng.integers(0, 256, (len(keys), ROW_BYTES)).astype(np.uint8)
        uris = {name: f"bigtable://project/instance/{name}-{number}" for name in WRITERS}
        for name in _turns(WRITERS, number):
            create(uris[name])
            some = slice(0, None if name == "ours" else len(keys) // SHARE)
            spent, _ = _timed(lambda: WRITERS[name](uris[name], keys[some], rows[some]))  # noqa: B023
            writes[name].append(len(keys[some]) / spent)
        for name in _turns(READERS, number):
            uri = uris["ours" if name == "ours" else "data_bulk"]
            spent, found = _timed(lambda: READERS[name](uri))  # noqa: B023
            assert found == len(keys) // (1 if name == "ours" else SHARE), (name, found)
            reads[name].append(found / spent)
        asked = rng.choice(keys, len(keys) // SHARE, replace=False)
        spent, found = _timed(lambda: get_ours(uris["ours"], asked))  # noqa: B023
        assert found == len(asked)
        gets.append(found / spent)
        for uri in uris.values():
            drop(uri)
    return writes, reads, gets


def _turns(contestants: Mapping[str, Any], number: int) -> list[str]:
    names = list(contestants)
    first = number % len(names)
    return names[first:] + names[:first]


def _timed(do: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = do()
    return time.perf_counter() - began, result


def summary(writes: Seconds, reads: Seconds, gets: Sequence[float]) -> dict[str, Any]:
    """The figures of the last line."""
    figures: dict[str, Any] = {
        "rows_written_per_second": round(statistics.median(writes["ours"])),
        "rows_scanned_per_second": round(statistics.median(reads["ours"])),
        "rows_got_per_second": round(statistics.median(gets)),
        "ratio_to_client_library": round(_ratio(writes), 2),
        "scan_ratio_to_client_library": round(_ratio(reads), 2),
        "client_library_written_per_second": {n: round(statistics.median(v)) for n, v in writes.items() if n != "ours"},
        "client_library_scanned_per_second": {n: round(statistics.median(v)) for n, v in reads.items() if n != "ours"},
    }
    figures["goals"] = {name: {"at_least": goal, "met": figures[name] >= goal} for name, goal in GOALS.items()}
    return figures


def _ratio(speeds: Seconds) -> float:
    library = [max(speeds[name][number] for name in speeds if name != "ours") for number in range(len(speeds["ours"]))]
    return statistics.median(ours / fastest for ours, fastest in zip(speeds["ours"], library, strict=True))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="of a commit (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    options = parser.parse_args(argv)
    if options.rows < 100 or options.rounds < 1:
        parser.error(f"--rows {options.rows} --rounds {options.rounds}: must be at least 100 and 1")
    print(f"{options.rows:,} rows of {ROW_BYTES} bytes a commit, {options.rounds} rounds; rows per second", flush=True)
    warnings.filterwarnings("ignore", "Connecting to Bigtable emulator", RuntimeWarning)
    with emulator():
        writes, reads, gets = measure(options.rows, options.rounds)
    for what, speeds in (("written by", writes), ("scanned by", reads), ("multi-gets of", {"ours": gets})):
        for name, values in speeds.items():
            print(f"{what:<14}{name:<14}{statistics.median(values):>10,.0f}   {min(values):,.0f} to {max(values):,.0f}")
    print(json.dumps(summary(writes, reads, gets)))


if __name__ == "__main__":
    main()
