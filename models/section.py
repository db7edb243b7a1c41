"""One table of a TOML file, read key by key, with errors that quote the key and the value."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

_UNITS_US = {"us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h|d)")


class ConfigError(ValueError):
    """A configuration that cannot be used; the message quotes the key and the value and says what is allowed."""


def duration_us(text: object, key: str) -> int:
    """Microseconds of ``"250ms"``, ``"10s"``, ``"1.5h"``, ``"7d"``."""
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ConfigError(
            f'{key} = {text!r}: not a duration; write a number and one of {", ".join(_UNITS_US)}: "250ms"'
        )
    return round(float(match[1]) * _UNITS_US[match[2]])


class Section:
    """Takes typed values out of one table; ``close`` refuses what nobody took, so that no typing error goes unseen."""

    def __init__(self, name: str, values: object) -> None:
        if not isinstance(values, Mapping):
            raise ConfigError(f"{name} = {values!r}: must be a table of keys")
        self.name = name
        self._values = dict(values)
        self._taken: list[str] = []

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def error(self, key: str, value: object, allowed: str) -> ConfigError:
        """An error about one key of this section, to be raised by the caller."""
        return ConfigError(f"{self._path(key)} = {value!r}: {allowed}")

    def string(self, key: str, default: str | None = None) -> str:
        """A string that is not empty."""
        value = self._take(key, default)
        if not isinstance(value, str) or not value:
            raise self.error(key, value, "must be a string that is not empty")
        return value

    def choice(self, key: str, allowed: Sequence[str], default: str | None = None) -> str:
        """One of the allowed strings."""
        value = self._take(key, default)
        if value not in allowed:
            raise self.error(key, value, f"must be one of {', '.join(allowed)}")
        return str(value)

    def integer(self, key: str, default: int | None = None, *, low: int, high: int = 2**63 - 1) -> int:
        """A whole number in [low, high]."""
        value = self._take(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.error(key, value, f"must be a whole number from {low} to {high}")
        return value

    def number(
        self, key: str, default: float | None = None, *, low: float = -math.inf, high: float = math.inf
    ) -> float:
        """A finite number in [low, high]."""
        value = self._take(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.error(key, value, "must be a finite number")
        if not low <= value <= high:
            raise self.error(key, value, f"must lie in [{low}, {high}]")
        return float(value)

    def duration(self, key: str, default: str | None = None) -> int:
        """A duration, in microseconds."""
        return duration_us(self._take(key, default), self._path(key))

    def strings(self, key: str, default: Sequence[str] | None = None) -> tuple[str, ...]:
        """A string, or a list of strings that is not empty."""
        value = self._take(key, default)
        values = (value,) if isinstance(value, str) else value
        if not isinstance(values, list | tuple) or not values or not all(isinstance(v, str) and v for v in values):
            raise self.error(key, value, "must be a string or a list of strings")
        return tuple(values)

    def integers(self, key: str, default: Sequence[int]) -> tuple[int, ...]:
        """A list of whole numbers >= 1; it may be empty."""
        values = self._take(key, default)
        sound = isinstance(values, list | tuple) and all(type(v) is int and v >= 1 for v in values)
        if not sound:
            raise self.error(key, values, "must be a list of whole numbers >= 1")
        return tuple(values)  # type: ignore[arg-type]

    def table(self, key: str) -> Section:
        """A table within this one; empty where it is missing."""
        return Section(self._path(key), self._take(key, {}))

    def tables(self, key: str) -> list[Section]:
        """An array of tables (``[[key]]``); empty where it is missing."""
        values = self._take(key, ())
        if not isinstance(values, list | tuple):
            raise self.error(key, values, f"must be an array of tables: [[{key}]]")
        return [Section(f"{self._path(key)}[{i}]", value) for i, value in enumerate(values)]

    def remaining(self) -> list[str]:
        """The keys that nobody took yet."""
        return [key for key in self._values if key not in self._taken]

    def close(self) -> None:
        """Refuse keys that nobody took."""
        for key in self.remaining():
            allowed = ", ".join(sorted(set(self._taken)))
            raise ConfigError(f"{self._path(key)} = {self._values[key]!r}: unknown key; allowed: {allowed}")

    def _take(self, key: str, default: object) -> object:
        self._taken.append(key)
        value = self._values.get(key, default)
        if value is None:
            raise ConfigError(f"{self._path(key)}: missing")
        return value

    def _path(self, key: str) -> str:
        return f"{self.name}.{key}" if self.name else key
