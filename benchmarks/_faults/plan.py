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
ON_BIGTABLE = (
    "cut_connections",
    "fail_calls",
    "delay_calls",
    "half_apply_writes",
    "lose_answers",
    "apply_writes_late",
    "cut_reads",
)
WITH_SERVERS = ("kill_server", "pause_server", "step_server_clock")

RULES = {
    "plain": "",
    "expiry": 'expire = "20s"',
    "admission": 'expire = "30s"\nadmit_count = 2\ntail = "compose"\ntail_rows = 5',
}
"""What the slot of items says. Where there is a rule, the order of the log matters, and so it has one partition."""

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
    """One deployment, and the faults that it has to live through, one after the other.

    ``remote``: the trainer and serving reach the store through shard servers, and not by themselves.
    """

    seed: int
    store: str
    remote: bool
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

    def __str__(self) -> str:
        where = f"{self.store}{' behind shard servers' * self.remote}, {self.shards} shards"
        return f"{where}, {self.partitions} partitions, {self.runner}, {self.rule}, a commit every {self.commit_ms} ms"

    @property
    def in_order(self) -> bool:
        """Whether the log has one order, and so parameters have the same bits however it was trained."""
        return self.partitions == 1


def plan(seed: int, stores: Sequence[str], faults: int) -> Plan:
    """The round of a seed, with so many faults; seeds take turns with the stores."""
    rng = random.Random(seed)
    rule = rng.choice(("plain", "plain", *RULES))
    store, remote = stores[seed % len(stores)], rng.random() < 0.5
    return Plan(
        seed=seed,
        store=store,
        remote=remote,
        runner=rng.choice(("in_process", "in_process", "in_process", "prism")),
        rule=rule,
        shards=rng.choice((1, 4)),
        partitions=rng.choice((1, 1, 2)) if rule == "plain" else 1,
        commit_ms=rng.choice((50, 100, 300)),
        faults=_deal(rng, kinds(store, remote), faults),
    )


def kinds(store: str, remote: bool) -> tuple[str, ...]:
    """The faults that can hit such a deployment."""
    return ANYWHERE + (ON_LMDB if store == "lmdb" else ON_BIGTABLE) + (WITH_SERVERS if remote else ())


def _deal(rng: random.Random, every: Sequence[str], count: int) -> tuple[str, ...]:
    """So many of them in random order, each about as often as any other."""
    dealt: list[str] = []
    while len(dealt) < count:
        dealt += rng.sample(every, len(every))
    return tuple(dealt[:count])
