"""Rows as named numpy columns: what the engine keeps in memory, and when it is due."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Columns = dict[str, npt.NDArray[Any]]
"""Columns of one length by name; ids are object columns of str."""

Rows = npt.NDArray[np.int64]
"""Numbers of rows."""

Layout = Mapping[str, Any]
"""The dtype of every column by name."""

_SLACK = 4096


def height(columns: Columns) -> int:
    """The number of rows."""
    return len(next(iter(columns.values())))


def take(columns: Columns, rows: Any) -> Columns:
    """The rows given by numbers, a mask or a slice."""
    return {name: column[rows] for name, column in columns.items()}


def concat(pieces: Sequence[Columns], layout: Layout) -> Columns:
    """All rows of all pieces, in order; no pieces give no rows."""
    if len(pieces) == 1:
        return pieces[0]
    return {
        name: np.concatenate([piece[name] for piece in pieces]) if pieces else np.empty(0, dtype)
        for name, dtype in layout.items()
    }


class Frame:
    """A queue of rows with numbers that stay: rows are appended, live for a while, and are dropped from the front."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.start = 0
        self.end = 0
        self._columns = {name: np.empty(_SLACK, dtype) for name, dtype in layout.items()}
        self._dead = np.zeros(_SLACK, np.bool_)
        self._alive = 0

    def __len__(self) -> int:
        return self._alive

    def append(self, columns: Columns) -> Rows:
        """Add rows; returns their numbers."""
        count = height(columns)
        self._reserve(count)
        at = self.end - self.start
        for name, column in self._columns.items():
            column[at : at + count] = columns[name]
        self._dead[at : at + count] = False
        rows = np.arange(self.end, self.end + count)
        self.end += count
        self._alive += count
        return rows

    def get(self, name: str, rows: Rows) -> npt.NDArray[Any]:
        """The values of a column in some rows."""
        return self._columns[name][rows - self.start]

    def view(self, name: str) -> npt.NDArray[Any]:
        """A column from row ``start`` on, dead rows included, valid until rows are added."""
        return self._columns[name][: self.end - self.start]

    def set(self, name: str, rows: Rows, values: Any) -> None:
        """Overwrite the values of a column in some rows."""
        self._columns[name][rows - self.start] = values

    def lower(self, name: str, at: tuple[Rows, Any], values: Any) -> None:
        """Lower the values of a column to the given ones where these are smaller."""
        rows, rest = at
        np.minimum.at(self._columns[name], (rows - self.start, rest), values)

    def raise_to(self, name: str, rows: Rows, values: Any) -> None:
        """Raise the values of a column to the given ones where these are greater."""
        np.maximum.at(self._columns[name], rows - self.start, values)

    def take(self, rows: Rows) -> Columns:
        """Copies of some rows."""
        return take(self._columns, rows - self.start)

    def alive(self) -> Rows:
        """The numbers of all rows that have not been dropped."""
        return np.flatnonzero(~self._dead[: self.end - self.start]) + self.start

    def living(self, rows: Rows) -> npt.NDArray[np.bool_]:
        """Which of some rows, that have been there, have not been dropped."""
        living = rows >= self.start
        living[living] = ~self._dead[rows[living] - self.start]
        return living

    def drop(self, rows: Rows) -> None:
        """End the life of some rows; the memory of a dead front is reused."""
        self._dead[rows - self.start] = True
        self._alive -= len(rows)

    def _reserve(self, count: int) -> None:
        used = self.end - self.start
        if used + count <= len(self._dead):
            return
        dead = used if not self._alive else int(np.argmin(self._dead[:used]))
        kept = used - dead
        # Doubling what is alive at the time makes copying amortised O(1) a row.
        capacity = max(2 * kept, kept + count, _SLACK)
        for name, column in self._columns.items():
            grown = np.empty((capacity, *column.shape[1:]), column.dtype)
            grown[:kept] = column[dead:used]
            self._columns[name] = grown
        flags = np.zeros(capacity, np.bool_)
        flags[:kept] = self._dead[dead:used]
        self._dead = flags
        self.start += dead


class Schedule:
    """Rows that become due at times of their own: sorted pieces, of which only those that are due are looked at."""

    def __init__(self, layout: Layout, key: str) -> None:
        self._layout = layout
        self._key = key
        self._pieces: list[tuple[int, int, Columns]] = []
        self._pushed = 0
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def push(self, columns: Columns) -> None:
        """Add rows, in any order."""
        due = columns[self._key]
        if not len(due):
            return
        if np.any(due[1:] < due[:-1]):
            columns = take(columns, np.argsort(due, kind="stable"))
        self._size += len(due)
        self._add(columns)

    def pop(self, before: int) -> Columns:
        """Take out all rows that are due before the time; in order within a piece only."""
        pieces = []
        while self._pieces and self._pieces[0][0] < before:
            _, _, columns = heapq.heappop(self._pieces)
            due = columns[self._key]
            ready = int(np.searchsorted(due, before))
            pieces.append(take(columns, slice(0, ready)))
            self._size -= ready
            if ready < len(due):
                # A copy frees the memory of the rows that are gone, but not more often than it halves the piece.
                rest = take(columns, slice(ready, None))
                base = due.base if due.base is not None else due
                self._add({n: c.copy() for n, c in rest.items()} if 2 * height(rest) < len(base) else rest)
        return concat(pieces, self._layout)

    def first(self) -> int | None:
        """When the next row is due."""
        return self._pieces[0][0] if self._pieces else None

    def all(self) -> Columns:
        """Every row that is not due yet, in the order in which they are due."""
        pieces = sorted(self._pieces, key=lambda piece: piece[:2])
        columns = concat([columns for _, _, columns in pieces], self._layout)
        return take(columns, np.argsort(columns[self._key], kind="stable"))

    def _add(self, columns: Columns) -> None:
        heapq.heappush(self._pieces, (int(columns[self._key][0]), self._pushed, columns))
        self._pushed += 1
