"""Which impression an action belongs to, and what is a duplicate: pure functions of due records.

Impressions become known to the join when they are due and stay known until they leave the cold store. Records of one id
share a ``code``. Of the impressions of an id one is the head, the others are duplicates of it, unless they come so late
that the head is forgotten and they start anew.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from monobeam.join.frame import Columns, Rows

HOT, COLD, NEW = 0, 1, 2
"""Where a head is: in the hot state, in the cold store, or among the impressions that are due now."""

WAITS, MATCHED, EARLY = 0, 1, 2
"""What an action is so far: without impression, with its impression, or before it (which never matches)."""

POSITION = ("offset", "partition", "log")

Flags = npt.NDArray[np.bool_]


def choose_heads(impressions: Columns) -> Rows:
    """The rows of the heads, sorted by (code, start): of an id the first to be known, and the first after it.

    Columns: code, start and stop (known in [start, stop], event time), origin (HOT | COLD | NEW), time and position.
    Where several are known from one moment on, the engine's own comes first, then the earliest time, then position.
    """
    code, start, stop = impressions["code"], impressions["start"], impressions["stop"]
    crowded = np.bincount(code)[code] > 1
    if not crowded.any():
        return np.argsort(code, kind="stable")
    left = np.flatnonzero(crowded)
    keys = [impressions[name][left] for name in (*POSITION, "time", "origin", "start", "code")]
    left = left[np.lexsort(keys)]
    chosen = [np.flatnonzero(~crowded)]
    while len(left):
        first = np.ones(len(left), np.bool_)
        first[1:] = code[left[1:]] != code[left[:-1]]
        heads = left[first]
        chosen.append(heads)
        left = left[~first & (start[left] > stop[heads][np.cumsum(first) - 1])]
    rows = np.concatenate(chosen)  # of one code, in order of start
    return rows[np.argsort(code[rows], kind="stable")]


class Assigned(NamedTuple):
    """For each action: its head (row of the heads, -1: none), when it met it (event time), and what it is now."""

    head: Rows
    met: Rows
    state: npt.NDArray[np.int8]


def known_heads(heads: Columns, actions: Columns) -> Rows:
    """The head that is known when an action is due, int64[n], -1 where there is none.

    ``heads`` (code, start, stop) must be sorted by (code, start); ``actions`` have code and due.
    """
    first = np.searchsorted(heads["code"], actions["code"], side="left")
    latest = _latest(heads, actions, first)
    known = latest >= first
    known[known] = actions["due"][known] <= heads["stop"][latest[known]]
    return np.where(known, latest, -1)


def assign(heads: Columns, actions: Columns, known: Rows, retention_us: int) -> Assigned:
    """Give each action the head known when it is due, or else the next one that comes while it waits.

    A head from the cold store meets no waiting action: the action was due before that impression left the hot state,
    so the impression is still to come (it is known from an earlier life of the engine). One that does not come again,
    and is known from its first moment, meets those that are before it: the earlier life gave them up at that moment.
    """
    first = np.searchsorted(heads["code"], actions["code"], side="left")
    end = np.searchsorted(heads["code"], actions["code"], side="right")
    after = _latest(heads, actions, first) + 1
    ahead = np.flatnonzero((known < 0) & (after < end))
    next_ = after[ahead]
    gave_up = (heads["start"][next_] <= heads["leave"][next_]) & (actions["time"][ahead] < heads["time"][next_])
    after[ahead[(heads["origin"][next_] == COLD) & ~gave_up]] += 1
    ahead = ahead[after[ahead] < end[ahead]]
    ahead = ahead[heads["start"][after[ahead]] <= actions["due"][ahead] + retention_us]

    head, met = known.copy(), actions["due"].copy()
    head[ahead] = after[ahead]
    met[ahead] = heads["start"][after[ahead]]
    state = np.full(len(head), WAITS, np.int8)
    has = np.flatnonzero(head >= 0)
    state[has] = np.where(heads["time"][head[has]] <= actions["time"][has], MATCHED, EARLY)
    return Assigned(head, met, state)


def _latest(heads: Columns, actions: Columns, first: Rows) -> Rows:
    """The last head of the action's id with start <= due; first - 1 where there is none."""
    code, start = heads["code"], heads["start"]
    latest = first - 1
    moving = np.arange(len(first))
    while len(moving):
        after = latest[moving] + 1
        inside = after < len(code)
        moving, after = moving[inside], after[inside]
        moves = (code[after] == actions["code"][moving]) & (start[after] <= actions["due"][moving])
        moving = moving[moves]
        latest[moving] += 1
    return latest


def first_equal(group: Rows, actions: Columns) -> Rows:
    """For each action the row of the first one that equals it, int64[n] (itself if there is none before it).

    Equal are actions of one group (a small number; -1: none) with equal type, time and value; ``stored`` ones (seen
    earlier) come first, then by due and position.
    """
    first = np.arange(len(group))
    if not len(group):
        return first
    crowded = np.flatnonzero((np.bincount(group + 1)[group + 1] > 1) & (group >= 0))
    if not len(crowded):
        return first
    identity = ("value", "type", "time")
    keys = [actions[name][crowded] for name in (*POSITION, "due")] + [~actions["stored"][crowded]]
    keys += [actions[name][crowded] for name in identity] + [group[crowded]]
    order = crowded[np.lexsort(keys)]
    new = np.ones(len(order), np.bool_)
    new[1:] = group[order[1:]] != group[order[:-1]]
    for name in identity:
        new[1:] |= actions[name][order[1:]] != actions[name][order[:-1]]
    first[order] = order[np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))]
    return first
