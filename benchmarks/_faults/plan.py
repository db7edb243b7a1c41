"""What a round is: a function of its seed alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

ANYWHERE = (
    "kill_trainer",
    "kill_serving",
    "kill_everything",
    "pause_trainer",
    "pause_serving",
    "lose_events",
    "repeat_events",
    "reorder_events",
    "step_trainer_clock",
    "step_serving_clock",
)
ON_LMDB = ("fill_disk",)

RULES = {
    "plain": "",
    "expiry": 'expire = "20s"',
    "admission": 'expire = "30s"\nadmit_count = 2\ntail = "compose"\ntail_rows = 5',
}
"""What the slot of items says; with a rule, what is learnt depends on the order of the log, so there is one partition."""

CONFIG = """\
[join]
window = "1s"
shards = {partitions}
[[labels]]
name = "like"
action = "like"
[[slots]]
feature = "user"
[[slots]]
feature = "item"
{rule}
[[slots]]
feature = "tags"
[[numerics]]
feature = "price"
[model]
name = "campaign"
label = "like"
dim = 4
hidden = [8]
[training]
sparse = {{ learning_rate = 0.1 }}
dense = {{ learning_rate = 0.01 }}
[store]
shards = {shards}
commit_every = "{commit_ms}ms"
dense_sync_every = "500ms"
"""


@dataclass(frozen=True)
class Plan:
    """One deployment, and the faults that it has to live through, one after the other."""

    seed: int
    store: str
    runner: str
    rule: str
    shards: int
    partitions: int
    commit_ms: int
    faults: tuple[str, ...]

    @property
    def config(self) -> str:
        """The configuration file."""
        return CONFIG.format(
            rule=RULES[self.rule], partitions=self.partitions, shards=self.shards, commit_ms=self.commit_ms
        )

    @property
    def in_order(self) -> bool:
        """Whether the log has one order, and so parameters have the same bits however it was trained."""
        return self.partitions == 1


def plan(seed: int, stores: Sequence[str], faults: int) -> Plan:
    """The round of a seed, with so many faults; seeds take turns with the stores."""
    rng = random.Random(seed)
    rule = rng.choice(("plain", "plain", *RULES))
    store = stores[seed % len(stores)]
    return Plan(
        seed=seed,
        store=store,
        runner=rng.choice(("in_process", "in_process", "in_process", "prism")),
        rule=rule,
        shards=rng.choice((1, 3)),
        partitions=rng.choice((1, 1, 2)) if rule == "plain" else 1,
        commit_ms=rng.choice((50, 100, 300)),
        faults=_deal(rng, kinds(store), faults),
    )


def kinds(store: str) -> tuple[str, ...]:
    """The faults that can hit a deployment on such a store."""
    return ANYWHERE + ON_LMDB if store == "lmdb" else ANYWHERE


def _deal(rng: random.Random, every: Sequence[str], count: int) -> tuple[str, ...]:
    """So many of them in random order, each about as often as any other."""
    dealt: list[str] = []
    while len(dealt) < count:
        dealt += rng.sample(every, len(every))
    return tuple(dealt[:count])
