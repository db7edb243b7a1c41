"""Impressions with eight features, and clicks on some of them, as Avro datums made by the hundred thousand.

Every datum of a log has the same length, as numbers are drawn from ranges that take the same number of bytes each: so a
run of datums is a matrix of bytes that numpy fills column by column.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

MICROS = {"type": "long", "logicalType": "timestamp-micros"}
# What of each there is; drawn with a Zipf-like skew.
NAMED = {"user": 200_000, "item": 50_000}
NUMBERED = {"category": 1_000, "shop": 20_000, "country": 200, "device": 40, "hour": 24, "page": 3_000}
FEATURES = (*NAMED, *NUMBERED)
IMPRESSIONS: dict[str, Any] = {
    "type": "record",
    "name": "Shown",
    "fields": [
        {"name": "impression_id", "type": "string"},
        {"name": "time", "type": MICROS},
        *({"name": name, "type": "string"} for name in NAMED),
        *({"name": name, "type": "long"} for name in NUMBERED),
    ],
}
ACTIONS: dict[str, Any] = {
    "type": "record",
    "name": "Clicked",
    "fields": [
        {"name": "impression_id", "type": "string"},
        {"name": "time", "type": MICROS},
        {"name": "ingest_time", "type": MICROS},
        {"name": "type", "type": "string"},
    ],
}
CLICKED = 0.1  # of the impressions, on the average
ID_DIGITS, NAME_DIGITS = 11, 7
_SMALLEST = 1 << 13  # three bytes from here to 2^20

Numbers = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Run:
    """Datums in order of time: ``times`` int64[N] in microseconds, and the datums, of the same length each."""

    times: Numbers
    datums: Bytes

    def messages(self) -> Iterator[bytes]:
        """One datum each."""
        joined, size = self.datums.tobytes(), self.datums.shape[1]
        return (joined[at : at + size] for at in range(0, len(joined), size))


class Traffic:
    """An endless stream from a seed; ``window_us``: clicks come within so long of their impression."""

    def __init__(self, seed: int, window_us: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._window_us = window_us
        self._next = 0

    def draw(self, times: Numbers) -> tuple[Run, Run]:
        """Impressions at these times, and the clicks that they get, which are in order of time, too."""
        count, rng = len(times), self._rng
        numbers = np.arange(self._next, self._next + count)
        self._next += count
        drawn = {name: self._skewed(size, count) for name, size in (NAMED | NUMBERED).items()}
        shown = [_text("", numbers, ID_DIGITS), _long(times, 8)]
        shown += [_text(name[0], drawn[name], NAME_DIGITS) for name in NAMED]
        shown += [_long(_SMALLEST + drawn[name], 3) for name in NUMBERED]
        likely = CLICKED * (0.5 + (drawn["item"] + drawn["user"]) % 4 / 3)  # something to be learned
        clicked = np.flatnonzero(rng.random(count) < likely)
        at = times[clicked] + rng.integers(1, self._window_us, len(clicked))
        order = np.argsort(at, kind="stable")
        clicked, at = clicked[order], at[order]
        done = [_text("", numbers[clicked], ID_DIGITS), _long(at, 8), _long(at, 8)]
        done.append(np.broadcast_to(np.frombuffer(b"\x0aclick", np.uint8), (len(at), 6)))
        return Run(times, np.hstack(shown)), Run(at, np.hstack(done))

    def _skewed(self, size: int, count: int) -> Numbers:
        """Ranks: density falls as one over the square root of the rank."""
        return (self._rng.random(count) ** 2 * size).astype(np.int64)


def _text(prefix: str, numbers: Numbers, digits: int) -> Bytes:
    """A string: what it begins with, and so many digits."""
    head = np.frombuffer(bytes([2 * (len(prefix) + digits)]) + prefix.encode(), np.uint8)
    powers = 10 ** np.arange(digits - 1, -1, -1)
    body = (numbers[:, None] // powers % 10 + ord("0")).astype(np.uint8)
    return np.hstack([np.broadcast_to(head, (len(numbers), len(head))), body])


def _long(numbers: Numbers, size: int) -> Bytes:
    """A zigzag varint of so many bytes; numbers that take another number of bytes are an error of ours."""
    zigzag = numbers << 1
    assert not len(numbers) or (zigzag.min() >> 7 * (size - 1) > 0 and zigzag.max() >> 7 * size == 0)
    body = (zigzag[:, None] >> 7 * np.arange(size)) & 127
    body[:, :-1] |= 128
    return body.astype(np.uint8)
