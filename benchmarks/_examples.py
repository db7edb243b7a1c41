"""Examples as the join makes them, without a join."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from monobeam.join.examples import JOINED, NEGATIVE


def columns(
    numbers: npt.ArrayLike,
    times: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    label: str = "like",
    wait_us: int = 0,
    keys: npt.ArrayLike | None = None,
    kinds: npt.ArrayLike | None = None,
    weights: npt.ArrayLike | None = None,
    rate: float = 1.0,
) -> dict[str, pa.Array]:
    """Every column of a block but its features (docs/formats.md), for N examples.

    Args:
        numbers: int64[N], their ids and, where there are no ``keys`` (uint64[N]), their keys.
        times: int64[N], event time in microseconds.
        labels: float32[N].
        label: its name.
        wait_us: from an example's time to its decision; the action of a positive one arrived half of it after it.
        kinds: uint8[N]; of a joined one and of a negative where not given.
        weights: float32[N]; 1 where not given.
        rate: the share that was kept of examples like these.
    """
    number, time, y = np.asarray(numbers, np.int64), np.asarray(times, np.int64), np.asarray(labels, np.float32)
    arrival = np.where(y > 0.5, time + wait_us // 2, 0) if wait_us else np.zeros(len(y), np.int64)
    return {
        "_key": pa.array(np.asarray(number if keys is None else keys).astype(np.uint64)),
        "_id": pc.binary_join_element_wise("i", pa.array(number).cast(pa.string()), ""),
        "_time": pa.array(time),
        "_decided": pa.array(time + wait_us),
        "_kind": pa.array(np.asarray(np.where(y > 0.5, JOINED, NEGATIVE) if kinds is None else kinds, np.uint8)),
        "_weight": pa.array(np.asarray(np.ones(len(y)) if weights is None else weights, np.float32)),
        "_rate": pa.array(np.full(len(y), rate, np.float32)),
        "_arrival": pa.array(arrival),
        f"_label.{label}": pa.array(y),
    }
