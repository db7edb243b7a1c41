"""Which ids of slots with an admission rule get a row of their own.

A table by itself counts the sightings of ids without a row in memory only, so that after a restart they are counted
anew, and another model is learnt. Here the counts are rows of the store, and admission is, like everything else that is
trained, the same whether or not there was a restart.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from monobeam.models.config import Config
from monobeam.models.tails import SIGHTINGS, TABLE, counter
from monobeam.store.bags import Bags, Keys, Mask, mix
from monobeam.store.parameters import ParameterStore
from monobeam.store.spec import MAX_SLOT, SLOT_SHIFT

Counts = npt.NDArray[np.int64]
_GOLDEN, _DRAW = 0x9E3779B97F4A7C15, 0xD1B54A32D192ED03


class Admission:
    """Admits ids by the rules of their slots; the table makes a row for every id that it is given.

    Ids that are too old must have been dropped (``ParameterStore.expire_keys``) before they are asked about.
    """

    def __init__(self, config: Config, store: ParameterStore) -> None:
        self._store = store
        self._seed = config.model.seed
        self._ruled = np.zeros(MAX_SLOT + 1, np.bool_)
        self._counts = np.zeros(MAX_SLOT + 1, np.int64)
        self._probabilities = np.ones(MAX_SLOT + 1)
        self._counters: dict[str, Mask] = {}  # by table, the slots that are counted there and may admit
        for slot in config.slots:
            table = counter(slot)
            if table is None:
                continue
            self._ruled[slot.slot] = True
            self._counts[slot.slot] = slot.admit_count
            self._probabilities[slot.slot] = slot.admit_probability
            if slot.admit_probability > 0:
                self._counters.setdefault(table, np.zeros(MAX_SLOT + 1, np.bool_))[slot.slot] = True

    def admit(self, keys: Keys, now_s: int) -> Mask:
        """Count a sighting of each id uint64[N] at ``now_s`` seconds; which of them, bool[N], have or now get a row.

        Ids of slots without a rule have one.
        """
        slots = (keys >> np.uint64(SLOT_SHIFT)).astype(np.intp)
        known: Mask = ~self._ruled[slots]
        places = np.flatnonzero(~known)
        known[places] = self._store.known(TABLE, keys[places])
        for table, counted in self._counters.items():
            places = np.flatnonzero(~known & counted[slots])
            if len(places):
                places = places[np.argsort(keys[places], kind="stable")]  # sightings of an id side by side, in order
                known[places] = self._admitted(table, keys[places], slots[places], now_s)
        return known

    def _admitted(self, table: str, keys: Keys, slots: npt.NDArray[np.intp], now_s: int) -> Mask:
        """Which sightings of ids without a row (some; sorted by id) admit theirs, or come after one that does."""
        places = np.arange(len(keys))
        starts = np.flatnonzero(np.diff(keys, prepend=~keys[:1]))
        lengths = np.diff(starts, append=len(keys))
        sightings = places + np.repeat(self._store.update_counts(table, keys[starts]) + 1 - starts, lengths)
        admits = (sightings >= self._counts[slots]) & (_draws(keys, sightings, self._seed) < self._probabilities[slots])
        first = np.minimum.reduceat(np.where(admits, places, len(keys)), starts)
        if table == SIGHTINGS:
            promoted = first < len(keys)
            self._store.erase(table, keys[starts[promoted]])
            self._count(keys[~np.repeat(promoted, lengths)], now_s)
        admitted: Mask = places >= np.repeat(first, lengths)
        return admitted

    def _count(self, keys: Keys, now_s: int) -> None:
        pulled = self._store.pull(SIGHTINGS, Bags(keys, np.arange(len(keys) + 1, dtype=np.int64)), now_s)
        self._store.push(pulled, np.zeros_like(pulled.pooled))


def _draws(keys: Keys, sightings: Counts, seed: int) -> npt.NDArray[np.float64]:
    """Uniform in [0, 1), a pure function of id, sighting and seed: the native table's own draws."""
    start = mix(keys ^ mix(np.array([(seed + _DRAW) % 2**64], np.uint64)))
    bits = mix(start + sightings.astype(np.uint64) * np.uint64(_GOLDEN))
    return (bits >> np.uint64(11)).astype(np.float64) * np.float64(2.0**-53)
