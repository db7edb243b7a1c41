"""Rounds in which all contestants take turns, and what each of them needed."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks._table.contestant import Settings, available_bytes
from benchmarks._table.process import AbsentError, Entry, Process

OURS, LIMIT = Entry("ours", "ours"), Entry("limit", "limit")
OURS_RESERVED = "ours_reserved"  # the same after reserve()
# Of malloc, and of torch's own, which aligns to them. What installs a peer does not set them.
HUGE_PAGES = (("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"), ("THP_MEM_ALLOC_ENABLE", "1"))
_HUGE_PAGES = "_huge_pages"


def with_huge_pages(entry: Entry) -> Entry:
    """The twin whose memory is in huge pages, as ours and the limit's is."""
    return replace(entry, name=entry.name + _HUGE_PAGES, variables=HUGE_PAGES)


_TFRA = Entry("tfra", "tfra", "tfra")
_FBGEMM, _TORCH = Entry("fbgemm", "fbgemm", "fbgemm"), Entry("torch", "bag")
TFRA, TFRA_HUGE_PAGES = _TFRA.name, with_huge_pages(_TFRA).name
# A table for lookups alone has nothing but the embedding in a row; one for training has the optimizer's state as well.
PEERS = {
    "serving": [_TFRA, with_huge_pages(_TFRA), Entry("dict", "dictionary", threads=1, share=1 / 4)],
    "training": [twin for peer in (_TFRA, _FBGEMM, _TORCH) for twin in (peer, with_huge_pages(peer))],
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

    keys: int = 0
    dim: int = 0
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
    """The contestants over one table, for as long as they are needed; ``processes`` are of those that are there."""

    def __init__(self, table: str, peers: Iterable[str], settings: Settings, results: Results) -> None:
        self._table, self._results = table, results
        self._settings = replace(settings, optimizer=OPTIMIZERS[table])
        wanted = [entry for entry in PEERS[table] if entry.name.removesuffix(_HUGE_PAGES) in peers]
        self._entries = [OURS, LIMIT, *wanted]
        self._stack = ExitStack()
        self.processes: dict[Entry, Process] = {}

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
            with self._or_absent(entry):
                for twin in (process for peer, process in self.processes.items() if with_huge_pages(peer) == entry):
                    refuse_crowd(twin.anonymous_bytes(), available_bytes())
                process = self._stack.enter_context(Process(entry, self._settings))
                self.processes[entry] = process
                goals = entry == OURS and self._table == "training"
                for _ in range(rounds if goals else 1):
                    if goals:
                        self._results.builds[OURS_RESERVED, self._table].append(process.call("build_reserved"))
                    self._results.builds[entry.name, self._table].append(process.call("build"))
        self._results.row_bytes[self._table] = self.processes[OURS].call("row_bytes")

    @contextmanager
    def _or_absent(self, entry: Entry) -> Iterator[None]:
        """Whoever ends before it answers takes its passes along, and the others go on without it; but for us."""
        try:
            yield
        except AbsentError as absent:
            if entry == OURS:
                raise
            self._results.absent[f"{entry.name}, {self._table}"] = str(absent)
            say(f"{self._table}: {entry.name} is absent: {absent}")
            self.processes.pop(entry, None)
            for name, cell in [*self._results.passes]:
                if (name, cell.table) == (entry.name, self._table):
                    del self._results.passes[name, cell]

    def play(self, cells: Sequence[Cell], rounds: int) -> None:
        """Rounds of passes; in each round another contestant comes first."""
        for number in range(rounds):
            say(f"{self._table}: round {number + 1} of {rounds}")
            for i, cell in enumerate(cells):
                # Nobody finds what another, or the last pass, left in the caches.
                window = number * len(cells) + i
                for entry in rotated(list(self.processes), number):
                    if cell.work in self.processes[entry].works and cell.threads <= entry.threads:
                        with self._or_absent(entry):
                            self._pass(entry, cell, window)

    def _pass(self, entry: Entry, cell: Cell, window: int) -> None:
        spent = self.processes[entry].call(
            "run",
            work=cell.work,
            distribution=cell.distribution,
            window=window,
            batch=cell.batch,
            threads=cell.threads,
            share=entry.share,
        )
        self._results.passes[entry.name, cell].append(spent)

    def save_and_load(self, folder: Path, rounds: int) -> None:
        """Beside as many bytes from memory to memory, to the disk and from the page cache."""
        ours, files = self.processes[OURS], self._results.files
        table = folder / "saved.table"
        for number in range(rounds):
            say(f"{self._table}: save and load, {number + 1} of {rounds}")
            files["save"].append(ours.call("save", _Written(folder), path=str(table)))
            size = int(files["save"][-1]["bytes"])
            files["load"].append(ours.call("load", _Read(ours, size), path=str(table)))
            with self._or_absent(LIMIT):
                self._limit_of_files(table, size)
            table.unlink()
        if LIMIT not in self.processes:
            for what in ("write", "read", "copy"):
                files.pop(what, None)

    def _limit_of_files(self, table: Path, size: int) -> None:
        if LIMIT not in self.processes:
            return
        limit, plain, files = self.processes[LIMIT], table.with_name("plain"), self._results.files
        files["write"].append(limit.call("write", path=str(plain), bytes=size))
        plain.unlink()
        files["read"].append(limit.call("read", path=str(table)))
        files["copy"].append(limit.call("copy", bytes=size))


def refuse_crowd(held: int, available: int) -> None:
    """A twin of a contestant that holds so many bytes comes only where there is memory for it, and for its start."""
    if available < 1.5 * held:
        raise AbsentError(f"its twin holds {held / 1e9:.1f} GB, and {available / 1e9:.1f} GB are left")


def rotated(entries: Sequence[Entry], by: int) -> list[Entry]:
    first = by % len(entries)
    return [*entries[first:], *entries[:first]]


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
