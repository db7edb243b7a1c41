"""A bounded history of figures for charts."""

from __future__ import annotations

from collections.abc import Mapping

MAX_POINTS = 600


class Series:
    """Rows of named figures, one a second at first. When ``max_points`` are reached every second one goes and new
    ones come half as often: the whole run stays in view, in bounded memory.
    """

    def __init__(self, names: tuple[str, ...], max_points: int = MAX_POINTS) -> None:
        self._names = names
        self._max_points = max_points
        self._rows: list[tuple[float | None, ...]] = []
        self._every_s = 1.0
        self._next_s = 0.0

    def due(self, time_s: float) -> bool:
        """Whether a row is wanted now."""
        return time_s >= self._next_s

    def add(self, time_s: float, values: Mapping[str, float | None]) -> None:
        """Take in a row; figures that are not named are missing."""
        self._rows.append((round(time_s, 1), *(_short(values.get(name)) for name in self._names)))
        if len(self._rows) >= self._max_points:
            self._rows = self._rows[1::2]
            self._every_s *= 2
        self._next_s = time_s + self._every_s - 0.05  # a row a little early is better than one a period late

    def columns(self) -> dict[str, list[float | None]]:
        """``time_s`` and every figure, as lists of equal length."""
        columns = zip(*self._rows, strict=True) if self._rows else [()] * (len(self._names) + 1)
        return {name: list(column) for name, column in zip(("time_s", *self._names), columns, strict=True)}


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")
