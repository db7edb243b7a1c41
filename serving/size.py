"""What a request costs, known from the lengths of its lists before anything is hashed or looked up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from monobeam.models.config import SlotConfig
from monobeam.models.features import MAX_CROSS_IDS
from monobeam.serving.errors import InvalidRequest, quote
from monobeam.serving.request import RankRequest

MAX_IDS = 1_000_000  # of a request: some 0.1 s and 100 MB
Int64s = npt.NDArray[np.int64]


def check_size(slots: Sequence[SlotConfig], request: RankRequest) -> None:
    """Refuse a request whose lists, and crosses of lists, make more ids than one request may have."""
    lengths = {
        name: _lengths(column) for columns in (request.user, request.candidates) for name, column in columns.items()
    }
    ids = {slot.name: _ids(slot, lengths) for slot in slots}
    if all(request.user.keys() >= set(slot.features) for slot in slots):  # nothing is shared: see Predictor
        ids = {name: count * request.count for name, count in ids.items()}
    total = sum(ids.values())
    if total > MAX_IDS:
        largest = max(ids, key=lambda name: ids[name])
        raise InvalidRequest(
            f"{quote(largest)}: {ids[largest]} of the {total} ids of this request; at most {MAX_IDS} are looked up"
        )


def _ids(slot: SlotConfig, lengths: Mapping[str, Int64s]) -> int:
    """How many ids a slot has: of the request alone (one row) or, where a candidate's feature is in it, of N rows."""
    none = np.zeros(1, np.int64)
    count = lengths.get(slot.features[0], none)
    for feature in slot.features[1:]:
        count = np.minimum(count * lengths.get(feature, none), MAX_CROSS_IDS)
    return int(count.sum())


def _lengths(column: pa.Array) -> Int64s:
    """Values in each row."""
    values = pc.list_value_length(column) if pa.types.is_list(column.type) else pc.cast(column.is_valid(), pa.int64())
    return np.asarray(pc.cast(values, pa.int64()).fill_null(0))
