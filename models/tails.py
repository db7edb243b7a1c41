"""Tails: how ids of a slot that have no row of their own, not being admitted yet, are represented all the same.

What the file says about them, the tables that they need, and the bookkeeping of both; ``models.embedding`` is the part
that computes. A kind of tail is a file like ``models.compose``, an entry of its ``TAILS``, and one of ``KINDS`` here.
"""

from __future__ import annotations

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


def policy(slot: SlotConfig) -> SlotPolicy:
    """The policy of a slot's own rows; the table admits what it is given where ``models.admission`` decides."""
    if slot.tail != "none":
        return SlotPolicy(expire_us=slot.expire_us)
    return SlotPolicy(slot.admit_count, slot.admit_probability, slot.expire_us, slot.pending_us)


def tables(config: Config) -> tuple[TableSpec, ...]:
    """The tables that the tails of a configuration need besides TABLE."""
    sparse, model = config.training.sparse, config.model
    narrow, counted = (_expiry(config, name) for name in (NARROW, SIGHTINGS))
    specs = []
    if narrow:
        specs.append(
            TableSpec(
                name=NARROW,
                dim=1 + model.tail_dim,
                optimizer=sparse.optimizer,
                learning_rate=sparse.learning_rate,
                hyper=sparse.hyper,
                seed=model.seed,
                init_scale=model.init_scale,
                policies=narrow,
                row_format=sparse.rows,
            )
        )
    if counted:
        specs.append(TableSpec(SIGHTINGS, 0, "sgd", 0.0, policies=counted, synced=False))
    return tuple(specs)


def _expiry(config: Config, table: str) -> dict[int, SlotPolicy]:
    """The slots whose ids are counted in a table, which forgets them as TABLE does, or after ``pending``."""
    return {
        slot.slot: SlotPolicy(expire_us=slot.pending_us or slot.expire_us)
        for slot in config.slots
        if counter(slot) == table
    }


def counter(slot: SlotConfig) -> str | None:
    """The table whose update counts are how often ids of this slot were seen; None without a tail."""
    if slot.tail == "none":
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
