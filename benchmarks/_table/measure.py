"""Rounds in which all contestants take turns, and what each of them needed."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks._table.contestant import Settings
from benchmarks._table.process import AbsentError, Entry, Process

OURS, LIMIT = Entry("ours", "ours"), Entry("limit", "limit")
OURS_RESERVED = "ours_reserved"  # the same after reserve()
HUGE_PAGES = (("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"),)
TFRA, TFRA_HUGE_PAGES = "tfra", "tfra_huge_pages"
# A table for lookups alone has nothing but the embedding in a row; one for training has the optimizer's state as well.
PEERS = {
    "serving": [
        Entry(TFRA, "tfra", "tfra"),
        Entry(TFRA_HUGE_PAGES, "tfra", "tfra", HUGE_PAGES),
        Entry("dict", "dictionary", threads=1, share=1 / 4),
    ],
    "training": [
        Entry(TFRA, "tfra", "tfra"),
        Entry("fbgemm", "fbgemm", "fbgemm"),
        Entry("torch", "bag"),
    ],
}
OPTIMIZERS = {"serving": "sgd", "training": "adagrad"}


@dataclass(frozen=True)
class Cell:
    """One kind of pass."""

    table: str
    work: str
    distribution: str
    batch: int
    threads: int = 1


Spent = Mapping[str, float]


@dataclass
class Results:
    """Of every contestant and cell a pass for each round; of every file operation likewise."""

    passes: dict[tuple[str, Cell], list[Spent]] = field(default_factory=lambda: defaultdict(list))
    builds: dict[tuple[str, str], list[Spent]] = field(default_factory=lambda: defaultdict(list))
    files: dict[str, list[Spent]] = field(default_factory=lambda: defaultdict(list))
    row_bytes: dict[str, int] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)


def cells(table: str, distributions: Iterable[str], batches: Sequence[int]) -> list[Cell]:
    serving, training = [("lookup", 1), ("lookup", 2), ("take", 1)], [("lookup", 1), ("update", 1), ("train", 1)]
    works = serving if table == "serving" else training
    return [Cell(table, w, d, b, threads) for d in distributions for b in batches for w, threads in works]


class Contest:
    """The contestants over one table, for as long as they are needed."""

    def __init__(self, table: str, peers: Iterable[str], settings: Settings, results: Results) -> None:
        self._table, self._results = table, results
        self._settings = replace(settings, optimizer=OPTIMIZERS[table])
        wanted = [entry for entry in PEERS[table] if entry.name.removesuffix("_huge_pages") in peers]
        self._entries = [OURS, LIMIT, *wanted]
        self._stack = ExitStack()
        self._processes: dict[Entry, Process] = {}

    def __enter__(self) -> Contest:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def build(self, rounds: int) -> None:
        """Start everybody and fill the tables: our training table, which has goals, as often as there are rounds.

        It is filled in memory that is ready as well; the table that stays grew as it came.
        """
        for entry in self._entries:
            say(f"{self._table}: {entry.name} builds")
            try:
                process = self._stack.enter_context(Process(entry, self._settings))
                for _ in range(rounds if entry == OURS and self._table == "training" else 1):
                    if entry == OURS and self._table == "training":
                        self._results.builds[OURS_RESERVED, self._table].append(process.call("build_reserved"))
                    self._results.builds[entry.name, self._table].append(process.call("build"))
            except AbsentError as absent:
                if entry == OURS:
                    raise
                self._results.absent[f"{entry.name}, {self._table}"] = str(absent)
                say(f"{self._table}: {entry.name} is absent: {absent}")
                continue
            self._processes[entry] = process
        self._results.row_bytes[self._table] = self._processes[OURS].call("row_bytes")

    def play(self, cells: Sequence[Cell], rounds: int) -> None:
        for number in range(rounds):
            say(f"{self._table}: round {number + 1} of {rounds}")
            for i, cell in enumerate(cells):
                # Nobody finds what another, or the last pass, left in the caches.
                window = number * len(cells) + i
                for entry, process in self._processes.items():
                    if cell.work in process.works and cell.threads <= entry.threads:
                        self._results.passes[entry.name, cell].append(
                            process.call(
                                "run",
                                work=cell.work,
                                distribution=cell.distribution,
                                window=window,
                                batch=cell.batch,
                                threads=cell.threads,
                                share=entry.share,
                            )
                        )

    def save_and_load(self, folder: Path, rounds: int) -> None:
        """Beside as many bytes from memory to memory, to the disk and from the page cache."""
        ours, limit, files = self._processes[OURS], self._processes.get(LIMIT), self._results.files
        table, plain = folder / "saved.table", folder / "plain"
        for number in range(rounds):
            say(f"{self._table}: save and load, {number + 1} of {rounds}")
            files["save"].append(ours.call("save", _Written(folder), path=str(table)))
            size = int(files["save"][-1]["bytes"])
            files["load"].append(ours.call("load", _Read(ours, size), path=str(table)))
            if limit is not None:
                files["write"].append(limit.call("write", path=str(plain), bytes=size))
                files["read"].append(limit.call("read", path=str(table)))
                files["copy"].append(limit.call("copy", bytes=size))
                plain.unlink()
            table.unlink()


class _Written:
    """Says how much there is of the files that are new in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._before = folder, set(folder.iterdir())

    def __call__(self) -> None:
        size = sum(path.stat().st_size for path in set(self._folder.iterdir()) - self._before)
        say(f"  save: {size / 1e9:.1f} GB written")


class _Read:
    """Says how much of a file a process has read, and made of it."""

    def __init__(self, process: Process, size: int) -> None:
        self._process, self._size, self._before = process, size, process.bytes_read()

    def __call__(self) -> None:
        size = min(self._process.bytes_read() - self._before, self._size)
        held = self._process.anonymous_bytes()
        say(f"  load: {size / 1e9:.1f} of {self._size / 1e9:.1f} GB read, {held / 1e9:.1f} GB in memory")


def say(what: str) -> None:
    """How far it is, for people: not among the results."""
    print(what, file=sys.stderr, flush=True)
