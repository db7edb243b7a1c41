"""What became of every record."""

from __future__ import annotations

IMPRESSIONS_OUT = ("examples", "sampled_out", "pending", "impressions_duplicated", "impressions_rejected")
ACTIONS_OUT = ("joined", "corrections", "actions_duplicated", "unmatched", "waiting", "actions_rejected")

NAMES = (
    "impressions",
    *IMPRESSIONS_OUT,
    "actions",
    *ACTIONS_OUT,
    "negatives",
    "late_impressions",
    "late_actions",
)
"""Every counter.

impressions = examples + sampled_out + pending + impressions_duplicated + impressions_rejected
actions = joined + corrections + actions_duplicated + unmatched + waiting + actions_rejected

``examples`` are those that are no corrections, ``negatives`` those of them without a positive label. ``joined`` actions
matched and needed no correction; ``unmatched`` ones went to the dead letters. Late records came behind the watermark.
"""


class Counters:
    """The counters of one engine; every method keeps both sums true."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(NAMES, 0)

    def impressions(self, count: int, late: int) -> None:
        """Impressions came in."""
        self._add(impressions=count, pending=count, late_impressions=late)

    def actions(self, count: int, late: int) -> None:
        """Actions came in."""
        self._add(actions=count, waiting=count, late_actions=late)

    def rejected(self, kind: str, count: int) -> None:
        """Records of a kind (impressions | actions) came that could not be decoded."""
        self._add(**{kind: count, f"{kind}_rejected": count})

    def impressions_became(self, outcome: str, count: int) -> None:
        """Pending impressions were resolved."""
        self._add(**{outcome: count, "pending": -count})

    def actions_became(self, outcome: str, count: int) -> None:
        """Waiting actions were resolved."""
        self._add(**{outcome: count, "waiting": -count})

    def negatives(self, count: int) -> None:
        """Some of the examples had no positive label."""
        self._add(negatives=count)

    def impressions_passed_over(self, count: int) -> None:
        """Impressions turned out to be resolved in the time of an earlier run, which has counted them."""
        self._add(impressions=-count, pending=-count)

    def actions_passed_over(self, count: int) -> None:
        """Actions turned out to be resolved in the time of an earlier run, which has counted them."""
        self._add(actions=-count, waiting=-count)

    def _add(self, **counts: int) -> None:
        for name, count in counts.items():
            self.counts[name] += count
