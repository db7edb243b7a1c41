"""What the pipelines say about themselves in the metrics log, folded into totals.

Records are ``{component, key, position, time, values, arrays}``:

* ``join`` (key = shard): cumulative counters of the conservation law; the last record of a key holds.
* ``train`` (key = partition of the examples log): what was added since the record before, up to ``position``:
  ``examples``, ``ids``, ...; and, as they are, ``rows``, ``memory_bytes`` and ``epoch`` of the store, ``commit_ms``.
  Arrays: the score histogram.
* ``frozen``: the same histogram of a model that stopped learning, for the stretch of the ``train`` record with its
  key and position.
* ``replay`` (key = source): what a replayer put in; the last record of a key holds.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, deque
from collections.abc import Mapping
from typing import Any

from monobeam.models.metrics import ScoreHistogram

RECENT_EXAMPLES = 10_000
MAX_UNPAIRED = 4096
ADDED = frozenset(
    {"examples", "ids", "loss", "skipped", "repeated", "forgotten", "passed_over", "corrections", "positives"}
)

STORE = ("rows", "memory_bytes", "epoch")

IMPRESSIONS = {
    "examples": "examples",
    "sampled_out": "sampled_out",
    "pending": "pending",
    "duplicated": "impressions_duplicated",
    "rejected": "impressions_rejected",
}
ACTIONS = {
    "joined": "joined",
    "corrections": "corrections",
    "waiting": "waiting",
    "duplicated": "actions_duplicated",
    "unmatched": "unmatched",
    "rejected": "actions_rejected",
}


class RecentScores:
    """The histogram of the last stretches, together at least ``examples`` large, if there were as many."""

    def __init__(self, examples: int = RECENT_EXAMPLES) -> None:
        self._examples = examples
        self._stretches: deque[ScoreHistogram] = deque()
        self.total = ScoreHistogram()

    def add(self, stretch: ScoreHistogram) -> None:
        """Take in the newest stretch, drop the oldest that are not needed any more."""
        self._stretches.append(stretch)
        self.total = self.total.merge(stretch)
        while self.total.weight - self._stretches[0].weight >= self._examples:
            self.total = self.total.subtract(self._stretches.popleft())


class Progress:
    """A fold over the metrics log. Not thread-safe."""

    def __init__(self) -> None:
        self._join: dict[str, Mapping[str, float]] = {}
        self._replay: dict[str, Mapping[str, float]] = {}
        self._train: dict[str, Mapping[str, float]] = {}
        self._positions: dict[tuple[str, str], int] = {}
        self._unpaired: OrderedDict[tuple[str, str, int], ScoreHistogram] = OrderedDict()
        self._online, self._paired, self._frozen = ScoreHistogram(), ScoreHistogram(), ScoreHistogram()
        self._recent = {name: RecentScores() for name in ("online", "paired", "frozen")}
        self.added: Counter[str] = Counter()

    def observe(self, record: Mapping[str, Any]) -> None:
        """Take in one record; ValueError or KeyError where it is none."""
        component, key, values = record["component"], record["key"], record["values"]
        if component == "join":
            self._join[key] = dict(values)
        elif component == "replay":
            self._replay[key] = dict(values)
        elif component in ("train", "frozen") and self._is_new(component, key, record["position"]):
            self._observe_scores(component, key, record)

    def _is_new(self, component: str, key: str, position: int) -> bool:
        """A trainer that starts again may report a stretch twice."""
        if position <= self._positions.get((component, key), -1):
            return False
        self._positions[component, key] = position
        return True

    def _observe_scores(self, component: str, key: str, record: Mapping[str, Any]) -> None:
        if component == "train":
            self._train[key] = dict(record["values"])
            self.added.update({name: value for name, value in record["values"].items() if name in ADDED})
        if not record["arrays"]:
            return
        scores = ScoreHistogram.from_arrays(record["arrays"])
        if component == "train":
            self._online = self._online.merge(scores)
            self._recent["online"].add(scores)
        self._pair(component, key, record["position"], scores)

    def _pair(self, component: str, key: str, position: int, scores: ScoreHistogram) -> None:
        """Compare the two models only where both have scored the same examples."""
        other = "frozen" if component == "train" else "train"
        partner = self._unpaired.pop((other, key, position), None)
        if partner is None:
            self._unpaired[component, key, position] = scores
            if len(self._unpaired) > MAX_UNPAIRED:
                self._unpaired.popitem(last=False)
            return
        online, frozen = (scores, partner) if component == "train" else (partner, scores)
        self._paired, self._frozen = self._paired.merge(online), self._frozen.merge(frozen)
        self._recent["paired"].add(online)
        self._recent["frozen"].add(frozen)

    def training(self) -> dict[str, float | None]:
        """Totals and latest figures of all trainers; None where none has reported."""
        # All partitions are trained into one store, which the last to commit describes.
        newest = max(self._train.values(), key=lambda values: values.get("epoch", 0), default={})
        return {
            "examples": self.added["examples"],
            "ids": self.added["ids"],
            **{name: newest.get(name) for name in STORE},
            "commit_ms": max(
                (values["commit_ms"] for values in self._train.values() if "commit_ms" in values), default=None
            ),
            "loss": _number(self._recent["online"].total.log_loss()),
            "calibration": _number(self._recent["online"].total.calibration()),
        }

    def quality(self) -> dict[str, float | None]:
        """AUC, online and frozen, on the examples that both scored; online alone while there is no other."""
        both = self._frozen.weight > 0
        online, recent = (self._paired, self._recent["paired"]) if both else (self._online, self._recent["online"])
        online_auc, frozen_auc = online.auc(), self._frozen.auc()
        return {
            "online_auc": _number(online_auc),
            "frozen_auc": _number(frozen_auc),
            "lift": _number(online_auc - frozen_auc),
            "auc_error": _number(online.auc_error()),
            "examples": online.weight,
            "online_recent_auc": _number(recent.total.auc()),
            "frozen_recent_auc": _number(self._recent["frozen"].total.auc()),
            "recent_examples": recent.total.weight,
            "online_overall_auc": _number(self._online.auc()),
        }

    def conservation(self) -> dict[str, dict[str, float | bool | None]]:
        """Both laws: what came in, what became of it, the sum, and whether the two agree."""
        totals: Counter[str] = Counter()
        for values in self._join.values():
            totals.update(values)
        known = bool(self._join)
        return {
            "impressions": _law(totals, "impressions", IMPRESSIONS, known),
            "actions": _law(totals, "actions", ACTIONS, known),
        }

    def join_counters(self) -> dict[str, float]:
        """All counters of the join, summed over shards."""
        totals: Counter[str] = Counter()
        for values in self._join.values():
            totals.update(values)
        return dict(sorted(totals.items()))

    def replay(self) -> dict[str, float]:
        """What replayers said that they put in, summed over sources."""
        totals: Counter[str] = Counter()
        for values in self._replay.values():
            totals.update(values)
        return dict(sorted(totals.items()))


def _law(totals: Counter[str], total: str, parts: Mapping[str, str], known: bool) -> dict[str, float | bool | None]:
    if not known:
        return {"in": None, **dict.fromkeys(parts), "sum": None, "balanced": None}
    became = {name: totals[counter] for name, counter in parts.items()}
    return {
        "in": totals[total],
        **became,
        "sum": sum(became.values()),
        "balanced": sum(became.values()) == totals[total],
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
