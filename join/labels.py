"""Labels: which actions make them positive, and which are the first to do so."""

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


def first_to_give(actions: Columns, gives: Bools) -> Bools:
    """Which of the labels that each action gives no earlier one has given to the same impression, bool[n, labels].

    Actions have the columns head (a number for the impression), matched (event time), due, time and position, and are
    ordered by these.
    """
    head = actions["head"]
    order = np.lexsort([actions[name] for name in (*POSITION, "time", "due", "matched", "head")])
    given = np.zeros((len(head) + 1, gives.shape[1]), np.int64)
    np.cumsum(gives[order], axis=0, out=given[1:])
    given = given[1:] - given[_starts(head[order])]
    first = np.empty_like(gives)
    first[order] = gives[order] & (given == 1)
    return first


def _starts(groups: Rows) -> Rows:
    """The first row of each row's group, in an array where groups lie side by side."""
    first = np.ones(len(groups), np.bool_)
    first[1:] = groups[1:] != groups[:-1]
    return np.maximum.accumulate(np.where(first, np.arange(len(groups)), 0))
