"""Pure functions of an impression's id: the sample of negatives, and the keys of examples."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from monobeam.native import hash_column

_EXAMPLE_KEY_SEED = 0x6578616D706C65  # keys must not depend on the seed of a run: a replay may use another


def kept(ids: pa.StringArray, rate: float, seed: int) -> npt.NDArray[np.bool_]:
    """Which negatives are kept, bool[n]: each with probability ``rate``, the same ones on every replay."""
    if rate >= 1.0:
        return np.ones(len(ids), np.bool_)
    return hash_column(ids, seed) < np.uint64(rate * 2.0**64)


def example_keys(ids: pa.StringArray) -> npt.NDArray[np.uint64]:
    """The identities uint64[n] of the examples that impressions are decided to be.

    Joined or negative have one key: a replay in which a late action comes in time must not train the impression twice.
    """
    return hash_column(ids, _EXAMPLE_KEY_SEED)


def correction_keys(actions: Iterable[tuple[str, str, int, float]]) -> npt.NDArray[np.uint64]:
    """The identities uint64[n] of corrections, from the (id, type, time, value) of their actions."""
    texts = [f"{id_}\0{type_}\0{time}\0{value.hex()}" for id_, type_, time, value in actions]
    return hash_column(pa.array(texts, pa.string()), _EXAMPLE_KEY_SEED + 1)
