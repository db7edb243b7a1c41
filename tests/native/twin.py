"""The table written the obvious way: a dict of float32 arrays. The native one must give the same bits."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tests.native.formats import nearest, stochastic
from tests.native.hashes import initial_row, uniform_draw
from tests.native.optimizers import make_rule

Floats = npt.NDArray[np.float32]


@dataclass
class Policy:
    admit_count: int = 0
    admit_probability: float = 1.0
    expire_seconds: int = 0
    pending_seconds: int = 0


@dataclass
class Row:
    values: Floats
    state: Floats
    seen: int
    updates: int = 0


@dataclass
class Pending:
    sightings: int
    seen: int


@dataclass
class Twin:
    dim: int
    optimizer: str
    hyper: Mapping[str, float]
    seed: int
    init_scale: float
    row_format: str = "fp32"
    pending_limit: int = 1 << 20
    rows: dict[int, Row] = field(default_factory=dict)
    pending: dict[int, Pending] = field(default_factory=dict)
    waiting: deque[int] = field(default_factory=deque)
    policies: dict[int, Policy] = field(default_factory=dict)
    updated: set[int] = field(default_factory=set)
    removed: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.rule = make_rule(self.optimizer, np.float32, dict(self.hyper))

    def find_or_insert(self, keys: Sequence[int], now: int) -> list[bool]:
        return [self._sight(key, now) for key in keys]

    def _sight(self, key: int, now: int) -> bool:
        if key in self.rows:
            self.rows[key].seen = max(self.rows[key].seen, now)
            return True
        policy = self._policy(key)
        added = key not in self.pending
        pending = self.pending.setdefault(key, Pending(0, now))
        if self._passed(policy.pending_seconds or policy.expire_seconds, pending.seen, now):
            pending.sightings = 0
        pending.sightings += 1
        pending.seen = max(pending.seen, now)
        drawn = policy.admit_probability == 1 or (
            uniform_draw(key, pending.sightings, self.seed) < policy.admit_probability
        )
        if pending.sightings >= policy.admit_count and drawn:
            self._add_row(key, pending.seen)
            return True
        if added:
            self._wait(key)
        return False

    def _wait(self, key: int) -> None:
        self.waiting.append(key)
        if len(self.waiting) > self.pending_limit:
            self.pending.pop(self.waiting.popleft(), None)

    def _policy(self, key: int) -> Policy:
        return self.policies.get(key >> 48 & 0x7FFF, Policy())

    def _add_row(self, key: int, seen: int) -> Row:
        waiting = self.pending.pop(key, None)
        values = initial_row(key, self.seed, self.dim, self.init_scale)
        row = Row(self._held(values), self.rule.initial_state(self.dim), waiting.seen if waiting else seen)
        self.rows[key] = row
        return row

    def _held(self, values: Floats) -> Floats:
        return nearest(self.row_format, values[None])[0]

    def embedding(self, key: int) -> Floats:
        return self.rows[key].values if key in self.rows else np.zeros(self.dim, np.float32)

    def pooled(self, bags: Sequence[Sequence[int]]) -> Floats:
        out = np.zeros((len(bags), self.dim), np.float32)
        for m, bag in enumerate(bags):
            for key in bag:
                out[m] += self.embedding(key)
        return out

    def apply_pooled(self, bags: Sequence[Sequence[int]], gradients: Floats, learning_rate: float) -> None:
        sums: dict[int, Floats] = {}
        for bag, gradient in zip(bags, gradients, strict=True):
            for key in bag:
                if key not in self.rows:
                    continue
                self.rows[key].updates += 1
                sums[key] = sums[key] + gradient if key in sums else gradient.copy()
        for key, total in sums.items():
            row = self.rows[key]
            self.rule.step(row.values, row.state, total, np.float32(learning_rate))
            if self.row_format != "fp32":
                row.values = stochastic(self.row_format, row.values, row.updates, self.seed)
            self.updated.add(key)

    def touched(self) -> list[int]:
        return sorted((self.updated | self.removed) & self.rows.keys())

    def expired(self) -> list[int]:
        return sorted(self.removed - self.rows.keys())

    def clear_touched(self) -> None:
        self.updated.clear()
        self.removed.clear()

    def export_rows(self, keys: Sequence[int]) -> npt.NDArray[np.uint8]:
        return np.array([list(self._row_bytes(self.rows[key])) for key in keys], np.uint8)

    @staticmethod
    def _row_bytes(row: Row) -> bytes:
        tail = np.array([row.seen, 0], "<u4").tobytes() + np.array([row.updates], "<u8").tobytes()
        return row.values.astype("<f4").tobytes() + row.state.astype("<f4").tobytes() + tail

    def import_rows(self, keys: Sequence[int], rows: npt.NDArray[np.uint8]) -> None:
        for key, data in zip(keys, rows, strict=True):
            row = self.rows.get(key) or self._add_row(key, 0)
            floats = data[:-16].copy().view("<f4")
            row.values, row.state = self._held(floats[: self.dim]), floats[self.dim :].copy()
            row.seen = int(data[-16:-12].copy().view("<u4")[0])
            row.updates = int(data[-8:].copy().view("<u8")[0])

    def import_values(self, keys: Sequence[int], values: Floats) -> None:
        for key, value in zip(keys, values, strict=True):
            row = self.rows.get(key) or self._add_row(key, 0)
            row.values = self._held(value)
            row.state = self.rule.initial_state(self.dim)

    def erase(self, keys: Sequence[int]) -> int:
        return sum(self._remove(key) for key in keys)

    def _remove(self, key: int) -> bool:
        self.pending.pop(key, None)
        if self.rows.pop(key, None) is None:
            return False
        self.updated.discard(key)
        self.removed.add(key)
        return True

    def expire(self, now: int) -> list[int]:
        """Expire with a budget for the whole table."""
        due = [key for key in [*self.rows, *self.pending] if self._due(key, now)]
        return sorted(key for key in due if self._remove(key))

    def expire_keys(self, keys: Sequence[int], now: int) -> int:
        return sum(self._remove(key) for key in keys if self._due(key, now))

    def _due(self, key: int, now: int) -> bool:
        policy = self._policy(key)
        if key in self.rows:
            return self._passed(policy.expire_seconds, self.rows[key].seen, now)
        lapses = policy.pending_seconds or policy.expire_seconds
        return key in self.pending and self._passed(lapses, self.pending[key].seen, now)

    @staticmethod
    def _passed(seconds: int, last: int, now: int) -> bool:
        return seconds > 0 and last + seconds <= now

    def clear(self) -> None:
        for part in (self.rows, self.pending, self.waiting, self.updated, self.removed):
            part.clear()
