"""Blocks of examples for tests, as the join makes them, and a configuration to train on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from monobeam.models.config import Config, parse

START_US = 1_700_000_000_000_000


def config(
    slots: Sequence[str],
    model: str = "",
    training: str = "",
    numerics: Sequence[str] = (),
    of_slots: Mapping[str, str] = MappingProxyType({}),
) -> Config:
    """A configuration over features of the given names, with lines added to [model], [training] and some slots."""
    fields = "".join(f'[[slots]]\nfeature = "{name}"\n{of_slots.get(name, "")}\n' for name in slots)
    fields += "".join(f'[[numerics]]\nfeature = "{name}"\n' for name in numerics)
    labels = '[[labels]]\nname = "like"\naction = "like"\n'
    models = f'[model]\nname = "test"\nlabel = "like"\n{model}\n[training]\n{training}\n'
    return parse(f'[join]\nwindow = "1s"\n{labels}{fields}{models}')


def block(
    labels: npt.ArrayLike,
    features: Mapping[str, object],
    first_key: int = 1,
    keys: npt.ArrayLike | None = None,
    kinds: npt.ArrayLike | None = None,
    weights: npt.ArrayLike | None = None,
    rate: float = 1.0,
) -> pa.RecordBatch:
    """One block of examples, decided one millisecond after another."""
    y = np.asarray(labels, np.float32)
    n = len(y)
    key = np.arange(first_key, first_key + n) if keys is None else np.asarray(keys)
    time = START_US + key.astype(np.int64) * 1000
    columns = {
        "_key": pa.array(key.astype(np.uint64)),
        "_id": pa.array([f"i{k}" for k in key]),
        "_time": pa.array(time),
        "_decided": pa.array(time + 1_000_000),
        "_kind": pa.array(np.asarray(np.where(y > 0, 0, 1) if kinds is None else kinds, np.uint8)),
        "_weight": pa.array(np.asarray(np.ones(n) if weights is None else weights, np.float32)),
        "_rate": pa.array(np.full(n, rate, np.float32)),
        "_arrival": pa.array(np.where(y > 0, time + 500_000, 0)),
        "_label.like": pa.array(y),
    }
    return pa.record_batch(columns | {name: pa.array(values) for name, values in features.items()})
