"""What a trainer must remember from commit to commit besides parameters: it rides in the commit's ``meta``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monobeam.models.base_rate import BaseRate
from monobeam.models.reach import Reach


class Progress:
    """How far a trainer has come.

    ``clock_s``: the latest decision time of all it has read, seconds; ``trained``: examples; ``rate``: of the negatives
    that it trained on last; ``reach``, ``base_rate``: see there.
    """

    def __init__(self, saved: Mapping[str, Any], rate: float) -> None:
        self.clock_s = int(saved.get("clock_s", 0))
        self.trained = int(saved.get("trained", 0))
        self.rate = float(saved.get("rate", rate))
        self.reach = Reach(saved.get("reach", {}))
        self.base_rate = BaseRate(saved.get("base_rate", (1.0, 1.0)))

    def save(self) -> dict[str, Any]:
        """What ``Progress`` can be made from again; fit for JSON."""
        return {
            "trained": self.trained,
            "rate": self.rate,
            "clock_s": self.clock_s,
            "reach": self.reach.save(),
            "base_rate": self.base_rate.save(),
        }
