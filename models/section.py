"""One table of a TOML file, read key by key, with errors that quote the key and the value as the user wrote them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence

from monobeam.store.room import UNITS, in_units

_UNITS_US = {"us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
_DURATION = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)(us|ms|s|m|h|d)")
_SIZE = re.compile(rf"(\d{{1,18}}(?:\.\d{{1,18}})?)({'|'.join(UNITS)})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
LONGEST = "36500d"  # a century: whatever is added to a time of today stays a time
LARGEST = 2**60
TINIEST, GREATEST = 2.0**-126, (2 - 2.0**-23) * 2.0**127  # of float32; what is smaller counts as 0 while training


class ConfigError(ValueError):
    """A configuration that cannot be used; the message quotes the key and the value and says what is allowed."""


def duration_us(text: object, key: str, low: str = "0s") -> int:
    """Microseconds of ``"250ms"``, ``"10s"``, ``"1.5h"``, ``"7d"``; from ``low`` to a century."""
    found = _microseconds(text)
    if found is None:
        units = ", ".join(_UNITS_US)
        raise ConfigError(f'{key} = {quoted(text)}: not a duration; write a number and one of {units}: "250ms"')
    if not (_microseconds(low) or 0) <= found <= (_microseconds(LONGEST) or 0):
        raise ConfigError(f'{key} = {quoted(text)}: must be from "{low}" to "{LONGEST}"')
    return found


def _microseconds(text: object) -> int | None:
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    return None if match is None else round(float(match[1]) * _UNITS_US[match[2]])


def size_bytes(text: object, key: str) -> int:
    """Bytes of ``"8GiB"``, ``"500MB"``, ``"1.5GB"``; from 1 to LARGEST."""
    match = _SIZE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        units = ", ".join(reversed(UNITS))
        raise ConfigError(f'{key} = {quoted(text)}: not a size; write a number and one of {units}: "8GiB"')
    found = round(float(match[1]) * UNITS[match[2]])
    if not 1 <= found <= LARGEST:
        raise ConfigError(f'{key} = {quoted(text)}: must be from "1B" to "{in_units(LARGEST)}"; without it: no limit')
    return found


def quoted(value: object) -> str:
    """A value as TOML writes it, in one line."""
    if isinstance(value, str | bool):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(quoted, value))}]"
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{key} = {quoted(item)}' for key, item in value.items())} }}"
    return str(value)


class Section:
    """Takes typed values out of one table; ``close`` refuses what nobody took, so that no typing error goes unseen."""

    def __init__(self, name: str, values: object) -> None:
        if not isinstance(values, Mapping):
            raise ConfigError(f"{name} = {quoted(values)}: must be a table of keys: [{name}]")
        self.name = name
        self._values = dict(values)
        self._known: dict[str, object] = {}

    def __contains__(self, key: str) -> bool:
        self._known.setdefault(key, None)
        return key in self._values

    def error(self, key: str, allowed: str) -> ConfigError:
        """An error about one key of this section, to be raised by the caller."""
        return ConfigError(f"{self._path(key)} = {self.quoted(key)}: {allowed}")

    def quoted(self, key: str) -> str:
        """The value of a key as the file writes it, or its default."""
        return quoted(self._values.get(key, self._known.get(key)))

    def string(self, key: str, default: str | None = None) -> str:
        """A string that is not empty and has no control characters, such as newlines."""
        value = self._take(key, default)
        if not _is_text(value):
            raise self.error(key, "must be a string that is not empty and has no newlines")
        return str(value)

    def choice(self, key: str, allowed: Sequence[str], default: str | None = None) -> str:
        """One of the allowed strings."""
        value = self._take(key, default)
        if value not in allowed:
            raise self.error(key, f"must be one of {', '.join(allowed)}")
        return str(value)

    def integer(self, key: str, default: int | None = None, *, low: int, high: int = 2**63 - 1) -> int:
        """A whole number in [low, high]."""
        value = self._take(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.error(key, f"must be a whole number from {low} to {high}")
        return value

    def number(
        self, key: str, default: float | None = None, *, low: float = -math.inf, high: float = math.inf
    ) -> float:
        """A number in [low, high] that float32 holds, as it is computed with there: finite, and 0 only if it is 0."""
        value = self._take(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not _in_float32(value):
            raise self.error(
                key, f"must be a finite number that float32 holds: 0, or from {TINIEST:.2g} to {GREATEST:.2g} in size"
            )
        if not low <= value <= high:
            raise self.error(
                key, f"must be at least {low:g}" if high == math.inf else f"must lie in [{low:g}, {high:g}]"
            )
        return float(value)

    def boolean(self, key: str, default: bool | None = None) -> bool:
        """True or false."""
        value = self._take(key, default)
        if not isinstance(value, bool):
            raise self.error(key, "must be true or false")
        return value

    def duration(self, key: str, default: str | None = None, *, low: str = "0s") -> int:
        """A duration, in microseconds, from ``low`` to a century."""
        return duration_us(self._take(key, default), self._path(key), low)

    def size(self, key: str) -> int:
        """A size in bytes; 0 where it is missing."""
        return size_bytes(self._take(key, None), self._path(key)) if key in self else 0

    def strings(self, key: str, default: Sequence[str] | None = None) -> tuple[str, ...]:
        """A string, or a list of strings that is not empty."""
        value = self._take(key, default)
        values = (value,) if isinstance(value, str) else value
        if not isinstance(values, list | tuple) or not values or not all(map(_is_text, values)):
            raise self.error(key, "must be a string, or a list of strings, that are not empty and have no newlines")
        return tuple(values)

    def integers(self, key: str, default: Sequence[int], *, high: int) -> tuple[int, ...]:
        """A list of whole numbers in [1, high]; it may be empty."""
        values = self._take(key, default)
        if not isinstance(values, list | tuple) or not all(type(v) is int and 1 <= v <= high for v in values):
            raise self.error(key, f"must be a list of whole numbers from 1 to {high}")
        return tuple(values)

    def table(self, key: str) -> Section:
        """A table within this one; empty where it is missing."""
        return Section(self._path(key), self._take(key, {}))

    def tables(self, key: str) -> list[Section]:
        """An array of tables (``[[key]]``); empty where it is missing."""
        values = self._take(key, ())
        if not isinstance(values, list | tuple):
            raise self.error(key, f"must be an array of tables: [[{key}]]")
        return [Section(f"{self._path(key)}[{i}]", value) for i, value in enumerate(values)]

    def known(self) -> list[str]:
        """Every key that was asked for, there or not."""
        return sorted(self._known)

    def close(self) -> None:
        """Refuse keys that nobody asked for."""
        for key in self._values:
            if key not in self._known:
                raise self.error(key, f"unknown key; allowed: {', '.join(self.known())}")

    def _take(self, key: str, default: object) -> object:
        self._known[key] = default
        value = self._values.get(key, default)
        if value is None:
            there = f"; there is {', '.join(self._values)}" if self._values else ""
            raise ConfigError(f"{self._path(key)}: missing{there}")
        return value

    def _path(self, key: str) -> str:
        return f"{self.name}.{key}" if self.name else key


def _in_float32(value: float) -> bool:
    return value == 0 or TINIEST <= abs(value) <= GREATEST


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != "" and not _CONTROL.search(value)
