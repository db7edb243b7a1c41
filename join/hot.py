"""The hot state: impressions whose window is open, with their features and the actions they have met."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from itertools import repeat

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from monobeam.join.cold import ACTION, HEAD
from monobeam.join.features import Features, copied
from monobeam.join.frame import Columns, Frame, Rows, Schedule, concat, height, take
from monobeam.join.names import Names
from monobeam.join.policy import NEVER

Bools = npt.NDArray[np.bool_]

POSITION_LAYOUT = {"log": np.int64, "partition": np.int32, "offset": np.int64}
IMPRESSION_LAYOUT = {"id": object, "time": np.int64, "due": np.int64, "ref": np.int64, **POSITION_LAYOUT}
MET_LAYOUT = {"type": np.int64, "time": np.int64, "value": np.float64, "matched": np.int64, **POSITION_LAYOUT}


class Hot:
    """Impressions by slot, a number that is never reused.

    `due`: when the impression became known (its time, or later if it was late); `leave`: when it leaves for the cold
    store; `decided`: when it became an example, NEVER before; `firsts` [labels]: when each label became positive within
    the window; `arrival`: the latest arrival of the actions until then; `tail`: the last of its actions, which are
    linked backwards by `previous`.
    """

    def __init__(self, window_us: int, labels: int) -> None:
        state = {"leave": np.int64, "decided": np.int64, "arrival": np.int64, "tail": np.int64}
        self.rows = Frame(IMPRESSION_LAYOUT | state | {"firsts": np.dtype((np.int64, (labels,)))})
        self.met = Frame(MET_LAYOUT | {"previous": np.int64})
        self.leaving = Schedule({"leave": np.int64, "slot": np.int64}, "leave")
        self.features = Features()
        self._where: dict[str, int] = {}
        self._window_us = window_us
        self._labels = labels

    def find(self, ids: Collection[str]) -> Rows:
        """The slots of impressions, -1 where there is none."""
        return np.fromiter(map(self._where.get, ids, repeat(-1)), np.int64, len(ids))

    def newest(self, slots: Rows) -> Bools:
        """Whether impressions are the ones that ``find`` gives: their ids have not started anew."""
        if len(self._where) == len(self.rows):
            return np.ones(len(slots), np.bool_)
        newest: Bools = self.find(self.rows.get("id", slots).tolist()) == slots
        return newest

    def enter(self, impressions: Columns) -> Rows:
        """New heads become hot, the newest of an id last; returns their slots."""
        count = height(impressions)
        leave = np.maximum(impressions["time"] + self._window_us, impressions["due"])
        state = {
            "leave": leave,
            "decided": np.full(count, NEVER),
            "arrival": np.zeros(count, np.int64),
            "tail": np.full(count, -1),
            "firsts": np.full((count, self._labels), NEVER),
        }
        slots = self.rows.append(impressions | state)
        self._where.update(zip(impressions["id"].tolist(), slots.tolist(), strict=True))
        self.leaving.push({"leave": leave, "slot": slots})
        return slots

    def remember(self, slots: Rows, actions: Columns) -> None:
        """Link actions (columns of MET_LAYOUT) to their impressions, to know duplicates by."""
        if not len(slots):
            return
        order = np.argsort(slots, kind="stable")
        slots = slots[order]
        rows = self.met.append(take(actions, order) | {"previous": np.full(len(order), -1)})
        first = np.ones(len(slots), np.bool_)
        first[1:] = slots[1:] != slots[:-1]
        previous = np.r_[np.int64(-1), rows[:-1]]
        previous[first] = self.rows.get("tail", slots[first])
        self.met.set("previous", rows, previous)
        last = np.r_[first[1:], True]
        self.rows.set("tail", slots[last], rows[last])

    def remembered(self, slots: Rows) -> tuple[Rows, Rows]:
        """The actions of impressions: (places in ``slots``, ascending; rows of ``met``, ascending within a place)."""
        places, rows = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        place, row = np.arange(len(slots)), self.rows.get("tail", slots)
        while len(row):
            there = row >= 0
            place, row = place[there], row[there]
            places.append(place)
            rows.append(row)
            row = self.met.get("previous", row)
        place, row = np.concatenate(places), np.concatenate(rows)
        order = np.lexsort((row, place))
        return place[order], row[order]

    def remove(self, slots: Rows) -> None:
        """Forget impressions, their features and their actions."""
        if not len(slots):
            return
        self.met.drop(self.remembered(slots)[1])
        self.features.release(self.rows.get("ref", slots))
        ids = self.rows.get("id", slots[self.newest(slots)]).tolist()
        deque(map(self._where.__delitem__, ids), maxlen=0)
        self.rows.drop(slots)

    def cold_batches(self, slots: Rows, logs: Names, types: Names) -> list[pa.RecordBatch]:
        """Impressions as the cold store keeps them (columns HEAD, then features), one batch per schema."""
        names = ("id", "time", "due", "leave", "ref", *POSITION_LAYOUT)
        rows = {name: self.rows.get(name, slots) for name in names}
        batches = []
        for places, batch, where in self.features.gather(rows["ref"]) if len(slots) else ():
            some, features = take(rows, places), copied(batch, where)
            head = [
                pa.array(some["id"], pa.string()),
                *(pa.array(some[name]) for name in ("time", "due", "leave")),
                logs.array(some["log"]),
                pa.array(some["partition"]),
                pa.array(some["offset"]),
                self._action_lists(slots[places], logs, types),
            ]
            schema = pa.schema([*HEAD, *features.schema])
            batches.append(pa.RecordBatch.from_arrays([*head, *features.columns], schema=schema))
        return batches

    def restore(self, impressions: Columns, met: Columns) -> None:
        """Take over what ``rows`` and ``met`` of another engine held; ``met`` has a `place` in the impressions."""
        slots = self.rows.append(impressions | {"tail": np.full(height(impressions), -1)})
        self._where.update(zip(impressions["id"].tolist(), slots.tolist(), strict=True))
        self.leaving.push({"leave": impressions["leave"], "slot": slots})
        self.remember(slots[met["place"]], {name: met[name] for name in MET_LAYOUT})

    def _action_lists(self, slots: Rows, logs: Names, types: Names) -> pa.ListArray:
        places, rows = self.remembered(slots)
        met = self.met.take(rows)
        fields = [
            types.array(met["type"]),
            *(pa.array(met[name]) for name in ("time", "value", "matched")),
            logs.array(met["log"]),
            pa.array(met["partition"]),
            pa.array(met["offset"]),
        ]
        ends = np.cumsum(np.bincount(places, minlength=len(slots)))
        offsets = pa.array(np.r_[0, ends].astype(np.int32))
        return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(fields, fields=list(ACTION)))


def stored_actions(batches: Iterable[pa.RecordBatch], logs: Names, types: Names) -> Columns:
    """The actions of all rows of cold batches: MET_LAYOUT and `cold`, the number of the row among all of them."""
    pieces, start = [], 0
    for batch in batches:
        lists = batch.column("_actions")
        fields = dict(zip(ACTION.names, lists.flatten().flatten(), strict=True))
        pieces.append(
            {
                "type": types.codes(fields["type"]),
                "log": logs.codes(fields["log"]),
                **{name: fields[name].to_numpy() for name in ("time", "value", "matched", "partition", "offset")},
                "cold": np.repeat(np.arange(len(lists)) + start, lists.value_lengths().to_numpy()),
            }
        )
        start += len(lists)
    return concat(pieces, MET_LAYOUT | {"cold": np.int64})
