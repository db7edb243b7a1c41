"""Labels: which actions make them positive, and which late actions make a correction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from monobeam.join.frame import Columns, Rows
from monobeam.join.match import POSITION
from monobeam.join.names import Names
from monobeam.join.settings import Label

Bools = npt.NDArray[np.bool_]


def satisfied(labels: Sequence[Label], types: Names, actions: Columns) -> Bools:
    """Which labels each action makes positive if it falls in the window, bool[n, labels]."""
    columns = []
    for label in labels:
        column = actions["type"] == types.code(label.action)
        if label.min_value is not None:
            column &= actions["value"] >= label.min_value
        columns.append(column)
    return np.stack(columns, axis=1)


def corrections(actions: Columns, gives: Bools, before: Bools) -> tuple[Bools, Bools]:
    """Late actions that are the first to make some label of their impression positive.

    Args:
        actions: late actions and what corrected the same impressions before: columns head (a number), matched (event
            time), due, time and position.
        gives: which labels each would make positive, bool[n, labels].
        before: which labels of its impression are positive by actions in the window, bool[n, labels].

    Returns:
        (is a correction, bool[n]; the labels once the action is taken in, bool[n, labels]).
    """
    head = actions["head"]
    order = np.lexsort([actions[name] for name in (*POSITION, "time", "due", "matched", "head")])
    start = _starts(head[order])
    given = np.zeros((len(head) + 1, before.shape[1]), np.int64)
    np.cumsum(gives[order], axis=0, out=given[1:])
    given = given[1:] - given[start]
    labels, first = np.empty_like(before), np.empty_like(before)
    labels[order] = before[order] | (given > 0)
    first[order] = gives[order] & (given == 1) & ~before[order]
    corrects: Bools = np.logical_or.reduce(first, axis=1)
    return corrects, labels


def _starts(groups: Rows) -> Rows:
    """The first row of each row's group, in an array where groups lie side by side."""
    first = np.ones(len(groups), np.bool_)
    first[1:] = groups[1:] != groups[:-1]
    return np.maximum.accumulate(np.where(first, np.arange(len(groups)), 0))
