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
    """When impressions are decided, in event time, as a pure function of their actions."""

    def decisions(self, window_ends: Times, firsts: Times) -> Times:
        """Decision times int64[n] from the ends of the windows int64[n] and ``firsts`` int64[n, labels].

        ``firsts`` holds when each label became positive within the window, NEVER where it has not so far. A decision
        is the time of an action or the end of the window, and never after it. Once it lies behind the watermark no
        further action may change it: the engine asks again whenever an action joins, and at the end of the window.
        """
        ...


class Wait:
    """Wait for the whole window: the labels are final, and every impression is as old as the window."""

    def decisions(self, window_ends: Times, firsts: Times) -> Times:
        """The ends of the windows."""
        return window_ends


class Settled:
    """Decide as soon as no later action can change the labels, which is when all of them are positive."""

    def decisions(self, window_ends: Times, firsts: Times) -> Times:
        """The time of the last action needed, at the latest the end of the window."""
        decisions: Times = np.minimum(firsts.max(axis=1), window_ends)
        return decisions


POLICIES: Mapping[str, LabelPolicy] = {"wait": Wait(), "settled": Settled()}
