"""Tails: how ids of a slot that have no row of their own, not being admitted yet, are represented all the same.

What the file says about them, the tables that they need, and the bookkeeping of both; ``models.embedding`` is the part
that computes. A kind of tail is a torch module in a file like ``models.compose``, which is an entry of ``TAILS`` there,
and what the rest must know of it, which is an entry of ``KINDS`` here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from monobeam.models.section import Section
from monobeam.store.bags import Keys, Mask
from monobeam.store.spec import DAY_US, MAX_SLOT, SLOT_SHIFT, SlotPolicy, TableSpec

if TYPE_CHECKING:
    from monobeam.models.config import Config, ModelConfig, SlotConfig

TABLE = "embeddings"  # rows of the ids themselves, [linear weight | factors], and the shared rows of composed tails
NARROW = "narrow"  # rows of ids with a narrow tail
SIGHTINGS = "sightings"  # how often ids were seen that have no row in any other table

DEFAULT_ROWS = 1000
DEFAULT_PENDING_US = 30 * DAY_US  # where rows never expire; sightings must, or they fill the memory

SHARED = np.uint64(1 << 63)  # no fid of a value has this bit
_SHARED_SLOT_SHIFT, _PARTITION_SHIFT = np.uint64(33), np.uint64(30)
_SLOTS, _PARTITIONS = np.uint64(MAX_SLOT), np.uint64(7)
MAX_ROWS = 2 ** int(_PARTITION_SHIFT)  # what a shared fid has room for


@dataclass(frozen=True)
class Kind:
    """What a kind of tail needs.

    ``shares``: whether ids have shared rows in TABLE (``shared_fids``), one of each partition. ``every``: the table
    where every id of the slot has a row, admitted or not, in which its sightings are counted; ``factors`` says how many
    that row has besides its weight.
    """

    shares: bool = False
    every: str | None = None
    factors: Callable[[ModelConfig], int] = lambda model: model.dim


KINDS: Mapping[str, Kind] = {
    "none": Kind(),
    "compose": Kind(shares=True),
    "narrow": Kind(every=NARROW, factors=lambda model: model.tail_dim),
}


def read(section: Section, admit_count: int, admit_probability: float) -> tuple[str, int]:
    """The kind of a slot's tail and its number of shared rows (0 where it has none)."""
    tail = section.choice("tail", tuple(KINDS), "none")
    kind = KINDS[tail]
    if "tail_rows" in section and not kind.shares:
        raise section.error("tail_rows", f'tail = "{tail}" has no shared rows')
    if tail == "none":
        return tail, 0
    if admit_count < 2 and admit_probability == 1:
        raise section.error(
            "tail", "every id would get its own row at once: needs admit_count from 2, or admit_probability below 1"
        )
    if kind.every and "pending" in section:
        raise section.error(
            "pending",
            f'with tail = "{tail}" sightings are counted in the {kind.every} rows, which go after expire: leave it out',
        )
    return tail, section.integer("tail_rows", DEFAULT_ROWS, low=1, high=MAX_ROWS) if kind.shares else 0


def check(config: Config, model: Section) -> None:
    """ConfigError where a tail does not fit the model, or what the model says is of no tail."""
    if not any(slot.tail == "narrow" for slot in config.slots):
        if "tail_dim" in model:
            raise model.error("tail_dim", 'no slot has tail = "narrow"')
    elif config.model.tail_dim >= config.model.dim:
        raise model.error("tail_dim", f"must be below model.dim, {config.model.dim}, to be narrow")


def tables(config: Config) -> tuple[TableSpec, ...]:
    """The tables of a store: of the ids' own rows, those of the kinds of tails that there are, and of sightings.

    There are sightings even where no slot has a rule, so that one may be added. None of the tables admits or refuses:
    ``models.admission`` does. All of them know all slots, as rows of a slot may be left from before a change.
    """
    sparse, model = config.training.sparse, config.model
    rows = TableSpec(
        name=TABLE,
        dim=1 + model.dim,
        optimizer=sparse.optimizer,
        learning_rate=sparse.learning_rate,
        hyper=sparse.hyper,
        seed=model.seed,
        init_scale=model.init_scale,
        policies={slot.slot: SlotPolicy(expire_us=slot.expire_us) for slot in config.slots},
        row_format=sparse.rows,
    )
    forgets = {slot.slot: SlotPolicy(expire_us=pending_us(slot)) for slot in config.slots}
    sightings = TableSpec(SIGHTINGS, 0, "sgd", 0.0, policies=forgets, synced=False)
    kinds = {kind.every: kind for slot in config.slots if (kind := KINDS[slot.tail]).every}
    every = (replace(rows, name=name, dim=1 + kind.factors(model)) for name, kind in sorted(kinds.items()))
    return rows, *every, sightings


def fixed(config: Config) -> dict[str, str]:
    """What rows depend on besides their tables: the tail of every slot that has one, by its number."""
    tailed = (slot for slot in config.slots if slot.tail != "none")
    return {str(slot.slot): f"{slot.tail} of {slot.tail_rows} rows" if slot.tail_rows else slot.tail for slot in tailed}


def pending_us(slot: SlotConfig) -> int:
    """For how long sightings of an id that is not admitted count."""
    return slot.pending_us or slot.expire_us or DEFAULT_PENDING_US


def counter(slot: SlotConfig) -> str | None:
    """The table whose update counts are how often ids of this slot were seen; None where all are admitted at once."""
    if slot.admit_count < 2 and slot.admit_probability == 1:
        return None
    return KINDS[slot.tail].every or SIGHTINGS


def shared_fids(keys: Keys, rows: Keys, partition: int) -> Keys:
    """The fids uint64[N] of shared rows for ids uint64[N], one of a partition (0 to 7), whose rows have numbers.

    ``1 | 0 (15 bits: the slot that no policy is for) | slot (15) | partition (3) | row (30)``. So they never expire,
    whatever the slot's own policy.
    """
    slots = (keys >> np.uint64(SLOT_SHIFT)) & _SLOTS
    fids: Keys = SHARED | (slots << _SHARED_SLOT_SHIFT) | (np.uint64(partition) << _PARTITION_SHIFT) | rows
    return fids


def counts_ids(config: Config, table: str, keys: Keys) -> Mask:
    """Which rows of a table, bool[N], are such that all their update counts add up to the ids trained on.

    Every id is one update of its own row, or one of a shared row of each partition, of which one counts; where the kind
    of tail has a row for every id, it is one of that. The sum is exact as long as no row was deleted and no slot has an
    admission rule without a tail: ids that it keeps out train nothing.
    """
    if table != TABLE:
        return np.full(len(keys), table in {kind.every for kind in KINDS.values()})
    of_every = np.array([slot.slot for slot in config.slots if KINDS[slot.tail].every], np.uint64)
    once: Mask = ~np.isin(keys >> np.uint64(SLOT_SHIFT), of_every)
    once &= (keys < SHARED) | (keys >> _PARTITION_SHIFT & _PARTITIONS == 0)
    return once
