"""What the tables of one process may use together, in bytes as people write them, and the error when it is used up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from monobeam.native import Room

# The largest first, so that the first that divides a number of bytes writes it as its author did.
UNITS = {
    "TiB": 2**40,
    "TB": 10**12,
    "GiB": 2**30,
    "GB": 10**9,
    "MiB": 2**20,
    "MB": 10**6,
    "KiB": 2**10,
    "KB": 10**3,
    "B": 1,
}


class TableFullError(MemoryError):
    """A table that cannot grow; what it holds is unharmed. The message names it, the limit and the key that sets it."""


class TableRoom:
    """Room for tables up to ``limit`` bytes of indices and rows (0: what the machine has), set by a configuration key.

    ``shared`` goes to every native table that is to be within it.
    """

    def __init__(self, limit: int, key: str) -> None:
        self.limit = limit
        self.shared = Room(limit) if limit else None
        self._key = key

    @contextmanager
    def table(self, name: str) -> Iterator[None]:
        """Around whatever makes a table grow: TableFullError where there is no room."""
        try:
            yield
        except MemoryError as error:
            within = (
                f'{self._key} = "{in_units(self.limit)}"' if self.limit else f"this machine ({self._key} is not set)"
            )
            why = str(error).removeprefix("the table is full: ")
            raise TableFullError(f"table {name!r} has no room to grow within {within}: {why}") from error


def in_units(count: int) -> str:
    """A number of bytes with the largest unit that gives a whole number: ``"8GiB"``, ``"500MB"``."""
    unit = next(unit for unit, size in UNITS.items() if count % size == 0 and count >= size)
    return f"{count // UNITS[unit]}{unit}"
