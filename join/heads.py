"""The impressions that the records of one advance may belong to."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import compress

import numpy as np
import pyarrow as pa

from monobeam.join.cold import ColdStore
from monobeam.join.frame import Columns, Rows, concat, height, take
from monobeam.join.hot import stored_actions
from monobeam.join.match import COLD, HOT, NEW, choose_heads
from monobeam.join.settings import JoinSettings
from monobeam.join.state import BEGINNING, State

_LAYOUT = dict.fromkeys(
    ("code", "start", "stop", "time", "leave", "origin", "slot", "cold", "place", "ref", "log", "partition", "offset"),
    np.int64,
)


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
    candidates = [
        _hot(np.flatnonzero(slots >= 0), slots[slots >= 0], state, settings),
        *_cold(batches, index, state, settings),
        _new(codes, impressions, state, settings),
    ]
    all_ = concat([columns for columns in candidates if height(columns)], _LAYOUT)
    chosen = choose_heads(all_)
    heads = take(all_, chosen)
    fresh = np.flatnonzero(heads["origin"] == NEW)
    fresh = fresh[np.argsort(heads["start"][fresh], kind="stable")]
    entered = state.hot.enter(take(impressions, heads["place"][fresh]))
    heads["slot"][fresh] = entered
    borrowed = np.concatenate([c["ref"] for c in candidates[1:-1]]) if batches else np.empty(0, np.int64)
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


def _cold(batches: list[pa.RecordBatch], index: dict[str, int], state: State, settings: JoinSettings) -> list[Columns]:
    """Cold impressions are known only after they left the hot state: before that, the hot state itself knows them.

    So what an earlier life of the engine has put there for a time that is still to come has no say. Only what is older
    than all that a continuation reads never becomes hot again, and is known from the first.
    """
    unread = BEGINNING if settings.first_needed_us is None else settings.first_needed_us
    pieces, count = [], 0
    for batch in batches:
        leave, time = (batch.column(name).to_numpy() for name in ("_leave", "_time"))
        piece = _candidates(
            COLD,
            code=np.array([index[id_] for id_ in batch.column("_id").to_pylist()], np.int64),
            start=np.where(time < unread, batch.column("_due").to_numpy(), leave + 1),
            stop=leave + settings.retention_us,
            time=time,
            leave=leave,
            cold=np.arange(count, count + len(leave)),
            ref=state.hot.features.add(batch),
            log=state.logs.codes(batch.column("_log")),
            **{name: batch.column(f"_{name}").to_numpy() for name in ("partition", "offset")},
        )
        pieces.append(piece)
        count += len(leave)
    for piece in pieces:
        piece["log"] = state.logs.ranks(piece["log"])
    return pieces


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
