"""Due actions meet their impressions: what becomes of each action in one advance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monobeam.join.frame import Columns, Rows, take
from monobeam.join.heads import Heads
from monobeam.join.hot import MET_LAYOUT
from monobeam.join.match import EARLY, HOT, MATCHED, WAITS, Assigned, assign, first_equal, known_heads
from monobeam.join.settings import JoinSettings
from monobeam.join.state import State

Bools = npt.NDArray[np.bool_]


@dataclass
class Meeting:
    """Actions and what became of each (masks bool[n], of which exactly one is true for each action).

    ``actions``: ACTION_LAYOUT (`log` as the rank of its name, `log_code` as its code), `code` of the id, `row` in the
    waiting ones or -1. ``stored``: what the heads involved had met before, MET_LAYOUT and `head`. For matched ones,
    ``head``: the row in the heads; ``slot``: their slot, -1 for cold heads; ``matched_at``: when they matched (event
    time), for a record that comes again the first time. ``when``: when it was resolved. ``again``: the row of
    ``stored`` that is this very record, -1 for others. ``in_time``: matched ones that fall in the window and came
    before their impression left; ``late``: the other matched ones.
    """

    actions: Columns
    stored: Columns
    head: Rows
    slot: Rows
    matched_at: Rows
    when: Rows
    again: Rows
    in_time: Bools
    late: Bools
    duplicate: Bools
    early: Bools
    ended: Bools
    joined_before: Bools
    waits: Bools


def meet(actions: Columns, heads: Heads, state: State, settings: JoinSettings, watermark_us: int) -> Meeting:
    """Find out what becomes of due and waiting actions when event time reaches the watermark."""
    actions["log_code"] = actions["log"]
    actions["log"] = state.logs.ranks(actions["log"])
    columns = heads.columns
    known = known_heads(columns, actions)
    known[actions["row"] >= 0] = -1  # whatever waits was not known when it was due
    stored = _stored(heads, known, actions, state)
    again, duplicate = _repeats(actions, stored, known, len(columns["code"]))
    assigned = assign(columns, actions, known, settings.retention_us)
    duplicate |= _repeats_after_wait(actions, assigned, known, duplicate)

    matched = ~duplicate & (assigned.state == MATCHED)
    matched_at = assigned.met.copy()
    came = np.flatnonzero(again >= 0)
    matched_at[came] = np.minimum(matched_at[came], stored["matched"][again[came]])
    in_time = matched.copy()
    head = assigned.head[matched]
    in_time[matched] = (actions["time"][matched] - columns["time"][head] <= settings.window_us) & (
        matched_at[matched] <= columns["leave"][head]
    )
    waits = ~duplicate & (assigned.state == WAITS)
    end = actions["due"] + settings.retention_us
    ended = waits & (end < watermark_us)
    when = np.where(ended, end, np.where(duplicate, actions["due"], assigned.met))
    slot = np.full(len(known), -1)
    slot[matched] = columns["slot"][head]
    before = _joined_before(actions, ended, heads.stored, when)
    return Meeting(
        actions=actions,
        stored=stored,
        head=assigned.head,
        slot=slot,
        matched_at=matched_at,
        when=when,
        again=again,
        in_time=in_time,
        late=matched & ~in_time,
        duplicate=duplicate,
        early=~duplicate & (assigned.state == EARLY),
        ended=ended & ~before,
        joined_before=before,
        waits=waits & ~ended,
    )


def _stored(heads: Heads, known: Rows, actions: Columns, state: State) -> Columns:
    """What cold heads met before; of hot heads only where late actions came, for no others can equal what is known."""
    columns = heads.columns
    late = known[(actions["time"] < actions["due"]) & (known >= 0)]
    hot = np.unique(late[columns["origin"][late] == HOT])
    places, rows = state.hot.remembered(columns["slot"][hot])
    pieces = take(heads.stored, heads.stored["head"] >= 0)
    stored = {name: np.concatenate([state.hot.met.get(name, rows), pieces[name]]) for name in MET_LAYOUT}
    stored["head"] = np.concatenate([hot[places], pieces["head"]])
    stored["log"] = state.logs.ranks(stored["log"])
    return stored


def _repeats(actions: Columns, stored: Columns, known: Rows, heads: int) -> tuple[Rows, Bools]:
    """(for each action the row of ``stored`` that is the same record, or -1; which actions are duplicates)."""
    count = len(known)
    names = ("type", "time", "value", "log", "partition", "offset")
    both = {name: np.concatenate([actions[name], stored[name]]) for name in names}
    both["due"] = np.concatenate([actions["due"], stored["matched"]])
    both["stored"] = np.arange(count + len(stored["head"])) >= count
    group = np.concatenate([np.where(known >= 0, known, heads + actions["code"]), stored["head"]])
    first = first_equal(group, both)[:count]
    again = np.where(first >= count, first - count, -1)
    seen = np.flatnonzero(again >= 0)
    for name in ("log", "partition", "offset"):
        other = stored[name][again[seen]] != actions[name][seen]
        again[seen[other]] = -1
        seen = seen[~other]
    return again, (first != np.arange(count)) & (again < 0)


def _repeats_after_wait(actions: Columns, assigned: Assigned, known: Rows, duplicate: Bools) -> Bools:
    """Duplicates among actions that meet the same impression, some at once and some after a wait."""
    matched = (assigned.state == MATCHED) & ~duplicate
    if not np.any(matched & (assigned.head != known)):
        return np.zeros(len(known), np.bool_)
    first = first_equal(np.where(matched, assigned.head, -1), actions | {"stored": np.zeros(len(known), np.bool_)})
    repeats: Bools = first != np.arange(len(known))
    return repeats


def _joined_before(actions: Columns, ended: Bools, stored: Columns, when: Rows) -> Bools:
    """Which actions whose wait ended were joined by an earlier life, to an impression that is not read again.

    The cold store has them, by position. ``when`` is put back to that time.
    """
    before = np.zeros(len(ended), np.bool_)
    rows = np.flatnonzero(ended)
    if not len(rows) or not len(stored["head"]):
        return before
    names = ("code", "type", "time", "value", "log", "partition", "offset")
    known = dict(zip(zip(*(stored[n].tolist() for n in names), strict=True), stored["matched"].tolist(), strict=True))
    coded = actions | {"log": actions["log_code"]}
    keys = zip(*(coded[n][rows].tolist() for n in names), strict=True)
    for row, key in zip(rows.tolist(), keys, strict=True):
        if key in known:
            before[row] = True
            when[row] = known[key]
    return before
