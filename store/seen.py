"""The keys of examples that have been trained on: what makes at-least-once logs train exactly once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from monobeam.native import NONE, Table
from monobeam.store.backend import SeenKeys
from monobeam.store.bags import Keys
from monobeam.store.changes import NO_KEYS, Rows
from monobeam.store.room import TableRoom
from monobeam.store.spec import MAX_SLOT

_NAME = "example keys"
_ROW = np.dtype([("last_seen", "<u4"), ("zero", "<u4"), ("update_count", "<u8")])


class SeenExamples:
    """Example keys, forgotten some time after their first sight: a native table of rows without width."""

    def __init__(self, retention_us: int, room: TableRoom) -> None:
        self._retention_s = retention_us // 1_000_000
        self._clock_s = 0  # of the examples: a backfill of old logs must not forget what it has just seen
        self._room = room
        with room.table(_NAME):
            self._table = Table(0, "sgd", {}, 0, 0.0, room=room.shared)
        for slot in range(MAX_SLOT + 1):
            self._table.set_policy(slot, expire_seconds=self._retention_s)
        self._new: list[SeenKeys] = []

    def __len__(self) -> int:
        return len(self._table)

    @property
    def memory_bytes(self) -> int:
        """Bytes held by the set."""
        return int(self._table.memory_bytes)

    @property
    def forget_s(self) -> int:
        """Keys first seen at or before this time, in seconds, may be forgotten."""
        return self._clock_s - self._retention_s

    def restore(self, block: SeenKeys) -> None:
        """Take over committed keys."""
        self._clock_s = max(self._clock_s, int(block.seconds.max(initial=0)))
        with self._room.table(_NAME):
            self._table.import_rows(block.keys, _rows(block))

    def mark(self, keys: Keys, now_s: int) -> npt.NDArray[np.bool_]:
        """Which of the keys (bool[N]) are seen for the first time, here or earlier in the same array; marks them.

        A key is forgotten, whether or not the sweep has come to it, if its time had passed before this call.
        """
        self._table.expire_keys(keys, self._clock_s)
        unseen: npt.NDArray[np.bool_] = np.asarray(self._table.find(keys)) == NONE
        before = len(self._table)
        self.restore(_at(now_s, keys[unseen]))
        if len(self._table) - before < unseen.sum():  # some come twice in the array: the first counts
            repeated = np.ones(len(keys), np.bool_)
            repeated[np.unique(keys, return_index=True)[1]] = False
            unseen &= ~repeated
        self._new.append(_at(now_s, keys[unseen]))
        self._clock_s = max(self._clock_s, now_s)
        return unseen

    def new(self) -> SeenKeys:
        """The keys marked since the last commit, in order of first sight."""
        return SeenKeys(
            np.concatenate([NO_KEYS, *(block.keys for block in self._new)]),
            np.concatenate([np.empty(0, np.uint32), *(block.seconds for block in self._new)]),
        )

    def committed(self) -> None:
        """The new keys are durable."""
        self._new.clear()

    def expire(self, now_s: int, budget: int) -> None:
        """Forget keys first seen a retention ago or longer; looks at up to ``budget`` buckets."""
        self._clock_s = max(self._clock_s, now_s)
        self._table.expire(self._clock_s, budget)
        self._table.clear_touched()


def _at(now_s: int, keys: Keys) -> SeenKeys:
    return SeenKeys(keys, np.full(len(keys), now_s, np.uint32))


def _rows(block: SeenKeys) -> Rows:
    rows = np.zeros(len(block.keys), _ROW)
    rows["last_seen"] = block.seconds
    return rows.view(np.uint8).reshape(len(rows), _ROW.itemsize)
