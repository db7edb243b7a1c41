"""Tails: how ids of a slot that have no row of their own, not being admitted yet, are represented all the same.

What the file says about them, the tables that they need, and the bookkeeping of both; ``models.embedding`` is the part
that computes. A kind of tail is a file like ``models.compose``, an entry of its ``TAILS``, and one of ``KINDS`` here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from monobeam.models.section import ConfigError, Section
from monobeam.store.bags import Keys, Mask
from monobeam.store.spec import SlotPolicy, TableSpec

if TYPE_CHECKING:
    from monobeam.models.config import Config, SlotConfig

TABLE = "embeddings"  # rows of the ids themselves, [linear weight | factors], and the shared rows of composed tails
NARROW = "narrow"  # rows of ids with a narrow tail
SIGHTINGS = "sightings"  # how often ids were seen that have no row in any other table

KINDS = ("none", "compose", "narrow")
DEFAULT_ROWS = 1000
DEFAULT_PENDING_US = 30 * 86_400_000_000  # of event time, where rows never expire: sightings must, or they fill the memory
MAX_ROWS = 2**32  # what a shared fid has room for

SLOT_SHIFT = np.uint64(48)
SHARED = np.uint64(1 << 63)  # no fid of a value has this bit
_SHARED_SLOT_SHIFT = np.uint64(33)
_QUOTIENT = np.uint64(1 << 32)
_SLOTS = np.uint64(2**15 - 1)


def read(section: Section, admit_count: int, admit_probability: float) -> tuple[str, int]:
    """The kind of a slot's tail and its number of shared rows (0 where it has none)."""
    tail = section.choice("tail", KINDS, "none")
    if "tail_rows" in section and tail != "compose":
        raise section.error("tail_rows", 'only tail = "compose" has shared rows')
    if tail == "none":
        return tail, 0
    if admit_count < 2 and admit_probability == 1:
        raise section.error(
            "tail", "every id would get its own row at once: needs admit_count from 2, or admit_probability below 1"
        )
    if tail == "narrow" and "pending" in section:
        raise section.error(
            "pending",
            'with tail = "narrow" sightings are counted in the narrow rows, which go after expire: leave it out',
        )
    rows = section.integer("tail_rows", DEFAULT_ROWS, low=1, high=MAX_ROWS) if tail == "compose" else 0
    return tail, rows


def check(config: Config) -> None:
    """ConfigError where a tail does not fit the model."""
    model = config.model
    if any(slot.tail == "narrow" for slot in config.slots) and model.tail_dim >= model.dim:
        raise ConfigError(f"model.tail_dim = {model.tail_dim}: must be below model.dim, {model.dim}, to be narrow")


def tables(config: Config) -> tuple[TableSpec, ...]:
    """The tables of a store: of the ids' own rows, of narrow rows where there are any, and of sightings.

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
    if all(slot.tail != "narrow" for slot in config.slots):
        return rows, sightings
    return rows, replace(rows, name=NARROW, dim=1 + model.tail_dim), sightings


def fixed(config: Config) -> dict[str, str]:
    """What rows depend on besides their tables: the tail of every slot that has one, by its number."""
    tailed = [slot for slot in config.slots if slot.tail != "none"]
    return {str(slot.slot): f"compose of {slot.tail_rows} rows" if slot.tail_rows else slot.tail for slot in tailed}


def pending_us(slot: SlotConfig) -> int:
    """For how long sightings of an id that is not admitted count."""
    return slot.pending_us or slot.expire_us or DEFAULT_PENDING_US


def counter(slot: SlotConfig) -> str | None:
    """The table whose update counts are how often ids of this slot were seen; None where all are admitted at once."""
    if slot.admit_count < 2 and slot.admit_probability == 1:
        return None
    return NARROW if slot.tail == "narrow" else SIGHTINGS


def shared_fids(keys: Keys, rows: Keys, *, quotient: bool) -> Keys:
    """The fids uint64[N] of shared rows for ids uint64[N], one of either partition: ``rows`` numbers them per slot.

    ``1 | 0 (15 bits: the slot that no policy is for) | slot (15) | partition (1) | row (32)``. So they are admitted at
    once and never expire, whatever the slot's own policy.
    """
    slots = (keys >> SLOT_SHIFT) & _SLOTS
    fids: Keys = SHARED | (slots << _SHARED_SLOT_SHIFT) | rows
    return fids | _QUOTIENT if quotient else fids


def counts_ids(config: Config, table: str, keys: Keys) -> Mask:
    """Which rows of a table, bool[N], are such that all their update counts add up to the ids trained on.

    Every id is one update of its own row, or one of a shared row of each partition, of which one counts; where slots
    have narrow rows, it is one of these, whether or not there is another. The sum is exact as long as no row was
    deleted and no slot has an admission rule without a tail: ids that it keeps out train nothing.
    """
    if table != TABLE:
        return np.full(len(keys), table == NARROW)
    of_narrow = np.array([slot.slot for slot in config.slots if slot.tail == "narrow"], np.uint64)
    once: Mask = ~np.isin(keys >> SLOT_SHIFT, of_narrow)
    once[(keys & (SHARED | _QUOTIENT)) == (SHARED | _QUOTIENT)] = False
    return once
