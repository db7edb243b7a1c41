"""Restrictions of log readers: ranges of offsets that are only ever cut where their reader stands.

The order within a partition carries meaning, so a runner may checkpoint a reader but not hand the rest of its work to
a second one at the same time.
"""

from __future__ import annotations

from dataclasses import dataclass

from apache_beam.io.iobase import RestrictionProgress, RestrictionTracker

END_OF_TIME = 1 << 62
"""Stop offset of a tailed partition."""


@dataclass(frozen=True)
class Ranges:
    """For each of a reader's partitions the offsets from ``starts`` to ``stops`` (exclusive)."""

    starts: tuple[int, ...]
    stops: tuple[int, ...]

    def left(self) -> int:
        """How many records there are in it."""
        return sum(stop - start for start, stop in zip(self.starts, self.stops, strict=True))


class RangesTracker(RestrictionTracker):
    """A reader claims a run of records by ``(partition's index, offset after the run)``."""

    def __init__(self, ranges: Ranges) -> None:
        self._ranges = ranges
        self._reached = list(ranges.starts)

    def current_restriction(self) -> Ranges:
        """What is to be read."""
        return self._ranges

    def current_progress(self) -> RestrictionProgress:
        """How much of it has been claimed."""
        done = sum(self._reached) - sum(self._ranges.starts)
        return RestrictionProgress(completed=float(done), remaining=float(self._ranges.left() - done))

    def try_claim(self, position: tuple[int, int]) -> bool:
        """Claim everything up to an offset of a partition; false where that lies outside."""
        index, end = position
        if not self._reached[index] <= end <= self._ranges.stops[index]:
            return False
        self._reached[index] = end
        return True

    def try_split(self, fraction_of_remainder: float) -> tuple[Ranges, Ranges] | None:
        """Checkpoint when ``fraction_of_remainder`` is 0; otherwise refuse."""
        if fraction_of_remainder != 0:
            return None
        reached = tuple(self._reached)
        residual = Ranges(reached, self._ranges.stops)
        self._ranges = Ranges(self._ranges.starts, reached)
        return self._ranges, residual

    def check_done(self) -> None:
        """ValueError unless everything was claimed."""
        if tuple(self._reached) != self._ranges.stops:
            raise ValueError(f"claimed up to {self._reached} of {self._ranges.stops}")

    def is_bounded(self) -> bool:
        """Whether it ends."""
        return all(stop < END_OF_TIME for stop in self._ranges.stops)
