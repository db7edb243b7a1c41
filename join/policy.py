"""When an impression becomes an example: the label policies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.int64]

NEVER = np.iinfo(np.int64).max
"""The time of what has not happened."""


class LabelPolicy(Protocol):
    """When impressions are decided, in event time, as a pure function of their actions until then.

    What comes later is never lost: an action after the decision that makes a label positive becomes a correction,
    within the window as beyond it. So a policy trades freshness against examples that are taken back.
    """

    def decisions(self, dues: Times, window_ends: Times, firsts: Times) -> Times:
        """Decision times int64[n]: each the due time of an impression, the time of an action, or the end of the window.

        ``dues`` and ``window_ends``, int64[n], are the first and the last time that there is to choose. ``firsts``,
        int64[n, labels], is when each label became positive within the window, NEVER where it has not so far. The
        engine asks when an impression is due, whenever an action joins it, and at the end of its window, until an
        answer lies behind the watermark. Actions after that answer must not have a say in it.
        """
        ...


class Wait:
    """Wait for the whole window: the labels are final, and every impression is as old as the window."""

    def decisions(self, dues: Times, window_ends: Times, firsts: Times) -> Times:
        """The ends of the windows."""
        return window_ends


class Settled:
    """Decide as soon as no later action can change the labels, which is when all of them are positive."""

    def decisions(self, dues: Times, window_ends: Times, firsts: Times) -> Times:
        """The time of the last action needed, at the latest the end of the window."""
        decisions: Times = np.minimum(firsts.max(axis=1), window_ends)
        return decisions


class AtOnce:
    """Decide as soon as an impression is known, and let every positive label follow as a correction.

    Nothing is fresher, but nearly every example is a negative at first and those of positives are fake ones. A model
    must train on the corrections, and learns too low probabilities unless its loss weights fake negatives.
    """

    def decisions(self, dues: Times, window_ends: Times, firsts: Times) -> Times:
        """The times at which the impressions are due."""
        return dues


POLICIES: Mapping[str, LabelPolicy] = {"wait": Wait(), "settled": Settled(), "at_once": AtOnce()}
