"""Actions that are due and have no impression yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from monobeam.join.frame import Columns, Frame, Rows, Schedule
from monobeam.join.hot import POSITION_LAYOUT

ACTION_LAYOUT = {
    "id": object,
    "time": np.int64,
    "due": np.int64,
    "type": np.int64,
    "value": np.float64,
    "arrival": np.int64,
    **POSITION_LAYOUT,
}


class Waiting:
    """Actions by id, until their impression comes late or they have waited for the retention."""

    def __init__(self, retention_us: int) -> None:
        self.rows = Frame(ACTION_LAYOUT)
        self._ends = Schedule({"end": np.int64, "row": np.int64}, "end")
        self._by_id: dict[str, list[int]] = {}
        self._retention_us = retention_us

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, actions: Columns) -> None:
        """Let actions wait, each until its due time + retention."""
        rows = self.rows.append(actions)
        self._ends.push({"end": actions["due"] + self._retention_us, "row": rows})
        for id_, row in zip(actions["id"].tolist(), rows.tolist(), strict=True):
            self._by_id.setdefault(id_, []).append(row)

    def ended(self, before: int) -> set[str]:
        """The ids of actions whose wait ends before the time; to be removed now."""
        rows = self._ends.pop(before)["row"]
        return set(self.rows.get("id", rows[self.rows.living(rows)]).tolist())

    def of(self, ids: Mapping[str, Any]) -> Rows:
        """The rows of all actions of some ids."""
        return np.array(sorted(row for id_ in self._by_id.keys() & ids.keys() for row in self._by_id[id_]), np.int64)

    def remove(self, rows: Rows) -> None:
        """Actions that wait no longer."""
        for id_, row in zip(self.rows.get("id", rows).tolist(), rows.tolist(), strict=True):
            left = self._by_id[id_]
            left.remove(row)
            if not left:
                del self._by_id[id_]
        self.rows.drop(rows)

    def first_end(self) -> int | None:
        """The first time at which the wait of an action may end."""
        return self._ends.first()
