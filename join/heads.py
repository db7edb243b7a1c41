"""The impressions that the records of one advance may belong to."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import compress

import numpy as np
import pyarrow as pa

from monobeam.join.cold import ColdStore
from monobeam.join.frame import Columns, Rows, concat, height, take
from monobeam.join.hot import stored_actions
from monobeam.join.match import COLD, HOT, NEW, Flags, choose_heads
from monobeam.join.settings import JoinSettings
from monobeam.join.state import State

_LAYOUT = dict.fromkeys(
    ("code", "start", "stop", "time", "leave", "origin", "slot", "cold", "place", "ref", "log", "partition", "offset"),
    np.int64,
)
_COLD = ("time", "due", "leave", "partition", "offset")


@dataclass
class Heads:
    """Heads sorted by (code, start), and what came with them.

    Columns: start, stop (known in [start, stop], event time), time, leave; `slot`: in the hot state, -1 for cold ones;
    `ref`: the features; `code`: of the id, by ``index``. ``entered``: slots of the new ones. ``duplicates``: places of
    the impressions that are no heads. ``stored``: the actions of cold impressions. ``borrowed``: rows of features that
    are held for this advance only.
    """

    columns: Columns
    index: dict[str, int]
    entered: Rows
    duplicates: Rows
    stored: Columns = field(repr=False)
    borrowed: Rows = field(repr=False)


def find_heads(
    index: dict[str, int], codes: Rows, impressions: Columns, state: State, cold: ColdStore, settings: JoinSettings
) -> Heads:
    """Find the heads of all ids in ``index`` and make the new ones among ``impressions`` (with ``codes``) hot."""
    slots = state.hot.find(index)
    missing = list(compress(index, (slots < 0).tolist()))
    batches = cold.get(pa.array(missing, pa.string())) if missing else []
    cold_ones = _cold(batches, index, impressions | {"code": codes}, state, settings)
    candidates = [
        _hot(np.flatnonzero(slots >= 0), slots[slots >= 0], state, settings),
        *cold_ones,
        _new(codes, impressions, state, settings),
    ]
    all_ = concat([columns for columns in candidates if height(columns)], _LAYOUT)
    chosen = choose_heads(all_)
    heads = take(all_, chosen)
    fresh = np.flatnonzero(heads["origin"] == NEW)
    fresh = fresh[np.argsort(heads["start"][fresh], kind="stable")]
    entered = state.hot.enter(take(impressions, heads["place"][fresh]))
    heads["slot"][fresh] = entered
    borrowed = np.concatenate([piece["ref"] for piece in cold_ones]) if batches else np.empty(0, np.int64)
    stored = _stored(batches, index, heads, state)
    return Heads(heads, index, entered, _places_left(all_, chosen), stored, borrowed)


def _hot(codes: Rows, slots: Rows, state: State, settings: JoinSettings) -> Columns:
    rows = state.hot.rows
    leave = rows.get("leave", slots)
    return _candidates(
        HOT,
        code=codes,
        start=rows.get("due", slots),
        stop=leave + settings.retention_us,
        leave=leave,
        slot=slots,
        log=state.logs.ranks(rows.get("log", slots)),
        **{name: rows.get(name, slots) for name in ("time", "ref", "partition", "offset")},
    )


def _cold(
    batches: list[pa.RecordBatch], index: dict[str, int], due: Columns, state: State, settings: JoinSettings
) -> list[Columns]:
    """Cold impressions are known only after they left the hot state: before that, the hot state itself knows them.

    So what an earlier life of the engine has put there for a time that is still to come has no say. Only what is older
    than all that a continuation must be given, and is not among the impressions ``due`` now, is known from the first.
    """
    pieces, count = [], 0
    for batch in batches:
        columns = {name: batch.column(f"_{name}").to_numpy() for name in _COLD}
        columns["code"] = np.array([index[id_] for id_ in batch.column("_id").to_pylist()], np.int64)
        columns["log"] = state.logs.codes(batch.column("_log"))
        not_read = _not_read(columns, due, settings)
        piece = _candidates(
            COLD,
            start=np.where(not_read, columns.pop("due"), columns["leave"] + 1),
            stop=columns["leave"] + settings.retention_us,
            cold=np.arange(count, count + batch.num_rows),
            ref=state.hot.features.add(batch),
            **columns,
        )
        pieces.append(piece)
        count += batch.num_rows
    for piece in pieces:
        piece["log"] = state.logs.ranks(piece["log"])
    return pieces


def _not_read(cold: Columns, due: Columns, settings: JoinSettings) -> Flags:
    """Which cold impressions a continuation does not read: they are too old, and not due now by a wide reading."""
    if settings.first_needed_us is None:
        return np.zeros(height(cold), np.bool_)
    names = ("code", "log", "partition", "offset")
    read = set(zip(*(due[name].tolist() for name in names), strict=True))
    again = [key in read for key in zip(*(cold[name].tolist() for name in names), strict=True)]
    return (cold["time"] < settings.first_needed_us) & ~np.array(again, np.bool_)


def _new(codes: Rows, impressions: Columns, state: State, settings: JoinSettings) -> Columns:
    leave = np.maximum(impressions["time"] + settings.window_us, impressions["due"])
    return _candidates(
        NEW,
        code=codes,
        start=impressions["due"],
        stop=leave + settings.retention_us,
        leave=leave,
        place=np.arange(len(codes)),
        log=state.logs.ranks(impressions["log"]),
        **{name: impressions[name] for name in ("time", "ref", "partition", "offset")},
    )


def _places_left(all_: Columns, chosen: Rows) -> Rows:
    """The places of impressions that were not chosen."""
    left = all_["origin"] == NEW
    left[chosen] = False
    places: Rows = all_["place"][left]
    return places


def _candidates(origin: int, **columns: Rows) -> Columns:
    count = len(columns["code"])
    absent = {name: np.full(count, -1) for name in ("slot", "cold", "place") if name not in columns}
    return {**columns, **absent, "origin": np.full(count, origin)}


def _stored(batches: list[pa.RecordBatch], index: dict[str, int], heads: Columns, state: State) -> Columns:
    """The actions that cold impressions have met: MET_LAYOUT, `code`, and `head` (-1: the impression is no head)."""
    stored = stored_actions(batches, state.logs, state.types)
    ids = [id_ for batch in batches for id_ in batch.column("_id").to_pylist()]
    head_of = np.full(len(ids), -1)
    cold = np.flatnonzero(heads["origin"] == COLD)
    head_of[heads["cold"][cold]] = cold
    stored["head"] = head_of[stored["cold"]]
    stored["code"] = np.array([index[id_] for id_ in ids], np.int64)[stored["cold"]]
    return stored
