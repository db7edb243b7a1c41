"""What the join must make of the records that were sent: the replay's own books, to hold the pipeline's against."""

from collections import Counter
from typing import Any

from examples.movielens.plan import MALFORMED, OF_IMPRESSIONS, Kind


class Ledger:
    """Counts every record by what must become of it, in the names of the conservation laws.

    A like counts as joined or late by the times that were really stamped, so the books are right for a replay that had
    to stretch as well. Records are entered in the order of sending.
    """

    def __init__(self, window_us: int) -> None:
        self.counts: Counter[str] = Counter()
        self._window_us = window_us
        self._seen: set[tuple[str, str]] = set()

    def impression(self, impression_id: str) -> None:
        """A well-formed impression was logged, by the replay or by the server."""
        self.counts["impressions"] += 1
        self.counts["impressions_duplicated" if self._again("impression", impression_id) else "shown"] += 1

    def like(self, impression_id: str, reaction_us: int) -> None:
        """A well-formed like was logged; ``reaction_us`` is its time less its impression's."""
        if reaction_us < 0:
            raise ValueError(f"like of {impression_id} {-reaction_us} us before its impression")
        self.counts["actions"] += 1
        if self._again("like", impression_id):
            self.counts["actions_duplicated"] += 1
        else:
            self.counts["joined" if reaction_us <= self._window_us else "corrections"] += 1

    def stray_like(self) -> None:
        """A like for no impression was logged."""
        self.counts["actions"] += 1
        self.counts["unmatched"] += 1

    def malformed(self, kind: Kind) -> None:
        """A record was logged that nobody can use."""
        assert kind in MALFORMED, kind
        log = "impressions" if kind in OF_IMPRESSIONS else "actions"
        self.counts[log] += 1
        self.counts[f"{log}_rejected"] += 1

    def expected(self) -> dict[str, int]:
        """Counts under the names of the pipeline's counters; ``shown`` is examples and sampled_out together."""
        names = "impressions shown impressions_duplicated impressions_rejected "
        names += "actions joined corrections actions_duplicated unmatched actions_rejected"
        return {name: self.counts[name] for name in names.split(" ")}

    def _again(self, *key: Any) -> bool:
        seen = key in self._seen
        self._seen.add(key)
        return seen
