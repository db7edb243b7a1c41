"""One advance of the join: all that happens between two watermarks, column by column."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from monobeam.join.cold import ColdStore, ColdWrite
from monobeam.join.examples import CORRECTION, EXAMPLE_LAYOUT, JOINED, NEGATIVE, blocks
from monobeam.join.features import counted
from monobeam.join.frame import Columns, Rows, concat, height, take
from monobeam.join.heads import Heads, find_heads
from monobeam.join.hot import MET_LAYOUT
from monobeam.join.labels import first_to_give, satisfied
from monobeam.join.meeting import Meeting, meet
from monobeam.join.names import codes, numbered
from monobeam.join.policy import NEVER, POLICIES
from monobeam.join.sampling import correction_keys, example_keys, kept
from monobeam.join.settings import JoinSettings
from monobeam.join.state import BEGINNING, State
from monobeam.join.waiting import ACTION_LAYOUT

Bools = npt.NDArray[np.bool_]

NO_IMPRESSION = "unmatched: no impression came within the retention"
BEFORE_IMPRESSION = "unmatched: the action is before its impression"


@dataclass(frozen=True)
class Advanced:
    """Blocks of examples, and records for the log of dead letters, in canonical order."""

    examples: list[pa.RecordBatch]
    dead_letters: list[dict[str, Any]]


class Advance:
    """Moves a state up to a watermark (a tick boundary after the state's own)."""

    def __init__(self, settings: JoinSettings, state: State, cold: ColdStore, watermark_us: int) -> None:
        self._settings = settings
        self._state = state
        self._cold = cold
        self._watermark = watermark_us
        since = settings.since_us
        self._since = BEGINNING if since is None else settings.tick_start(since)

    def run(self) -> Advanced:
        """Do it, once."""
        state = self._state
        impressions = state.impressions.pop(self._watermark)
        due = state.actions.pop(self._watermark)
        self._pass_time(impressions, due)
        ended = state.waiting.ended(self._watermark)
        index = numbered(impressions["id"].tolist(), due["id"].tolist(), sorted(ended))
        actions, rows = self._with_waiting(due, index)
        shown, acted = codes(index, impressions["id"]), codes(index, actions["id"])
        heads = find_heads(index, shown, impressions, state, self._cold, self._settings)
        self._drop_duplicates(heads, impressions)
        meeting = meet(actions | {"code": acted, "row": rows}, heads, state, self._settings, self._watermark)
        touched = self._join(meeting)
        leaving = state.hot.leaving.pop(self._watermark)["slot"]
        decided = self._decide(np.concatenate([touched, heads.entered, leaving]))
        after = self._take_in(meeting)
        examples = [self._examples(decided), self._correct(heads, meeting, after)]
        emitted = list(blocks(concat(examples, _EXAMPLE), state.hot.features, self._settings))
        self._settle(meeting)
        self._cool(heads, meeting, leaving)
        state.watermark = self._watermark
        return Advanced(emitted, self._dead_letters(meeting))

    def _with_waiting(self, due: Columns, index: dict[str, int]) -> tuple[Columns, Rows]:
        """Due actions, then those that wait for one of the ids; with the rows of these, -1 for others."""
        waiting = self._state.waiting
        rows = waiting.of(index)
        actions = concat([due, waiting.rows.take(rows)], ACTION_LAYOUT)
        return actions, np.concatenate([np.full(height(due), -1), rows])

    def _pass_time(self, *records: Columns) -> None:
        for columns in records:
            self._state.latest = max(self._state.latest, int(columns["due"].max(initial=BEGINNING)))

    def _drop_duplicates(self, heads: Heads, impressions: Columns) -> None:
        dropped = take(impressions, heads.duplicates)
        self._state.hot.features.release(dropped["ref"])
        self._count_impressions("impressions_duplicated", dropped["due"])

    def _join(self, meeting: Meeting) -> Rows:
        """Hot impressions take in the actions they have met; returns the slots whose labels may have changed."""
        hot, slot = self._state.hot, meeting.slot
        met = (meeting.in_time | meeting.late) & (slot >= 0)
        actions = meeting.actions | {"log": meeting.actions["log_code"], "matched": meeting.matched_at}
        hot.remember(slot[met], {name: actions[name][met] for name in MET_LAYOUT})
        met = meeting.in_time & (slot >= 0)
        gives = satisfied(self._settings.labels, self._state.types, take(meeting.actions, met))
        for label in range(gives.shape[1]):
            row = np.flatnonzero(gives[:, label])
            hot.rows.lower("firsts", (slot[met][row], label), meeting.matched_at[met][row])
        return slot[met]

    def _decide(self, slots: Rows) -> Rows:
        """Decide the impressions whose decision the watermark has passed; returns their slots."""
        hot = self._state.hot.rows
        slots = counted(slots)[0] if len(slots) else slots
        slots = slots[hot.get("decided", slots) == NEVER]
        policy = POLICIES[self._settings.policy]
        times = policy.decisions(hot.get("due", slots), hot.get("leave", slots), hot.get("firsts", slots))
        slots, times = slots[times < self._watermark], times[times < self._watermark]
        hot.set("decided", slots, times)
        return slots

    def _take_in(self, meeting: Meeting) -> Rows:
        """Note the latest arrival of the actions that examples rest on; returns the rows of those after a decision."""
        hot = self._state.hot.rows
        rows = np.flatnonzero(meeting.in_time & (meeting.slot >= 0))
        slots = meeting.slot[rows]
        until = meeting.matched_at[rows] <= hot.get("decided", slots)
        hot.raise_to("arrival", slots[until], meeting.actions["arrival"][rows[until]])
        return rows[~until]

    def _examples(self, slots: Rows) -> Columns:
        """The examples of impressions that have been decided just now."""
        hot = self._state.hot.rows
        rows = {name: hot.get(name, slots) for name in ("id", "time", "decided", "arrival", "ref", "firsts")}
        times = rows["decided"]
        rows["labels"] = rows["firsts"] <= times[:, None]
        rows["known"] = np.ones_like(rows["labels"])
        negative = ~np.logical_or.reduce(rows["labels"], axis=1)
        rows["kind"] = np.where(negative, NEGATIVE, JOINED).astype(np.uint8)
        ids = pa.array(rows["id"], pa.string())
        rows["key"] = example_keys(ids)
        sampled_out = negative & ~kept(ids, self._settings.negative_rate, self._settings.seed)
        self._count_impressions("sampled_out", times[sampled_out])
        self._count_impressions("examples", times[~sampled_out])
        emitted = ~sampled_out & (times >= self._since)
        self._state.counters.negatives(int(np.count_nonzero(emitted & negative)))
        return {name: rows[name][emitted] for name in _EXAMPLE}

    def _correct(self, heads: Heads, meeting: Meeting, after: Rows) -> Columns:
        """The corrections that actions after the decision and late ones bring; counts all that have matched."""
        rows = np.concatenate([after, np.flatnonzero(meeting.late)])
        labels = self._corrected(heads, meeting, after, rows[len(after) :])
        corrects = np.logical_or.reduce(labels, axis=1)
        joined = meeting.in_time | meeting.late | meeting.joined_before
        joined[rows[corrects]] = False
        self._count_actions("joined", meeting.when[joined])
        self._count_actions("corrections", meeting.when[rows[corrects]])
        corrects &= meeting.when[rows] >= self._since
        rows, labels = rows[corrects], labels[corrects]
        actions = take(meeting.actions, rows)
        types = [self._state.types.names[code] for code in actions["type"].tolist()]
        identity = zip(actions["id"].tolist(), types, actions["time"].tolist(), actions["value"].tolist(), strict=True)
        return {
            "id": actions["id"],
            "time": actions["time"],
            "decided": meeting.when[rows],
            "kind": np.full(len(rows), CORRECTION, np.uint8),
            "key": correction_keys(identity),
            "arrival": actions["arrival"],
            "ref": heads.columns["ref"][meeting.head[rows]],
            "labels": labels,
            "known": labels,
        }

    def _corrected(self, heads: Heads, meeting: Meeting, after: Rows, late: Rows) -> Bools:
        """Which labels actions after the decision, then late ones, are the first to make positive, bool[n, labels]."""
        settings, types, stored = self._settings, self._state.types, meeting.stored
        slot, count = heads.columns["slot"], len(after) + len(late)
        if not count:
            return np.empty((0, len(settings.labels)), np.bool_)
        # What cold heads met before counts as well, except for the records that come again just now.
        others = np.isin(stored["head"], meeting.head[late]) & (slot[stored["head"]] < 0)
        others[meeting.again[late][meeting.again[late] >= 0]] = False
        other = take(stored, others) | {"due": stored["matched"][others]}
        in_time = (other["time"] - heads.columns["time"][other["head"]] <= settings.window_us) & (
            other["matched"] <= heads.columns["leave"][other["head"]]
        )
        firsts = np.full((len(slot), len(settings.labels)), NEVER)
        firsts[slot >= 0] = self._state.hot.rows.get("firsts", slot[slot >= 0])
        first = np.where(satisfied(settings.labels, types, other), other["matched"][:, None], NEVER)
        np.minimum.at(firsts, other["head"][in_time], first[in_time])
        actions = meeting.actions | {"head": meeting.head, "matched": meeting.matched_at}
        actions = concat([take(actions, after), take(actions, late), take(other, ~in_time)], _MET)
        # A label has its first action in the window, or none there and its first one later.
        first = np.where(np.arange(len(actions["head"])) < len(after), actions["matched"], NEVER)
        gives = satisfied(settings.labels, types, actions) & (firsts[actions["head"]] == first[:, None])
        return first_to_give(actions, gives)[:count]

    def _settle(self, meeting: Meeting) -> None:
        """Actions that go without an example, and the ones that wait or wait no longer."""
        self._count_actions("actions_duplicated", meeting.when[meeting.duplicate])
        self._count_actions("unmatched", meeting.when[meeting.early | meeting.ended])
        row = meeting.actions["row"]
        waits = meeting.waits & (row < 0)
        waiting = self._state.waiting
        waiting.remove(row[(row >= 0) & ~meeting.waits])
        columns = meeting.actions | {"log": meeting.actions["log_code"]}
        waiting.add({name: columns[name][waits] for name in ACTION_LAYOUT})

    def _cool(self, heads: Heads, meeting: Meeting, leaving: Rows) -> None:
        """Impressions whose window has passed move to the cold store, and actions join those that are there."""
        hot, settings = self._state.hot, self._settings
        clock = min(self._watermark, self._state.latest)
        # After a restart event time may be behind what the store has seen, by a window or more.
        until = hot.rows.get("leave", leaving) + 2 * settings.retention_us + settings.window_us
        kept_slots = leaving[(until >= clock) & hot.newest(leaving)]
        batches = hot.cold_batches(kept_slots, self._state.logs, self._state.types)
        latest = int(until.max(initial=clock))
        actions = self._cold_actions(meeting)
        if batches or actions:
            expiring = [(batch, latest) for batch in batches]
            self._cold.write(ColdWrite(settings.shard, settings.shards, clock, expiring, actions))
        hot.remove(leaving)
        hot.features.release(heads.borrowed)

    def _cold_actions(self, meeting: Meeting) -> list[tuple[str, dict[str, Any]]]:
        cold = (meeting.late | meeting.in_time) & (meeting.slot < 0)
        rows = np.flatnonzero(cold & (meeting.again < 0))
        return [
            (action.pop("id"), action | {"matched": int(meeting.matched_at[row])})
            for row, action in zip(rows.tolist(), self._plain(meeting, rows), strict=True)
        ]

    def _dead_letters(self, meeting: Meeting) -> list[dict[str, Any]]:
        """Records for the log of dead letters, by the time at which they were given up, then position."""
        rows = np.flatnonzero((meeting.early | meeting.ended) & (meeting.when >= self._since))
        letters = []
        for row, action in zip(rows.tolist(), self._plain(meeting, rows), strict=True):
            position = {name: action.pop(name) for name in ("log", "partition", "offset")}
            reason = BEFORE_IMPRESSION if meeting.early[row] else NO_IMPRESSION
            record = {"impression_id": action.pop("id"), **action, "ingest_time": int(meeting.actions["arrival"][row])}
            payload = json.dumps(record, ensure_ascii=False).encode()
            when = int(meeting.when[row])
            letters.append(position | {"count": 1, "reason": reason, "time": when, "payload": payload})
        return sorted(letters, key=lambda letter: [letter[name] for name in ("time", "log", "partition", "offset")])

    def _plain(self, meeting: Meeting, rows: Rows) -> list[dict[str, Any]]:
        """Some actions as plain values: id, time, type, value, position."""
        columns = {name: meeting.actions[name][rows].tolist() for name in (*ACTION_LAYOUT, "log_code")}
        columns["type"] = [self._state.types.names[code] for code in columns["type"]]
        columns["log"] = [self._state.logs.names[code] for code in columns["log_code"]]
        names = ("id", "time", "type", "value", "log", "partition", "offset")
        return [dict(zip(names, values, strict=True)) for values in zip(*(columns[n] for n in names), strict=True)]

    def _count_impressions(self, outcome: str, when: Rows) -> None:
        counted = int(np.count_nonzero(when >= self._since))
        self._state.counters.impressions_became(outcome, counted)
        self._state.counters.impressions_passed_over(len(when) - counted)

    def _count_actions(self, outcome: str, when: Rows) -> None:
        counted = int(np.count_nonzero(when >= self._since))
        self._state.counters.actions_became(outcome, counted)
        self._state.counters.actions_passed_over(len(when) - counted)


_EXAMPLE = EXAMPLE_LAYOUT | {"labels": np.bool_, "known": np.bool_}
_MET = MET_LAYOUT | {"head": np.int64, "due": np.int64}
