"""Blocks of examples for tests, as the join makes them, and a configuration to train on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks._examples import columns
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
    key = np.arange(first_key, first_key + len(y)) if keys is None else np.asarray(keys)
    time = START_US + key.astype(np.int64) * 1000
    of_all = columns(key, time, y, wait_us=1_000_000, kinds=kinds, weights=weights, rate=rate)
    return pa.record_batch(of_all | {name: pa.array(values) for name, values in features.items()})
