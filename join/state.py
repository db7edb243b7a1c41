"""All that a join engine remembers."""

from __future__ import annotations

from monobeam.join.counters import Counters
from monobeam.join.frame import Schedule
from monobeam.join.hot import IMPRESSION_LAYOUT, Hot
from monobeam.join.names import Names
from monobeam.join.settings import JoinSettings
from monobeam.join.waiting import ACTION_LAYOUT, Waiting

BEGINNING = -(1 << 62)
"""The watermark before any time has passed."""


class State:
    """The state of the engine of one shard.

    Records lie in an inbox (``impressions``, ``actions``) until the watermark passes their due time: their own time, or
    the watermark at their arrival if they are late. ``latest`` is the latest due time that has been worked through.
    """

    def __init__(self, settings: JoinSettings) -> None:
        self.impressions = Schedule(IMPRESSION_LAYOUT, "due")
        self.actions = Schedule(ACTION_LAYOUT, "due")
        self.hot = Hot(settings.window_us, len(settings.labels))
        self.waiting = Waiting(settings.retention_us)
        self.logs = Names()
        self.types = Names()
        self.counters = Counters()
        self.watermark = BEGINNING
        self.latest = BEGINNING

    def first_due(self) -> int | None:
        """The earliest event time at which something happens."""
        times = (
            self.impressions.first(),
            self.actions.first(),
            self.hot.leaving.first(),
            self.waiting.first_end(),
        )
        return min((time for time in times if time is not None), default=None)
